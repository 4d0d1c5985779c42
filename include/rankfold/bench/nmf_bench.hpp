// The speed of nonnegative factorization.
#pragma once

#include <rankfold/bench/bench_result.hpp>
#include <rankfold/factor/nmf.hpp>

namespace rankfold {

struct NmfBenchOptions {
    bool sparse = false;
    Index rows = 20000;
    Index cols = 5000;
    Index nnz = 10000000;  ///< sparse only
    Index sweeps = 10;     ///< in one repeat
    Index repeats = 5;
    NmfOptions nmf{.k = 32};
};

/// Times sweeps of nmf() from a random start: everything between two sweeps, with the evaluation of
/// objective and KKT residual. Two sweeps go before the first repeat.
///
/// Flops are those of the two products, 4 nnz k a sweep. Further figures: seconds of a sweep, the
/// share of the updates (and not of products, exchange, Gram matrices) in it, and for a sparse
/// matrix the bytes of the factor rows touched, 2 nnz k words a sweep, over time, held against the
/// bandwidth of a triad on all ranks.
/// @collective over comm
template <Real R>
[[nodiscard]] BenchResult bench_nmf(const Communicator& comm, const NmfBenchOptions& options);

}  // namespace rankfold
