#include <rankfold/bench/mlp_bench.hpp>

#include <algorithm>

#include <rankfold/core/random.hpp>
#include <rankfold/nn/row_samples.hpp>
#include <rankfold/nn/trainer.hpp>

namespace rankfold {

namespace {

/// Random rows with random labels.
template <Real R>
RowSamples<R> random_samples(const Communicator& comm, const MlpBenchOptions& options,
                             Index blocks) {
    const Index width = options.layers.front();
    const Index classes = options.layers.back();
    BlockRows<R> rows(comm, ShardLayout::even(options.batch, blocks, comm.size()), width);
    BlockRows<Index> labels(comm, rows.layout(), 1);
    const Philox random(options.seed, Stream::synthetic_entry);
    for (Index i = 0; i < rows.local().rows(); ++i) {
        const Index row = rows.first_row() + i;
        labels.local()(i, 0) = random.below(classes, row, width);
        for (Index j = 0; j < width; ++j) {
            rows.local()(i, j) = static_cast<R>(random.uniform(row, j));
        }
    }
    return RowSamples<R>(rows, 1.0, labels, classes, blocks);
}

}  // namespace

template <Real R>
BenchResult bench_mlp(const Communicator& comm, const MlpBenchOptions& options) {
    const auto& layers = options.layers;
    if (layers.size() < 2) {
        throw input_error("--layers wants the widths from input to output, as 784,1024,1024,10");
    }
    const Index blocks =
        options.micro_batches > 0 ? options.micro_batches : default_micro_batches(options.batch);
    const auto samples = random_samples<R>(comm, options, blocks);
    Network<R> network(dense_chain(layers.front(), {layers.begin() + 1, layers.end() - 1},
                                   layers.back(), Activation::relu, 0.0));
    network.initialize(options.seed);
    Trainer<R> trainer(network, SamplesRef<R>(samples), Loss::classes,
                       {.epochs = (options.repeats + 1) * options.steps,
                        .batch = options.batch,
                        .optimizer = {},
                        .seed = options.seed,
                        .threads = options.threads});
    BenchResult result{
        .bench = "mlp",
        .problem = {},
        .seconds = {},
        .flops = network.forward_flops(trainer.batch()) + network.backward_flops(trainer.batch()),
        .gemm_gflops = all_ranks_gemm_gflops<R>(comm)};
    for (std::size_t l = 0; l < layers.size(); ++l) {
        result.problem.emplace_back(concat("width_", l), static_cast<double>(layers[l]));
    }
    result.problem.insert(result.problem.end(),
                          {{"batch", static_cast<double>(trainer.batch())},
                           {"micro_batches", static_cast<double>(blocks)},
                           {"ranks", static_cast<double>(comm.size())},
                           {"threads", static_cast<double>(options.threads)}});
    trainer.shuffle(0);
    Index epoch = 0;  // an epoch is one step, whose samples are those of epoch 0
    for (; epoch < 3; ++epoch) trainer.step(epoch, 0);
    for (Index r = 0; r < options.repeats; ++r) {
        comm.barrier();
        const double start = monotonic_seconds();
        for (Index s = 0; s < options.steps; ++s) trainer.step(epoch++, 0);
        result.seconds.push_back(comm.all_reduce(monotonic_seconds() - start, Reduce::max) /
                                 static_cast<double>(options.steps));
    }
    result.gemm_gflops = std::max(result.gemm_gflops, all_ranks_gemm_gflops<R>(comm));
    result.extra.emplace_back("samples_per_second",
                              static_cast<double>(trainer.batch()) / result.median());
    return result;
}

template BenchResult bench_mlp<float>(const Communicator&, const MlpBenchOptions&);
template BenchResult bench_mlp<double>(const Communicator&, const MlpBenchOptions&);

}  // namespace rankfold
