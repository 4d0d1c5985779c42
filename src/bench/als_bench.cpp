#include <rankfold/bench/als_bench.hpp>

namespace rankfold {

double sweep_seconds(Ledger& ledger) {
    double seconds = 0.0;
    for (const auto& phase : ledger.phases()) {
        if (phase.name.starts_with("als exchange") || phase.name == "als gram" ||
            phase.name == "als partial sums" || phase.name == "als solve") {
            seconds += phase.seconds;
        }
    }
    return seconds;
}

template <Real R>
BenchResult bench_als(const Communicator& comm, const SyntheticRatings& matrix, AlsOptions options,
                      Index repeats) {
    BlockRowCsr<R> a;
    {
        const auto phase = comm.ledger().phase("generate");
        a = generate_ratings<R>(comm, matrix);
    }
    BenchResult result{.bench = "als",
                       .problem = {{"rows", double(a.rows())},
                                   {"cols", double(a.cols())},
                                   {"nnz", double(a.nnz())},
                                   {"factors", double(options.k)},
                                   {"implicit", options.implicit ? 1.0 : 0.0},
                                   {"solver", static_cast<double>(options.solver.solver)},
                                   {"ranks", double(comm.size())},
                                   {"threads", double(options.threads)}},
                       .seconds = {},
                       .flops = half_sweep_flops(a.nnz(), a.rows(), options.k) +
                                half_sweep_flops(a.nnz(), a.cols(), options.k),
                       .gemm_gflops = all_ranks_gemm_gflops<R>(comm)};
    const auto timed = [&](std::vector<double>& seconds) {
        double before = 0.0;
        Steering steering;
        steering.after = [&](const Progress& progress, const TensorList&) {
            const double now = sweep_seconds(comm.ledger());
            if (progress.step > 1) seconds.push_back(comm.all_reduce(now - before, Reduce::max));
            before = now;
            return Verdict::go_on;
        };
        before = sweep_seconds(comm.ledger());
        return als(a, options, steering);
    };
    options.sweeps = repeats + 1;
    const Factors<R> factors = timed(result.seconds);
    BenchResult plain;
    options.reproducible = false;
    static_cast<void>(timed(plain.seconds));
    result.gemm_gflops = std::max(result.gemm_gflops, all_ranks_gemm_gflops<R>(comm));
    result.extra.emplace_back("seconds_not_reproducible", plain.median());
    result.extra.emplace_back("objective", factors.history.rows.back()[1]);
    return result;
}

template BenchResult bench_als<float>(const Communicator&, const SyntheticRatings&, AlsOptions,
                                      Index);
template BenchResult bench_als<double>(const Communicator&, const SyntheticRatings&, AlsOptions,
                                       Index);

}  // namespace rankfold
