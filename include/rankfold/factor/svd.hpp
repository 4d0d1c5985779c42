// Truncated singular value decomposition of sparse and dense matrices.
#pragma once

#include <cstdint>

#include <rankfold/dist/factors.hpp>
#include <rankfold/dist/steering.hpp>
#include <rankfold/factor/certificate.hpp>
#include <rankfold/factor/linear_operator.hpp>

namespace rankfold {

struct SvdOptions {
    Index k = 64;             ///< singular triplets, at most min(m, n)
    double tolerance = 1e-5;  ///< of the residuals, relative to the greatest singular value
    Index max_steps = 300;    ///< steps of one block each
    Index block = 0;          ///< columns of a block; 0: as many as the matrix multiplies cheaply
    bool center = false;      ///< PCA: the columns' means are taken away first
    std::uint64_t seed = 1;
    Index threads = 1;  ///< per rank; any number gives the same bits
};

template <Real R>
struct SvdResult {
    Factors<R> factors;       ///< U, V and the singular values; the column means of a PCA
    Certificate certificate;  ///< measured on the result
    Index steps = 0;          ///< block steps; a step multiplies with A and with Aᵀ
    bool converged = false;   ///< the certificate is within the tolerance
};

/// The k greatest singular values of A with their vectors, by randomized block Krylov iteration.
///
/// The basis V of the Krylov space of AᵀA from b random columns (of AAᵀ if m < n) grows by a block
/// a step:  Z = Aᵀ(A Q),  Z ← Z − V(VᵀZ) twice,  Q ← the orthonormal columns of Z. The Rayleigh
/// quotient H = VᵀAᵀAV is kept in double. With its eigenpairs (θ_i, y_i) and Z = QR, step by step,
/// ‖R y_i‖ / √θ_i is the residual of the i-th triplet; when the k greatest are within the tolerance
/// the basis is brought down to k columns, A V = QR, and the SVD of R gives U, the values and V.
/// When the basis is full it is restarted from its best directions. What rounding of AᵀA leaves of
/// the smaller values is mended by subspace iteration with A and Aᵀ in turn, until the certificate
/// is within the tolerance or stands still. The element of largest magnitude of every column of U
/// is positive.
///
/// U is laid out like the rows of A, V like the columns of the operator. After each step
/// `steering` sees the residual as last found; the state is the basis, so a run goes on from a
/// checkpoint to the same bits.
///
/// @collective over a.comm(); `options` are the same on all ranks
/// @cost per step two products with b columns and 8 n d b flops for a basis of d columns
/// @throws Error (Fault::check), agreed: a number is not finite
/// @see Musco and Musco, NeurIPS 2015 (block Krylov); Wu and Simon, SIAM J. Matrix Anal. Appl. 22
///      (2000) (thick restart)
template <Real R>
[[nodiscard]] SvdResult<R> truncated_svd(const OperatorRef<R>& a, const SvdOptions& options,
                                         const Steering& steering);

/// The same for a sparse matrix, of which the transpose is made. V is laid out like rows of Aᵀ.
template <Real R>
[[nodiscard]] SvdResult<R> truncated_svd(const BlockRowCsr<R>& a, const SvdOptions& options,
                                         const Steering& steering = {});

/// The same for a dense matrix. V is laid out like rows of transpose(a).
template <Real R>
[[nodiscard]] SvdResult<R> truncated_svd(const BlockRows<R>& a, const SvdOptions& options,
                                         const Steering& steering = {});

/// Makes the element of largest magnitude of every column of U positive (the first of equal ones)
/// by turning the signs of that column in U and in V. @collective over u.comm()
template <Real R>
void fix_signs(BlockRows<R>& u, BlockRows<R>& v);

/// Rows of factors for rows that were not there: U = (A − 1 μᵀ) V Σ⁻¹, with μ the column means of a
/// PCA (0 without); what belongs to a singular value of 0 is 0. Multiplied with Σ Vᵀ, plus μ, they
/// give the best approximation of the new rows in the space of V.
///
/// @param a  new rows with the columns of the factors
/// @return in the layout of a
/// @collective over a.comm()
template <Real R>
[[nodiscard]] BlockRows<R> project_rows(const BlockRowCsr<R>& a, const Factors<R>& factors,
                                        Index threads);
template <Real R>
[[nodiscard]] BlockRows<R> project_rows(const BlockRows<R>& a, const Factors<R>& factors,
                                        Index threads);

/// The projected rows with the model's columns, singular values, means and method.
/// @param a  BlockRowCsr<R> or BlockRows<R>
template <Real R, class Matrix>
[[nodiscard]] Factors<R> fold_in_svd(const Matrix& a, const Factors<R>& model, Index threads) {
    Factors<R> folded;
    folded.rows = project_rows(a, model, threads);
    folded.cols = model.cols.clone();
    folded.singular_values = model.singular_values;
    if (model.column_mean) folded.column_mean = model.column_mean->clone();
    folded.method = model.method;
    folded.options = model.options;
    return folded;
}

}  // namespace rankfold
