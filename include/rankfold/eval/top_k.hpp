// The best columns of a row: recommendations.
#pragma once

#include <span>
#include <vector>

#include <rankfold/eval/scorer.hpp>

namespace rankfold {

/// The best columns of some of this rank's rows, one line each.
template <Real R>
struct TopColumns {
    std::vector<Index> rows;  ///< global, increasing
    DenseMatrix<Index> cols;  ///< rows x k, best first; −1 where a row has fewer
    DenseMatrix<R> scores;    ///< rows x k
};

/// The k columns of the greatest score for each of the given rows, without those in which the row
/// has an entry in `seen`; of equal scores the lower column comes first, NaN comes last.
///
/// @param seen     in the scorer's row layout, or null
/// @param rows     global rows, increasing, each owned by this rank; other ranks pass theirs
/// @param threads  any number gives the same result
///
/// Scores that are inner products (see ScorerRef::inner_product) are never written down: those
/// above the k-th best so far are picked out of the registers that they were computed in.
/// Does not communicate. @cost the score tiles that hold the rows, or 2 n k flops a row
template <Real R>
[[nodiscard]] TopColumns<R> top_columns(ScorerRef<R> scorer, const BlockRowCsr<R>* seen,
                                        std::span<const Index> rows, Index k, int rank,
                                        Index threads);

}  // namespace rankfold
