// The kernels of a row solve, compiled for several instruction sets and chosen at run time.
#pragma once

#include <span>
#include <string>

#include <rankfold/linalg/views.hpp>

namespace rankfold {

/// The row stride that the kernels below want for k factors: k rounded up to whole vectors of the
/// widest instruction set, so that one layout serves all.
[[nodiscard]] constexpr Index padded(Index k) noexcept {
    return (k + 15) / 16 * 16;
}

/// Rank-n update of the upper triangle: G ← G + Pᵀ Q, with PᵀQ symmetric (Q = diag(w) P).
///
/// @param[in]     p, q  n x k, ld a multiple of 16 and at least padded(k), columns from k on zero
/// @param[in,out] g     k x k, ld >= padded(k); entries left of the diagonal may be overwritten
/// @cost n k (k+1) flops
template <Real R>
void rank_update_upper(MatrixView<const R> p, MatrixView<const R> q, MatrixView<R> g);

/// Gathers rows of Y for a rank-n update and adds their part of the right-hand side:
///
///     P[e, :] = Y[idx[e], :],   Q[e, :] = w[e] P[e, :],   rhs += Σ_e b[e] Y[idx[e], :]
///
/// @param y    any number of rows x k
/// @param upcoming  rows that will be gathered after these: they are fetched into the cache while
///                  the processor works on this panel; may be empty
/// @param w, b as many as idx; an empty w leaves Q alone
/// @param p, q at least idx.size() rows x k, ld >= padded(k); columns from k on are left alone
template <Real R>
void gather_panel(MatrixView<const R> y, std::span<const ColIndex> idx,
                  std::span<const ColIndex> upcoming, std::span<const R> w, std::span<const R> b,
                  MatrixView<R> p, MatrixView<R> q, std::span<R> rhs);

/// out[e] = x · Y[idx[e], :]
template <Real R>
void gather_dots(MatrixView<const R> y, std::span<const ColIndex> idx, std::span<const R> x,
                 std::span<R> out);

/// Solves A x = b for a symmetric positive definite A by Cholesky, A = Uᵀ U.
///
/// @param[in,out] a  k x k in its upper triangle, ld >= padded(k) + 16; holds U on return. Elements
///                   left of the diagonal and right of column k − 1 are overwritten.
/// @param[in,out] x  b before, x after; k elements
/// @param tiny       a pivot up to tiny times the largest diagonal element counts as zero
/// @return the number of the first pivot that is not positive, else −1
/// @cost k³/3 + 2 k² flops
template <Real R>
[[nodiscard]] Index spd_solve(MatrixView<R> a, std::span<R> x, R tiny);

/// Σ a[i] b[i], in vector lanes. @pre a.size() == b.size()
template <Real R>
[[nodiscard]] R dot(std::span<const R> a, std::span<const R> b);

/// The instruction set that the kernels use on this machine, e.g. "AVX3" or "AVX2".
[[nodiscard]] std::string vector_target();

}  // namespace rankfold
