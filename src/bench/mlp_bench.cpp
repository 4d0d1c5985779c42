#include <rankfold/bench/mlp_bench.hpp>

#include <algorithm>

#include <rankfold/comm/calibrate.hpp>
#include <rankfold/comm/shared_memory.hpp>
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

template <Real R>
TrainOptions train_options(const MlpBenchOptions& options, bool reproducible) {
    return {.epochs = (options.repeats + 1) * options.steps + 3,
            .batch = options.batch,
            .optimizer = {},
            .seed = options.seed,
            .threads = options.threads,
            .owner_updates = options.owner_updates,
            .reproducible = reproducible};
}

/// Seconds of the phases in which a rank waits for others or for MPI.
double exchange_seconds(Ledger& ledger) {
    double seconds = 0.0;
    for (const PhaseRecord& phase : ledger.phases()) {
        if (phase.name == "gradient sum" || phase.name == "gather parameters") {
            seconds += phase.seconds;
        }
    }
    return seconds;
}

/// GB/s of an Adam pass over parameters that no cache holds, on all ranks at once.
template <Real R>
double optimizer_gb_per_s(const Communicator& comm) {
    constexpr Index own = Index{1} << 23;
    Optimizer<R> optimizer({}, {{0, own}});
    AlignedVector<R> gradient(static_cast<std::size_t>(own), R{1});
    AlignedVector<R> weights(static_cast<std::size_t>(own), R{1});
    double best = 0.0;
    for (int repeat = 0; repeat < 10; ++repeat) {
        optimizer.begin_step({.step = repeat, .steps = 10}, 1.0);
        comm.barrier();
        const double start = monotonic_seconds();
        if (!optimizer.update(0, {0, own}, gradient, weights, false)) return 0.0;
        const double bytes = 7.0 * sizeof(R) * static_cast<double>(own);
        best = std::max(best, bytes / (monotonic_seconds() - start));
    }
    return comm.all_reduce(best, Reduce::sum) * 1e-9;
}

/// What the exchanges cost by the model, and its parameters.
template <Real R>
void add_model(const Communicator& comm, Network<R>& network, BenchResult& result) {
    if (comm.size() == 1) return;
    const double p = comm.size();
    const MachineSpeed speed = measure_exchange(comm);
    const double alpha = speed.seconds_per_message * (p - 1.0);  // of an exchange with all others
    const double beta = 1.0 / speed.seconds_per_byte;
    const auto ends = network.arena().bucket_ends(1 << 18);
    const auto last =
        static_cast<double>(ends.back() - (ends.size() > 1 ? ends[ends.size() - 2] : 0));
    const auto all = static_cast<double>(network.arena().summed_size());
    // ranks of one host read in place, if the system gives them shared memory
    const double elsewhere = p - ranks_of_host(comm)->size();
    const double sent = last * elsewhere + all * (p - 1.0);
    const double seconds = 2.0 * alpha + sent * sizeof(R) / p / beta;
    result.extra.emplace_back("alpha_us", alpha * 1e6);
    result.extra.emplace_back("beta_gb_per_s", beta * 1e-9);
    result.extra.emplace_back("modelled_communication", seconds / result.median());
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
    const SamplesRef<R> source(samples);
    Trainer<R> trainer(network, source, Loss::classes,
                       train_options<R>(options, options.reproducible));
    Trainer<R> fast(network, source, Loss::classes, train_options<R>(options, false));
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
    fast.shuffle(0);
    Index epoch = 0;  // an epoch is one step, whose samples are those of epoch 0
    const auto time = [&](Trainer<R>& one) {
        comm.barrier();
        const double start = monotonic_seconds();
        for (Index s = 0; s < options.steps; ++s) one.step(epoch + s, 0);
        return comm.all_reduce(monotonic_seconds() - start, Reduce::max) /
               static_cast<double>(options.steps);
    };
    for (; epoch < 3; ++epoch) trainer.step(epoch, 0);
    fast.step(0, 0);
    BenchResult other = result;
    double exposed = 0.0;
    for (Index r = 0; r < options.repeats; ++r) {
        const double before = exchange_seconds(comm.ledger());
        result.seconds.push_back(time(trainer));
        exposed += exchange_seconds(comm.ledger()) - before;
        if (options.reproducible) other.seconds.push_back(time(fast));
        epoch += options.steps;
    }
    result.gemm_gflops = std::max(result.gemm_gflops, all_ranks_gemm_gflops<R>(comm));
    result.extra.emplace_back("samples_per_second",
                              static_cast<double>(trainer.batch()) / result.median());
    if (options.reproducible) {
        result.extra.emplace_back("fast_gain", result.median() / other.median() - 1.0);
    }
    exposed = comm.all_reduce(exposed, Reduce::min);  // the slowest rank waits least
    const auto steps = static_cast<double>(options.repeats * options.steps);
    result.extra.emplace_back("exposed_communication", exposed / steps / result.median());
    add_model(comm, network, result);
    const double triad = all_ranks_triad_gbytes(comm);
    const double optimizer = optimizer_gb_per_s<R>(comm);
    result.extra.emplace_back("triad_gb_per_s", triad);
    result.extra.emplace_back("optimizer_gb_per_s", optimizer);
    result.extra.emplace_back("optimizer_share_of_triad", optimizer / triad);
    return result;
}

template BenchResult bench_mlp<float>(const Communicator&, const MlpBenchOptions&);
template BenchResult bench_mlp<double>(const Communicator&, const MlpBenchOptions&);

}  // namespace rankfold
