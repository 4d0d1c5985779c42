// QR of tall matrices in row blocks.
#pragma once

#include <cstdint>

#include <rankfold/dist/block_rows.hpp>

namespace rankfold {

/// Where columns come from that stand in for those which a matrix of lower rank does not have:
/// normal numbers keyed by row and by the number of the draw.
struct RandomColumns {
    std::uint64_t seed = 1;
    Index next = 0;  ///< number of the next column; raised by each draw
};

/// X = Q R.
struct TallQr {
    DenseMatrix<double> r;    ///< k x k; rows from `rank` on are zero
    Index rank = 0;           ///< columns of Q that come from X
    bool was_nearly = false;  ///< XᵀX was within 0.01 of I: Q is orthonormal to rounding
};

/// One pass of CholeskyQR: replaces X by X R⁻¹ with RᵀR = XᵀX.
///
/// The Gram matrix is made in double from columns scaled to length one. Where its Cholesky
/// factorization breaks down, its eigenvectors take over: directions that are not above rounding
/// are left out, and random columns stand in for them (not yet orthogonal to the others, which the
/// next pass mends); R is then not triangular, and X = Q R still holds.
///
/// @param[in,out] x      m x k with k <= m; Q on return
/// @param         noise  columns of at most this length count as zero
/// @collective over x.comm()
/// @cost 4 m k² flops, half of them in double; 16 k² (p − 1)/p bytes
/// @see Stathopoulos and Wu, SIAM J. Sci. Comput. 23 (2002), for the fall-back
template <Real R>
[[nodiscard]] TallQr qr_pass(BlockRows<R>& x, double noise, RandomColumns& fill, Index threads);

/// X = Q R with Q orthonormal to rounding, always with k columns: passes of CholeskyQR until one
/// meets a nearly orthonormal matrix (two for most, CholeskyQR2).
///
/// @param[in,out] x  m x k with k <= m; Q on return
/// @collective over x.comm()
/// @see Yamamoto, Nakatsukasa, Yanagisawa, Fukaya, ETNA 44 (2015)
template <Real R>
TallQr tall_qr(BlockRows<R>& x, double noise, RandomColumns& fill, Index threads);

}  // namespace rankfold
