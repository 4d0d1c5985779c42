// What a sweep of ALS costs on any number of ranks, from the matrix's structure alone.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <rankfold/core/cost.hpp>
#include <rankfold/core/types.hpp>

namespace rankfold {

/// A factorization as far as its cost is concerned.
struct AlsSize {
    Index rows = 0, cols = 0;
    std::vector<Index> row_counts{};  ///< entries of every row
    std::vector<Index> col_counts{};  ///< of every column
    Index k = 0;                      ///< number of factors, and one more with biases
    std::size_t word = 4;             ///< bytes of a number
    bool heavy = true;                ///< heavy rows may be summed where the factors live

    [[nodiscard]] Index nnz() const;
};

/// What a rank holds while it factorises a sparse matrix.
struct AlsHoldings {
    double row_entries = 0.0;       ///< of the matrix
    double col_entries = 0.0;       ///< of its transpose
    double numbered_entries = 0.0;  ///< of both, whose columns are renumbered
    double factor_rows = 0.0;       ///< own ones of both sides, with all copies
    double received_rows = 0.0;     ///< room for those of other ranks, of both sides
    bool transposing = true;        ///< at some time, all of the transpose is held twice
};

/// Bytes for them, with k columns of numbers of `word` bytes.
[[nodiscard]] MemoryParts als_memory(const AlsHoldings& held, Index k, std::size_t word);

/// What it costs on one number of ranks.
struct AlsCost {
    int ranks = 1;
    Cost sweep;                          ///< of the rank that has most flops; bytes by average
    double bytes = 0.0;                  ///< that all ranks send in a sweep
    MemoryParts memory;                  ///< of the fullest rank at the peak
    std::string row_scheme, col_scheme;  ///< all, needed or reduced
};

/// Calls its argument for every row of the matrix, in order.
using RowWalk = std::function<void(const std::function<void(Index, std::span<const ColIndex>)>&)>;

/// The cost on each of these numbers of ranks. Exact for bytes and flops: the schemes of exchange
/// are counted as SparseSide counts them.
/// @cost one walk over the matrix; memory: some words a row and column, whatever the ranks
[[nodiscard]] std::vector<AlsCost> als_costs(const AlsSize& size, const std::vector<int>& ranks,
                                             const RowWalk& walk);

}  // namespace rankfold
