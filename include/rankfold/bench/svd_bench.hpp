// The speed of the truncated singular value decomposition.
#pragma once

#include <string>

#include <rankfold/bench/bench_result.hpp>
#include <rankfold/factor/svd.hpp>

namespace rankfold {

struct SvdBenchOptions {
    std::string problem = "sparse";  ///< or "dense"
    Index rows = 138493;
    Index cols = 26744;
    Index nnz = 10000000;  ///< sparse: entries
    double decay = 1.0;    ///< dense: the i-th singular value is i^−decay
    SvdOptions svd;
    Index repeats = 3;
};

/// Times truncated_svd() on a generated matrix that is in memory: the transpose, the iteration and
/// the certificate are all counted; the first run warms up and is not.
///
/// sparse: values uniform in [0, 1), rows of equal length, columns of power-law popularity. dense:
/// U diag(s) Vᵀ with 200 values s_i = i^−decay, plus noise of standard deviation 1e-4 / √rows.
/// Flops are those of the products, 2·nnz·b or 2·m·n·b for b columns. Further figures: the residual
/// reached, the shares of the time in the products and elsewhere, and, for a dense matrix, the
/// products' rate as a share of what gemm gives.
/// @collective over comm
template <Real R>
[[nodiscard]] BenchResult bench_svd(const Communicator& comm, const SvdBenchOptions& options);

}  // namespace rankfold
