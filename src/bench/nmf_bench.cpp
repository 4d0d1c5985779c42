#include <rankfold/bench/nmf_bench.hpp>

#include <algorithm>

#include <rankfold/dist/synthetic.hpp>

namespace rankfold {

namespace {

double seconds_of(Ledger& ledger, const std::string& name) {
    for (const auto& phase : ledger.phases()) {
        if (phase.name == name) return phase.seconds;
    }
    return 0.0;
}

/// Runs nmf() and calls before_step(step) after every sweep.
template <Real R, class AfterStep>
void run(const Communicator& comm, const NmfBenchOptions& options, const NmfOptions& nmf_options,
         const AfterStep& after_step) {
    Steering steering;
    steering.after = [&](const Progress& progress, const TensorList&) {
        after_step(progress);
        return Verdict::go_on;
    };
    if (options.sparse) {
        const auto a = generate_ratings<R>(comm, {.rows = options.rows,
                                                  .cols = options.cols,
                                                  .nnz = options.nnz,
                                                  .seed = nmf_options.seed});
        static_cast<void>(nmf(a, nmf_options, steering));
    } else {
        const auto a = generate_dense<R>(comm, {.rows = options.rows,
                                                .cols = options.cols,
                                                .uniform = true,
                                                .seed = nmf_options.seed});
        static_cast<void>(nmf(a, nmf_options, steering));
    }
}

}  // namespace

template <Real R>
BenchResult bench_nmf(const Communicator& comm, const NmfBenchOptions& options) {
    constexpr Index warm_up = 2;
    const double nnz = options.sparse ? static_cast<double>(options.nnz)
                                      : static_cast<double>(options.rows * options.cols);
    const auto k = static_cast<double>(options.nmf.k);
    const auto sweeps = static_cast<double>(options.sweeps);
    BenchResult result{.bench = "nmf",
                       .problem = {{"rows", double(options.rows)},
                                   {"cols", double(options.cols)},
                                   {"nnz", nnz},
                                   {"factors", k},
                                   {"sweeps", sweeps},
                                   {"ranks", double(comm.size())},
                                   {"threads", double(options.nmf.threads)}},
                       .seconds = {},
                       .flops = 4.0 * nnz * k * sweeps,
                       .gemm_gflops = all_ranks_gemm_gflops<R>(comm)};
    const double triad = all_ranks_triad_gbytes(comm);
    NmfOptions nmf_options = options.nmf;
    nmf_options.sweeps = warm_up + options.repeats * options.sweeps;
    double before = 0.0;
    double updates_before = 0.0;
    double objective = 0.0;
    std::vector<double> updates;
    run<R>(comm, options, nmf_options, [&](const Progress& progress) {
        objective = progress.values.front().second;
        if (progress.step < warm_up || (progress.step - warm_up) % options.sweeps != 0) return;
        const double now = monotonic_seconds();
        const double updated = seconds_of(comm.ledger(), "nmf update");
        if (progress.step > warm_up) {
            result.seconds.push_back(comm.all_reduce(now - before, Reduce::max));
            updates.push_back(comm.all_reduce(updated - updates_before, Reduce::max));
        }
        before = monotonic_seconds();
        updates_before = updated;
    });
    result.gemm_gflops = std::max(result.gemm_gflops, all_ranks_gemm_gflops<R>(comm));
    std::ranges::sort(updates);
    result.extra = {{"seconds_per_sweep", result.median() / sweeps},
                    {"share_of_updates", updates[updates.size() / 2] / result.median()},
                    {"objective", objective}};
    if (options.sparse) {
        const double rate = 2.0 * nnz * k * sizeof(R) * sweeps / result.median() * 1e-9;
        result.extra.emplace_back("factor_rows_gbytes_per_s", rate);
        result.extra.emplace_back("triad_gbytes_per_s", triad);
        result.extra.emplace_back("share_of_triad", rate / triad);
    }
    return result;
}

template BenchResult bench_nmf<float>(const Communicator&, const NmfBenchOptions&);
template BenchResult bench_nmf<double>(const Communicator&, const NmfBenchOptions&);

}  // namespace rankfold
