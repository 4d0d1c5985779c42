// The kernels of nonnegative updates, compiled for several instruction sets and chosen at run time.
//
// Lanes are rows: every row of a factor is updated by the same operations in the same order,
// whichever rows stand beside it, so a row's bits depend on nothing but itself.
#pragma once

#include <span>

#include <rankfold/linalg/views.hpp>

namespace rankfold {

/// When the repeated passes of hals_rows end for a row.
struct InnerPasses {
    Index most = 1;       ///< passes at most
    double settle = 0.0;  ///< a row is done when its pass moves it at most this times the first
};

/// Coordinate descent for min over w >= 0 of w G wᵀ − 2 w·v, row by row: for f = 0 … k − 1,
///
///     w_f ← max(0, w_f + (v_f − Σ_l G_fl w_l) / G_ff)
///
/// and again, at most passes.most times. A factor with G_ff = 0 stays as it is.
///
/// @param v     rows x k, e.g. A H
/// @param gram  k x k, symmetric, both triangles, e.g. HᵀH
/// @param w     rows x k, not negative
/// @cost 2 k² flops a row and pass
/// @see Cichocki, Phan, IEICE 2009 (HALS); Gillis, Glineur, Neural Computation 2012 (repeated)
template <Real R>
void hals_rows(MatrixView<const R> v, MatrixView<const R> gram, InnerPasses passes,
               MatrixView<R> w);

/// Multiplicative update w_f ← w_f v_f / max(ε, Σ_l G_fl w_l), of all f at once.
/// @see Lee, Seung, NIPS 2001
template <Real R>
void multiplicative_rows(MatrixView<const R> v, MatrixView<const R> gram, MatrixView<R> w);

/// Σ over rows of ‖projected gradient‖², where the gradient is g = W G − V, and counts where
/// w_f > 0, and where it is negative. Rows are added in their order.
template <Real R>
[[nodiscard]] double projected_gradient_square(MatrixView<const R> v, MatrixView<const R> gram,
                                               MatrixView<const R> w);

/// out ← Σ_e v[e] Y[idx[e], :] over the elements of v.
/// @param idx  at least v.size(); rows named from there on are fetched ahead
/// @cost 2 v.size() k flops
template <Real R>
void weighted_row_sum(MatrixView<const R> y, std::span<const ColIndex> idx, std::span<const R> v,
                      R* out);

}  // namespace rankfold
