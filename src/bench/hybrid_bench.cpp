#include <rankfold/bench/hybrid_bench.hpp>

#include <algorithm>

#include <rankfold/bench/als_bench.hpp>
#include <rankfold/hybrid/entry_samples.hpp>

namespace rankfold {

namespace {

/// Gives the steps after the first the seconds that each has taken, by this rank's `clock`.
template <class Clock>
Steering timing(const Communicator& comm, const Clock& clock, std::vector<double>& seconds) {
    Steering steering;
    steering.after = [&comm, &seconds, clock, before = 0.0](const Progress& progress,
                                                            const TensorList&) mutable {
        const double now = clock();
        if (progress.step > 1) seconds.push_back(comm.all_reduce(now - before, Reduce::max));
        comm.barrier();
        before = clock();
        return Verdict::go_on;
    };
    return steering;
}

template <Real R>
std::vector<double> time_sweeps(const BlockRowCsr<R>& a, AlsOptions options, Index repeats) {
    std::vector<double> seconds;
    options.sweeps = repeats + 1;
    static_cast<void>(
        als(a, options,
            timing(
                a.comm(), [&a] { return sweep_seconds(a.comm().ledger()); }, seconds)));
    return seconds;
}

/// Epochs of h alone, on the values as targets, and its flops of one.
template <Real R>
std::vector<double> time_epochs(const BlockRowCsr<R>& a, const JointOptions& options, Index repeats,
                                double& flops) {
    const Communicator& comm = a.comm();
    Network<R> network(joint_graph(a.rows(), a.cols(), options));
    network.initialize(options.als.seed);
    const Index blocks =
        options.micro_batches > 0 ? options.micro_batches : default_micro_batches(options.batch);
    EntrySamples<R> samples(a, blocks);
    samples.set_targets(a.local().values);
    if (options.als.implicit) samples.set_weights(a.local().values);
    Trainer<R> trainer(network, SamplesRef<R>(samples), Loss::squared,
                       {.epochs = repeats + 1,
                        .batch = options.batch,
                        .optimizer = options.optimizer,
                        .seed = options.als.seed,
                        .threads = options.als.threads});
    std::vector<double> seconds;
    for (Index e = 0; e <= repeats; ++e) {
        comm.barrier();
        const double start = monotonic_seconds();
        static_cast<void>(trainer.epoch(e));
        const double taken = comm.all_reduce(monotonic_seconds() - start, Reduce::max);
        if (e > 0) seconds.push_back(taken);
    }
    flops = network.forward_flops(a.nnz()) + network.backward_flops(a.nnz());
    return seconds;
}

struct Bytes {
    double predicted = 0.0;
    double sent = 0.0;
};

/// Bytes of all ranks in each phase so far, in the order of rank 0's phases. @collective
std::vector<std::pair<std::string, Bytes>> bytes_so_far(const Communicator& comm) {
    std::vector<std::pair<std::string, Bytes>> all;
    const std::vector<PhaseRecord> phases = comm.ledger().phases();
    for (const PhaseRecord& phase : phases) {
        double bytes[] = {phase.bytes_predicted, phase.bytes_sent};
        comm.all_reduce(std::span<double>(bytes), Reduce::sum);
        all.emplace_back(phase.name, Bytes{bytes[0], bytes[1]});
    }
    return all;
}

}  // namespace

template <Real R>
BenchResult bench_hybrid(const Communicator& comm, const SyntheticRatings& matrix,
                         JointOptions options, Index repeats) {
    BlockRowCsr<R> a;
    {
        const auto phase = comm.ledger().phase("generate");
        a = generate_ratings<R>(comm, matrix);
    }
    BenchResult result{.bench = "hybrid",
                       .problem = {{"rows", double(a.rows())},
                                   {"cols", double(a.cols())},
                                   {"nnz", double(a.nnz())},
                                   {"factors", double(options.als.k)},
                                   {"embedding", double(options.embedding)},
                                   {"batch", double(options.batch)},
                                   {"implicit", options.als.implicit ? 1.0 : 0.0},
                                   {"ranks", double(comm.size())},
                                   {"threads", double(options.als.threads)}},
                       .seconds = {},
                       .gemm_gflops = all_ranks_gemm_gflops<R>(comm)};
    BenchResult sweep{.bench = {}, .problem = {}, .seconds = {}};
    BenchResult epoch = sweep;
    double epoch_flops = 0.0;
    {
        // the entries that a round sees: implicit feedback has drawn pairs among them
        const BlockRowCsr<R> seen = options.als.implicit
                                        ? with_zeros(a, options.zeros, options.als.seed)
                                        : BlockRowCsr<R>(comm, a.layout(), CsrMatrix<R>(a.local()));
        sweep.seconds = time_sweeps(a, options.als, repeats);
        epoch.seconds = time_epochs(seen, options, repeats, epoch_flops);
    }
    result.flops = half_sweep_flops(a.nnz(), a.rows(), options.als.k) +
                   half_sweep_flops(a.nnz(), a.cols(), options.als.k) + epoch_flops;

    options.rounds = repeats + 1;
    std::vector<std::pair<std::string, Bytes>> before;  // after the first round
    Steering steering = timing(
        comm, [] { return monotonic_seconds(); }, result.seconds);
    static_cast<void>(fit_joint(a, options, SideFeatures<R>{},
                                {.after = [&](const Progress& progress, const TensorList& state) {
                                    if (progress.step == 1) before = bytes_so_far(comm);
                                    return steering.after(progress, state);
                                }}));
    const auto after = bytes_so_far(comm);
    result.gemm_gflops = std::max(result.gemm_gflops, all_ranks_gemm_gflops<R>(comm));

    const double parts = sweep.median() + epoch.median();
    result.extra = {{"sweep_seconds", sweep.median()},
                    {"epoch_seconds", epoch.median()},
                    {"over_the_parts", result.median() / parts - 1.0}};
    for (std::size_t p = 0; p < after.size(); ++p) {
        const Bytes then = p < before.size() ? before[p].second : Bytes{};
        const double rounds = static_cast<double>(repeats);
        const double sent = (after[p].second.sent - then.sent) / rounds;
        const double predicted = (after[p].second.predicted - then.predicted) / rounds;
        if (sent == 0.0 && predicted == 0.0) continue;
        result.extra.emplace_back(after[p].first + ": bytes", sent);
        result.extra.emplace_back(after[p].first + ": bytes predicted", predicted);
    }
    result.extra.emplace_back(
        "bytes to give all ranks X and Y",
        static_cast<double>((a.rows() + a.cols()) * options.als.k) * sizeof(R) * (comm.size() - 1));
    return result;
}

template BenchResult bench_hybrid<float>(const Communicator&, const SyntheticRatings&, JointOptions,
                                         Index);
template BenchResult bench_hybrid<double>(const Communicator&, const SyntheticRatings&,
                                          JointOptions, Index);

}  // namespace rankfold
