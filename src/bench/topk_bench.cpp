#include <rankfold/bench/topk_bench.hpp>

#include <numeric>

#include <rankfold/core/random.hpp>
#include <rankfold/eval/top_k.hpp>

namespace rankfold {

namespace {

template <Real R>
BlockRows<R> normal_rows(const Communicator& comm, Index rows, Index k, const Philox& random) {
    BlockRows<R> x(comm, ShardLayout::even(rows, shard_count(rows * k), comm.size()), k);
    for (Index i = 0; i < x.local().rows(); ++i) {
        for (Index f = 0; f < k; ++f) {
            x.local()(i, f) = static_cast<R>(random.normal(x.first_row() + i, f));
        }
    }
    return x;
}

}  // namespace

template <Real R>
BenchResult bench_topk(const Communicator& comm, const TopKBenchOptions& o) {
    Factors<R> factors;
    {
        const auto phase = comm.ledger().phase("generate");
        factors.rows = normal_rows<R>(comm, o.rows, o.k, Philox(o.seed, Stream::row_factors));
        factors.cols = normal_rows<R>(comm, o.cols, o.k, Philox(o.seed, Stream::col_factors));
    }
    const FactorScorer<R> scorer(factors);
    const Range mine = scorer.layout().rank_rows(comm.rank());
    std::vector<Index> rows(static_cast<std::size_t>(mine.size()));
    std::iota(rows.begin(), rows.end(), mine.begin);
    BenchResult result{.bench = "topk",
                       .problem = {{"rows", double(o.rows)},
                                   {"cols", double(o.cols)},
                                   {"factors", double(o.k)},
                                   {"top", double(o.top)},
                                   {"ranks", double(comm.size())},
                                   {"threads", double(o.threads)}},
                       .seconds = {},
                       .flops = 2.0 * double(o.rows) * double(o.cols) * double(o.k),
                       .gemm_gflops = all_ranks_gemm_gflops<R>(comm)};
    for (Index repeat = 0; repeat <= o.repeats; ++repeat) {
        comm.barrier();
        const auto phase = comm.ledger().phase("top columns");
        const double start = monotonic_seconds();
        const auto top = top_columns<R>(scorer, nullptr, rows, o.top, comm.rank(), o.threads);
        const double seconds = comm.all_reduce(monotonic_seconds() - start, Reduce::max);
        if (repeat > 0) result.seconds.push_back(seconds);
        comm.ledger().add_flops(2.0 * double(mine.size()) * double(o.cols) * double(o.k));
    }
    result.gemm_gflops = std::max(result.gemm_gflops, all_ranks_gemm_gflops<R>(comm));
    return result;
}

template BenchResult bench_topk<float>(const Communicator&, const TopKBenchOptions&);
template BenchResult bench_topk<double>(const Communicator&, const TopKBenchOptions&);

}  // namespace rankfold
