// Factors as what networks read.
#pragma once

#include <span>

#include <rankfold/dist/factors.hpp>

namespace rankfold {

/// What stands for row i: [s ∘ x_i, row_bias_i], the bias where there is one. m x (k or k + 1)
/// @collective over the factors' communicator
template <Real R>
[[nodiscard]] BlockRows<R> row_features(const Factors<R>& factors);

/// What stands for column j: [y_j, col_bias_j + column_mean_j], the last where one of them stands.
/// @collective over the factors' communicator
template <Real R>
[[nodiscard]] BlockRows<R> col_features(const Factors<R>& factors);

/// Two matrices whose product is the whole score: score(i, j) = rows_i · cols_j.
///
/// rows_i = [s ∘ x_i, row_bias_i, 1], cols_j = [y_j, 1, global_mean + col_bias_j + column_mean_j],
/// each extra pair where it is not zero.
template <Real R>
struct ScoreProduct {
    BlockRows<R> rows;  ///< m x r, r = k … k + 2
    BlockRows<R> cols;  ///< n x r
};

/// @collective over the factors' communicator
template <Real R>
[[nodiscard]] ScoreProduct<R> score_product(const Factors<R>& factors);

/// The power of two that brings the root mean square of all elements nearest to 1; 1 if all are 0.
///
/// Multiplying by it is exact, and it does not follow the last bits of the sums behind it, so it is
/// the same whatever layout the factors come in. @collective
template <Real R>
[[nodiscard]] double unit_scale(const BlockRows<R>& a);

/// The same for the elements of the product A Bᵀ, by the Gram matrices of A and B. @collective
template <Real R>
[[nodiscard]] double unit_scale(const ScoreProduct<R>& product);

/// The given rows of `a`, in a layout of their own.
/// @param rows  for every row of `layout` that this rank owns: the row of `a`
/// @collective over a.comm()
template <Real R>
[[nodiscard]] BlockRows<R> take_rows(const BlockRows<R>& a, const ShardLayout& layout,
                                     std::span<const Index> rows);

}  // namespace rankfold
