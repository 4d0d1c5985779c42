// Many small symmetric positive definite systems, solved together.
#pragma once

#include <span>
#include <vector>

#include <rankfold/linalg/dense.hpp>
#include <rankfold/linalg/row_kernels.hpp>

namespace rankfold {

/// Solves up to capacity() systems A x = b of one size k at once by Cholesky, A = Uᵀ U.
///
/// One factorization of this size is a chain of roots and divisions that leaves a processor idle
/// most of the time. So 16 rows at a time, the diagonal blocks of all systems are brought into the
/// lanes of vectors, factorised and inverted together, T = U_bb⁻¹, and go back; all else is
/// matrix products:
///
///     A[b, b:] ← A[b, b:] − U[:b, b]ᵀ U[:b, b:],     U[b, b+1:] = Tᵀ A[b, b+1:]
///
/// What a system gives does not depend on the others. Storage is made once. One per thread.
///
/// @cost k³/3 + 2 k² flops a system
/// @see Abdelfattah, Haidar, Tomov, Dongarra, "Fast Cholesky factorization on GPUs for batch and
///      native modes", J. Comput. Sci. 2017
template <Real R>
class CholeskyBatch {
public:
    explicit CholeskyBatch(Index k);

    [[nodiscard]] Index k() const noexcept { return k_; }
    /// How many systems fit: what the second-level cache holds, at most 16.
    [[nodiscard]] Index capacity() const noexcept { return capacity_; }

    /// The matrix of system s, k x k in its upper triangle with ld >= padded(k). The caller writes
    /// rows 0 … k − 1 with columns from k on zero; solve() overwrites all of it.
    [[nodiscard]] MatrixView<R> matrix(Index s);
    /// b before solve(), x after it: k elements.
    [[nodiscard]] std::span<R> vector(Index s);

    /// Solves systems 0 … count − 1.
    /// @param tiny  a pivot up to tiny times the largest diagonal element counts as zero
    /// @return a bit for every system whose matrix is not positive definite
    [[nodiscard]] unsigned solve(Index count, R tiny);

private:
    Index k_;
    Index ld_;
    Index capacity_;
    AlignedVector<R> matrices_;
    AlignedVector<R> vectors_;
    AlignedVector<R> lanes_;     // the diagonal blocks of all systems, a system a lane
    AlignedVector<R> inverses_;  // T of every block of every system, row by row
};

extern template class CholeskyBatch<float>;
extern template class CholeskyBatch<double>;

}  // namespace rankfold
