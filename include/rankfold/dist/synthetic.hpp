// Made-up matrices of any size, the same bits on any number of ranks.
#pragma once

#include <cstdint>
#include <vector>

#include <rankfold/dist/block_rows.hpp>

namespace rankfold {

/// Ratings 1 to 5 with a low-rank signal and power-law degrees.
struct SyntheticRatings {
    Index rows = 1000;
    Index cols = 1000;
    Index nnz = 50000;          ///< entries, exactly; at most half of rows x cols
    Index factors = 8;          ///< of the signal
    double noise = 0.5;         ///< standard deviation, in stars
    double row_exponent = 0.8;  ///< rows' degrees fall like place^−exponent; 0 … 0.99
    double col_exponent = 0.9;  ///< columns' popularity likewise
    std::uint64_t seed = 1;
};

/// Generates ratings in the cost-balanced layout.
///
///     a_ij = round(3.5 + x_i·y_j / √k + noise · ε_ij), clamped to 1 … 5
///
/// with x, y and ε standard normal. Rows take their degrees from a shuffled power law, and draw
/// distinct columns from a shuffled power law of popularity. Every row is a function of the seed
/// and its index, so each rank makes its own rows; nothing but the layout is communicated.
///
/// @collective over comm; `what` is the same on all ranks
/// @cost some 150 ns an entry; memory besides the result: cols · (factors + 2) words
/// @throws Error (Fault::input) on all ranks: sizes or exponents out of range
template <Real R>
[[nodiscard]] BlockRowCsr<R> generate_ratings(const Communicator& comm,
                                              const SyntheticRatings& what);

/// A dense matrix of given spectrum, or of uniform random numbers.
struct SyntheticDense {
    Index rows = 1000;
    Index cols = 1000;
    bool uniform = false;            ///< elements uniform in [0, 1); the rest does not count
    std::vector<double> spectrum{};  ///< the singular values, at most min(rows, cols)
    double noise = 0.0;              ///< standard deviation of normal noise on every element
    std::uint64_t seed = 1;
};

/// Generates U diag(spectrum) Vᵀ + noise · E in even shards, with U and V orthonormal (the Q
/// factors of random normal matrices), or a matrix of uniform random numbers.
///
/// @collective over comm; `what` is the same on all ranks
/// @cost 2 m n k flops for k singular values, and a normal variate an element if there is noise
/// @throws Error (Fault::input) on all ranks: more singular values than rows or columns, …
template <Real R>
[[nodiscard]] BlockRows<R> generate_dense(const Communicator& comm, const SyntheticDense& what);

}  // namespace rankfold
