// Cutting a matrix into training, validation and test parts, the same on any number of ranks.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <rankfold/dist/block_rows.hpp>

namespace rankfold {

/// How the entries (or rows) of a matrix are cut.
struct SplitRule {
    double holdout = 0.0;        ///< share that becomes test
    double validation = 0.0;     ///< share of what is left that becomes validation
    bool leave_one_out = false;  ///< instead of `holdout`: one entry a row becomes test
    Index negatives = 0;         ///< columns drawn for each row that are in no part
    std::uint64_t seed = 1;
};

/// The parts of a sparse matrix: rows, columns and layout are those of the whole.
template <Real R>
struct SplitParts {
    BlockRowCsr<R> train;
    BlockRowCsr<R> test;
    std::optional<BlockRowCsr<R>> validation{};
    std::optional<BlockRowCsr<R>> negatives{};  ///< values 1
    Index rows_without_test = 0;
    Index rows_short_of_negatives = 0;  ///< with fewer free columns than negatives: they got all
};

/// Cuts the entries of `a`. Every entry comes into exactly one of train, validation and test.
///
/// Holdout: with u = Philox(seed, split)(row, column) in [0, 1), an entry is test if u < F, and
/// validation if F <= u < F + V (1 − F). Leave-one-out: rows with at least 2 entries give one,
/// drawn by Philox(seed, leave_one_out)(row, 0), to test; with validation > 0 rows with at least 3
/// give another, by counter (row, 1), to validation. Negatives: distinct columns of Philox(seed,
/// negatives)(row, ·) in which the row has no entry.
///
/// @collective over a.comm(); no entry leaves its rank
template <Real R>
[[nodiscard]] SplitParts<R> split_entries(const BlockRowCsr<R>& a, const SplitRule& rule);

/// Which rows of a matrix make a part: the global indices of this rank's, increasing.
struct RowParts {
    std::vector<Index> train;
    std::vector<Index> test;
    std::vector<Index> validation;
};

/// Cuts the rows [mine.begin, mine.end) by the holdout rule, with u = Philox(seed, split)(row, 0).
[[nodiscard]] RowParts split_rows(Range mine, const SplitRule& rule);

/// The chosen rows of `a` as a matrix of their own, in even shards.
/// @param rows  global indices of chosen rows that this rank owns, increasing
/// @collective over a.comm() @throws Error (Fault::input), agreed, if no rank chose any
template <class T>
[[nodiscard]] BlockRows<T> select_rows(const BlockRows<T>& a, std::span<const Index> rows);

}  // namespace rankfold
