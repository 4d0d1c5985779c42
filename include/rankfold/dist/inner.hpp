// Inner products and combinations of the columns of tall matrices.
#pragma once

#include <optional>
#include <vector>

#include <rankfold/dist/block_rows.hpp>

namespace rankfold {

/// In which precision the products of one shard are made; their sum is always in double.
enum class Accumulate { in_own_precision, in_double };

/// XᵀY for columns `xc` of X against columns `yc` of Y, order-free:
///
///     X[:, xc]ᵀ Y[:, yc] = Σ over shards s of X_sᵀ Y_s
///
/// @pre x and y are in one layout
/// @collective over the communicator of both
/// @cost 2 m a b flops; 16 a b (p − 1)/p bytes for a and b columns
/// @param x_longest  at least the length of X's longest column, if it is known
template <Real R>
[[nodiscard]] DenseMatrix<double> inner(const BlockRows<R>& x, Range xc, const BlockRows<R>& y,
                                        Range yc, Accumulate accumulate, Index threads,
                                        std::optional<double> x_longest = {});

/// All columns of X against all of Y.
template <Real R>
[[nodiscard]] DenseMatrix<double> inner(const BlockRows<R>& x, const BlockRows<R>& y,
                                        Accumulate accumulate, Index threads) {
    return inner(x, {0, x.cols()}, y, {0, y.cols()}, accumulate, threads);
}

/// Y[:, yc] ← Y[:, yc] + alpha X[:, xc] W, one product a shard. Not collective.
/// @param w  xc.size() x yc.size(), rounded to R
template <Real R>
void add_product(R alpha, const BlockRows<R>& x, Range xc, MatrixView<const double> w,
                 BlockRows<R>& y, Range yc, Index threads);

/// X[:, xc] W as a new matrix. Not collective.
template <Real R>
[[nodiscard]] BlockRows<R> times(const BlockRows<R>& x, Range xc, MatrixView<const double> w,
                                 Index threads);

/// X[:, :w.cols] ← X W; what columns are left stay. Not collective.
/// @param w  x.cols() x at most as many, rounded to R
template <Real R>
void times_in_place(BlockRows<R>& x, MatrixView<const double> w, Index threads);

/// x_j · y_j of every pair of columns, in double and order-free. @collective
template <Real R>
[[nodiscard]] std::vector<double> column_dots(const BlockRows<R>& x, const BlockRows<R>& y,
                                              Index threads);

/// ‖x_j‖ of every column, in double. @collective
template <Real R>
[[nodiscard]] std::vector<double> column_norms(const BlockRows<R>& x, Index threads);

/// Σ of all x_ij², in double and order-free. @collective
template <Real R>
[[nodiscard]] double square_norm(const BlockRows<R>& x, Range cols, Index threads);

}  // namespace rankfold
