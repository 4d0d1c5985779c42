// Factorizations of small dense matrices by LAPACK.
#pragma once

#include <rankfold/linalg/views.hpp>

namespace rankfold {

/// A = UᵀU in the upper triangle of a row-major k x k matrix.
///
/// @param tiny a pivot whose square is at most tiny times the largest diagonal element is zero
/// @return the number of a pivot that is not positive, else −1
template <Real R>
[[nodiscard]] Index cholesky_upper(MatrixView<R> a, R tiny);

/// Every row x of X becomes A⁻¹ x for A = UᵀU.
/// @param u  of cholesky_upper, k x k
/// @param x  any number of rows x k, ld == k
template <Real R>
void cholesky_solve_rows(MatrixView<const R> u, MatrixView<R> x);

}  // namespace rankfold
