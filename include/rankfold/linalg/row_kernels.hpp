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

/// Rows of a matrix that will be gathered soon: a kernel that has nothing to load while it computes
/// fetches them into the cache. May be empty.
template <Real R>
struct Upcoming {
    MatrixView<const R> y;
    std::span<const ColIndex> rows;
};

/// P[e, :] = Y[idx[e], :], rhs += Pᵀ b, and, unless w is empty, Q = diag(w) P, in one pass.
/// @param p, q  idx.size() x k, ld a multiple of 16 and at least padded(k); columns from k on are
///              left alone
/// @param rhs   k elements or more
template <Real R>
void gather_weighed(MatrixView<const R> y, std::span<const ColIndex> idx, std::span<const R> w,
                    std::span<const R> b, MatrixView<R> p, MatrixView<R> q, std::span<R> rhs);

/// Out[:, e] = s[e] Y[idx[e], :]ᵀ.
/// @param out  k x a multiple of 16 of at least idx.size(); columns from there on become 0
template <Real R>
void gather_columns(MatrixView<const R> y, std::span<const ColIndex> idx, std::span<const R> scale,
                    MatrixView<R> out);

enum class Update { assign, add };

/// Rank-n update of the upper triangle: G ← PᵀQ or G + PᵀQ, with PᵀQ symmetric (Q = diag(w) P).
///
/// @param[in]     p, q  n x k, ld a multiple of 16 and at least padded(k), columns from k on zero
/// @param[in,out] g     k x k, ld >= padded(k); entries left of the diagonal may be overwritten,
/// and
///                      columns from k to padded(k) are those of PᵀQ too
/// @cost n k (k+1) flops
template <Real R>
void rank_update_upper(MatrixView<const R> p, MatrixView<const R> q, MatrixView<R> g, Update update,
                       const Upcoming<R>& upcoming);

/// out += Σ_e (b[e] − w[e] x·Y[idx[e], :]) Y[idx[e], :], one pass over the rows: the gradient of
/// weighted least squares.
/// @param x, out  k elements @cost 4 n k flops
template <Real R>
void add_residuals(MatrixView<const R> y, std::span<const ColIndex> idx, std::span<const R> w,
                   std::span<const R> b, std::span<const R> x, std::span<R> out,
                   const Upcoming<R>& upcoming);

/// out −= A x for a symmetric A with both triangles given, k x k. @cost 2 k² flops
template <Real R>
void subtract_symmetric_product(MatrixView<const R> a, std::span<const R> x, std::span<R> out);

/// out[e] = x · Y[idx[e], :]
template <Real R>
void gather_dots(MatrixView<const R> y, std::span<const ColIndex> idx, std::span<const R> x,
                 std::span<R> out);

/// Σ a[i] b[i], in vector lanes. @pre a.size() == b.size()
template <Real R>
[[nodiscard]] R dot(std::span<const R> a, std::span<const R> b);

/// The instruction set that the kernels use on this machine, e.g. "AVX3" or "AVX2".
[[nodiscard]] std::string vector_target();

}  // namespace rankfold
