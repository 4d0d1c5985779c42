// Nonnegative factors of one side when only the stored entries of a sparse matrix are known.
#pragma once

#include <vector>

#include <rankfold/dist/row_exchange.hpp>
#include <rankfold/factor/nmf.hpp>

namespace rankfold {

/// Sums over the rows of one side.
struct GivenSums {
    double error = 0.0;     ///< Σ (a − w·h)² after the pass
    double ridge = 0.0;     ///< Σ λ_i ‖w_i‖² after the pass
    double gradient = 0.0;  ///< ‖projected gradient‖² before it
};

/// Coordinate descent over the factors of every row i of a sparse matrix, the other side fixed:
///
///     w_f ← max(0, w_f + (Σ_j h_jf r_j − λ_i w_f) / (Σ_j h_jf² + λ_i)),  r_j = a_ij − w·h_j
///
/// over its entries j. Rows do not depend on each other, so neither do their bits on the ranks.
template <Real R>
class GivenSide {
public:
    /// The matrix is borrowed. @param fixed layout of the other side's factors
    GivenSide(const BlockRowCsr<R>& a, const ShardLayout& fixed, double lambda, double exponent,
              Index threads);

    /// @param passes  none at all: only the sums are computed
    /// @collective over the matrix's communicator
    GivenSums pass(const BlockRows<R>& fixed, BlockRows<R>& x, InnerPasses passes);

private:
    struct Work {
        AlignedVector<R> panel;  // the fixed rows of the entries, transposed
        AlignedVector<R> rest;   // r
    };
    GivenSums row(Index local, std::span<R> x, InnerPasses passes, Work& work) const;

    const BlockRowCsr<R>& a_;
    double lambda_;
    double exponent_;
    Index threads_;
    RowExchange exchange_;
    DenseMatrix<R> fixed_;
};

}  // namespace rankfold
