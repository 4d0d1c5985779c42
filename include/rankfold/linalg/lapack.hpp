// Factorizations of small dense matrices by LAPACK.
#pragma once

#include <vector>

#include <rankfold/linalg/dense.hpp>

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

/// A = U diag(s) Vᵀ with s decreasing; r = min(m, n).
struct SmallSvd {
    DenseMatrix<double> u;   ///< m x r
    std::vector<double> s;   ///< r
    DenseMatrix<double> vt;  ///< r x n
};

/// The singular value decomposition of a matrix that this rank holds whole, by divide and conquer.
/// The element of largest magnitude of every left vector is positive.
/// @throws Error (Fault::check): it did not converge (a number is not finite)
[[nodiscard]] SmallSvd small_svd(MatrixView<const double> a);

/// A = Q diag(λ) Qᵀ of a symmetric n x n matrix, λ decreasing.
struct SymmetricEigen {
    std::vector<double> values;     ///< n
    DenseMatrix<double> vectors{};  ///< n x n; column i belongs to values[i]
};

/// The eigenvalues and vectors of a symmetric matrix that this rank holds whole, by divide and
/// conquer. Only the upper triangle is read.
/// @throws Error (Fault::check): it did not converge (a number is not finite)
[[nodiscard]] SymmetricEigen symmetric_eigen(MatrixView<const double> a);

/// B = U diag(s) Vᵀ of a bidiagonal r x r matrix.
struct BidiagonalSvd {
    std::vector<double> s;               ///< r, decreasing
    DenseMatrix<double> u_transposed{};  ///< r x r: row i is the i-th left vector
    DenseMatrix<double> v_transposed{};  ///< r x r: row i is the i-th right vector
};

/// The singular value decomposition of a bidiagonal matrix, by divide and conquer.
///
/// @param upper     whether the second diagonal is above the first, else below
/// @param diagonal  r; overwritten
/// @param other     r − 1; overwritten
/// @param vectors   else only the values
/// @pre r is small enough for 3 r² + 4 r words to fit int32 if there are vectors
/// @throws Error (Fault::check): it did not converge
[[nodiscard]] BidiagonalSvd bidiagonal_svd(bool upper, std::span<double> diagonal,
                                           std::span<double> other, bool vectors);

/// x ← H_1 H_2 … H_w x for every row x of X, with the reflectors H_t = I − τ_t v_t v_tᵀ that
/// LAPACK's and ScaLAPACK's factorizations leave: I − Vᵀ T V with a triangular T that comes from
/// V Vᵀ, so that nearly all is done by GEMMs.
///
/// @param v    w x n with w <= n: row t is v_t, whose element t counts as 1, those before it as 0
/// @param tau  w
/// @param x    any number of rows x n
/// @cost 4 n w flops a row
/// @see Puglisi, SIAM J. Sci. Stat. Comput. 13 (1992), for T
template <Real R>
void apply_reflectors(MatrixView<const R> v, std::span<const R> tau, MatrixView<R> x);

/// The inverse of an upper triangular matrix, in place. @pre no diagonal element is zero
void invert_upper(MatrixView<double> u);

}  // namespace rankfold
