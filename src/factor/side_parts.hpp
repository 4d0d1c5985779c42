// What sparse and dense sides share.
#pragma once

#include <omp.h>

#include <rankfold/factor/half_sweep.hpp>
#include <rankfold/linalg/blas.hpp>

namespace rankfold {

/// Throws on all ranks if any rank has a row that could not be solved; the least is named.
/// @collective
inline void check_rows(const Communicator& comm, Index first_bad, const char* axis) {
    const Index row = comm.all_reduce(first_bad, Reduce::min);
    if (row == RowSolver<double>::none) return;
    throw NotPositiveDefinite(axis, row);
}

/// Runs body(shard) for these shards on `threads` threads. @pre body does not throw
template <class Body>
void for_each_shard(Range shards, Index threads, const Body& body) {
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(threads))
    for (Index s = shards.begin; s < shards.end; ++s) body(s);
}

/// AᵀA of a factor matrix by one product a rank and MPI's sum: its bits depend on the ranks.
template <Real R>
DenseMatrix<double> plain_gram(const BlockRows<R>& y) {
    DenseMatrix<R> part(y.cols(), y.cols());
    if (y.local().rows() > 0) gram_upper<R>(R{1}, y.local().view(), R{0}, part.view());
    DenseMatrix<double> result(y.cols(), y.cols());
    std::ranges::copy(part.data(), result.data().begin());
    y.comm().all_reduce(result.data(), Reduce::sum);
    return result;
}

/// alpha AᵀA of a factor matrix, both triangles, rounded to its own precision.
template <Real R>
DenseMatrix<R> scaled_gram(const BlockRows<R>& y, double alpha, bool reproducible = true) {
    const DenseMatrix<double> sum = reproducible ? gram(y) : plain_gram(y);
    DenseMatrix<R> result(y.cols(), y.cols());
    for (Index i = 0; i < y.cols(); ++i) {
        for (Index j = i; j < y.cols(); ++j) {
            result(i, j) = result(j, i) = static_cast<R>(alpha * sum(i, j));
        }
    }
    return result;
}

template <Real R>
double square_norm(std::span<const R> x) {
    double square = 0.0;
    for (const R f : x) square += static_cast<double>(f) * static_cast<double>(f);
    return square;
}

}  // namespace rankfold
