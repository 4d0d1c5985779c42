// Cutting a matrix into training, validation and test parts, the same on any number of ranks.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <rankfold/dist/block_rows.hpp>

namespace rankfold {

/// How the entries (or rows) of a matrix are cut.
struct SplitRule {
    double holdout = 0.0;         ///< share that becomes test
    double validation = 0.0;      ///< share of what is left that becomes validation
    bool leave_one_out = false;   ///< instead of `holdout`: one entry a row becomes test
    bool leave_last_out = false;  ///< the same, but the last one by time
    Index folds = 0;              ///< instead: fold `fold` of so many becomes test
    Index fold = 0;               ///< from 1
    double holdout_rows = 0.0;    ///< instead: share of the rows that are left out of training
    Index negatives = 0;          ///< columns drawn for each row that are in no part
    std::uint64_t seed = 1;
};

/// What becomes of an entry. Of rows that are left out of training, some entries are shown to the
/// model (test_in) and the others are asked for (test).
enum class EntryPart : std::uint8_t { train, test, validation, test_in, validation_in };

/// The part of every local entry of `a`, in the entries' order.
///
/// With u = Philox(seed, split)(row, column) in [0, 1):
/// holdout         test if u < F, validation if F <= u < F + V (1 − F)
/// leave_one_out   rows with at least 2 entries give one, drawn by Philox(seed, leave_one_out)(row,
///                 0), to test; with V > 0 rows with at least 3 give another, by counter (row, 1),
///                 to validation
/// leave_last_out  the greatest (time, column) of rows with at least 2 entries is test; with V > 0
///                 the next one of rows with at least 3 is validation
/// folds           test if the entry's number is `fold`, see fold_numbers; of the others a share V
///                 is validation
/// holdout_rows    a row is left out if Philox(seed, split)(row, −1) < F; 80 % of its entries
///                 (u < 0.8) are test_in and the others test. With V > 0 a share V of the other
///                 rows becomes validation_in and validation in the same way.
///
/// @param numbers  one a local entry: times (leave_last_out) or fold numbers (folds)
template <Real R>
[[nodiscard]] std::vector<EntryPart> entry_parts(const BlockRowCsr<R>& a, const SplitRule& rule,
                                                 std::span<const std::int64_t> numbers = {});

/// ⌊K Philox(seed, split)(row, column)⌋ + 1 for every local entry of `a`.
template <Real R>
[[nodiscard]] std::vector<std::int64_t> fold_numbers(const BlockRowCsr<R>& a, Index folds,
                                                     std::uint64_t seed);

/// The entries of one part, in the rows, columns and layout of `a`. @collective over a.comm()
template <Real R>
[[nodiscard]] BlockRowCsr<R> select_entries(const BlockRowCsr<R>& a,
                                            std::span<const EntryPart> parts, EntryPart wanted);

/// The parts of a sparse matrix: rows, columns and layout are those of the whole.
template <Real R>
struct SplitParts {
    BlockRowCsr<R> train;
    BlockRowCsr<R> test;
    std::optional<BlockRowCsr<R>> validation{};
    std::optional<BlockRowCsr<R>> test_in{};  ///< with holdout_rows
    std::optional<BlockRowCsr<R>> validation_in{};
    std::optional<BlockRowCsr<R>> negatives{};  ///< values 1
    Index rows_without_test = 0;
    Index rows_short_of_negatives = 0;  ///< with fewer free columns than negatives: they got all
};

/// Cuts the entries of `a` as entry_parts says; every entry comes into exactly one part. Negatives:
/// distinct columns of Philox(seed, negatives)(row, ·) in which the row has no entry.
///
/// @param numbers  see entry_parts
/// @collective over a.comm(); no entry leaves its rank
template <Real R>
[[nodiscard]] SplitParts<R> split_entries(const BlockRowCsr<R>& a, const SplitRule& rule,
                                          std::span<const std::int64_t> numbers = {});

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
