// Nonnegative least squares of many rows with one Gram matrix, exactly.
#pragma once

#include <rankfold/linalg/views.hpp>

namespace rankfold {

/// The minimum over w >= 0 of w G wᵀ − 2 w·v, row by row, by block principal pivoting.
///
/// A row's passive set F holds the factors that may be positive: G_FF w_F = v_F is solved, and the
/// factors that turn out negative, or whose gradient w G − v is negative outside F, change sides,
/// all of them as long as their number falls, else one at a time. Rows of equal F share a Cholesky
/// factor of G_FF. All is done in double, so a row's bits depend on nothing but itself and G.
///
/// @param v     rows x k, e.g. A H
/// @param gram  k x k, symmetric, both triangles, e.g. HᵀH; its diagonal is raised by 1e-13 of its
///              greatest element, so that it may be singular
/// @param w     rows x k, not negative: the first passive sets are where it is positive. A row
///              that is not solved after 5 k + 100 exchanges stays as it is
/// @cost |F|³ / 3 flops a passive set, 2 k² flops a row, for every exchange
/// @see Kim, Park, "Fast nonnegative matrix factorization", SIAM J. Sci. Comput. 2011
template <Real R>
void pivoted_rows(MatrixView<const R> v, MatrixView<const R> gram, MatrixView<R> w);

}  // namespace rankfold
