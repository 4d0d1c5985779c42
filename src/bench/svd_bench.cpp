#include <rankfold/bench/svd_bench.hpp>

#include <cmath>

#include <rankfold/core/random.hpp>
#include <rankfold/dist/synthetic.hpp>

namespace rankfold {

namespace {

/// The matrix of the sparse problem.
template <Real R>
BlockRowCsr<R> uniform_values(const Communicator& comm, const SvdBenchOptions& o) {
    BlockRowCsr<R> a = generate_ratings<R>(
        comm,
        {.rows = o.rows, .cols = o.cols, .nnz = o.nnz, .row_exponent = 0.0, .seed = o.svd.seed});
    const Philox random(o.svd.seed, Stream::synthetic_noise);
    auto& local = a.local();
    for (Index i = 0; i < local.rows(); ++i) {
        for (Index e = local.row_ptr[static_cast<std::size_t>(i)];
             e < local.row_ptr[static_cast<std::size_t>(i) + 1]; ++e) {
            const auto at = static_cast<std::size_t>(e);
            local.values[at] = static_cast<R>(random.uniform(a.first_row() + i, local.col_idx[at]));
        }
    }
    return a;
}

template <Real R>
BlockRows<R> decaying(const Communicator& comm, const SvdBenchOptions& o) {
    SyntheticDense what{.rows = o.rows, .cols = o.cols, .seed = o.svd.seed};
    what.noise = 1e-4 / std::sqrt(static_cast<double>(o.rows));
    const Index values = std::min<Index>({200, o.rows, o.cols});
    for (Index i = 0; i < values; ++i) {
        what.spectrum.push_back(std::pow(static_cast<double>(i + 1), -o.decay));
    }
    return generate_dense<R>(comm, what);
}

struct PhaseTotals {
    double seconds = 0.0;
    double flops = 0.0;
};

PhaseTotals product_totals(Ledger& ledger) {
    PhaseTotals totals;
    for (const auto& phase : ledger.phases()) {
        if (phase.name != "svd product") continue;
        totals.seconds += phase.seconds;
        totals.flops += phase.flops;
    }
    return totals;
}

template <Real R, class Matrix>
void measure(const Matrix& a, const SvdBenchOptions& o, BenchResult& result) {
    const Communicator& comm = a.comm();
    double in_products = 0.0;
    double flops = 0.0;
    Certificate certificate;
    Index steps = 0;
    for (Index repeat = -1; repeat < o.repeats; ++repeat) {
        comm.barrier();
        const PhaseTotals before = product_totals(comm.ledger());
        const double start = monotonic_seconds();
        const SvdResult<R> found = truncated_svd(a, o.svd);
        const double seconds = comm.all_reduce(monotonic_seconds() - start, Reduce::max);
        const PhaseTotals after = product_totals(comm.ledger());
        if (repeat < 0) continue;
        result.seconds.push_back(seconds);
        in_products += comm.all_reduce(after.seconds - before.seconds, Reduce::max);
        flops = comm.all_reduce(after.flops - before.flops, Reduce::sum);
        certificate = found.certificate;
        steps = found.steps;
    }
    const double repeats = static_cast<double>(o.repeats);
    double total = 0.0;
    for (const double s : result.seconds) total += s;
    result.flops = flops;
    result.gemm_gflops = std::max(result.gemm_gflops, all_ranks_gemm_gflops<R>(comm));
    const double rate = flops * repeats / in_products * 1e-9;
    result.extra = {{"residual", certificate.residual()},
                    {"relative_error", certificate.relative_error()},
                    {"steps", static_cast<double>(steps)},
                    {"product_gflops", rate},
                    {"product_share_of_sgemm", rate / result.gemm_gflops},
                    {"share_outside_products", 1.0 - in_products / total}};
}

}  // namespace

template <Real R>
BenchResult bench_svd(const Communicator& comm, const SvdBenchOptions& o) {
    const bool sparse = o.problem == "sparse";
    BenchResult result{.bench = "svd-" + o.problem,
                       .problem = {{"rows", static_cast<double>(o.rows)},
                                   {"cols", static_cast<double>(o.cols)},
                                   {"factors", static_cast<double>(o.svd.k)},
                                   {"tolerance", o.svd.tolerance},
                                   {"ranks", static_cast<double>(comm.size())},
                                   {"threads", static_cast<double>(o.svd.threads)}},
                       .seconds = {},
                       .gemm_gflops = all_ranks_gemm_gflops<R>(comm)};
    if (sparse) {
        BlockRowCsr<R> a;
        {
            const auto phase = comm.ledger().phase("generate");
            a = uniform_values<R>(comm, o);
        }
        result.problem.emplace_back("nnz", static_cast<double>(a.nnz()));
        measure<R>(a, o, result);
    } else {
        const BlockRows<R> a = decaying<R>(comm, o);
        measure<R>(a, o, result);
    }
    return result;
}

template BenchResult bench_svd<float>(const Communicator&, const SvdBenchOptions&);
template BenchResult bench_svd<double>(const Communicator&, const SvdBenchOptions&);

}  // namespace rankfold
