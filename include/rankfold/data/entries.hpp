// From single entries in any order to a sparse matrix in balanced row blocks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <rankfold/data/matrix_file.hpp>

namespace rankfold {

/// What becomes of several entries at one place.
enum class Duplicates { error, last, sum, mean };

/// One entry as a source gives it.
struct Entry {
    Index row;
    ColIndex col;
    std::int32_t fold;  ///< 0: none
    double value;
    std::int64_t time;
};

/// A sparse matrix that was put together from entries.
template <Real R>
struct AssembledEntries {
    BlockRowCsr<R> matrix;
    std::vector<std::int64_t> times;  ///< of this rank's entries
    std::vector<std::int64_t> folds;
    Index duplicates = 0;  ///< entries that were merged into another; the same
};

/// Collects entries that the ranks hold in any order.
class EntryCollector {
public:
    /// @param rows,cols  shape of the matrix; the same on all ranks
    EntryCollector(const Communicator& comm, Index rows, Index cols);

    /// Sends entries to the ranks that collect their rows. Their order is that of the calls, then
    /// of the ranks, then of the elements. @collective over comm
    void add(std::vector<Entry> entries);

    /// Sorts, treats duplicates (sums run in double, in the order of the entries) and shares the
    /// rows out in cost-balanced shards.
    /// @param row_names,col_names  for messages; rank 0's copy counts, empty: positions
    /// @collective over comm
    /// @throws Error (Fault::input), agreed: a duplicate under Duplicates::error, no entry at all,
    ///         a value that does not fit R
    template <Real R>
    [[nodiscard]] AssembledEntries<R> finish(Duplicates rule, const Names& row_names,
                                             const Names& col_names);

private:
    void sort();
    Index merge(Duplicates rule);
    void refuse_duplicates(const Names& row_names, const Names& col_names) const;

    const Communicator& comm_;
    ShardLayout layout_;  // even: who collects which rows
    Index cols_;
    std::vector<Entry> entries_;
};

}  // namespace rankfold
