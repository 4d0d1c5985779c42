// Row → shard → rank: the only partition of rows that the program knows.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include <rankfold/core/types.hpp>

namespace rankfold {

/// Cuts rows 0 … m − 1 into contiguous shards, and gives every rank a contiguous run of shards.
///
///     rows    | 0 1 2 | 3 | 4 5 6 7 | | 8 9 |      a shard may be empty
///     shards  |   0   | 1 |    2    |3|  4  |      depend on the data and the job only
///     ranks   |       0       |      1      |      the one place where the rank count enters
///
/// A shard is the unit of work, of random draws and of partial sums, so results do not depend on
/// the number of ranks. A value: equal layouts compare equal; the same on all ranks.
class ShardLayout {
public:
    ShardLayout() = default;

    /// @param row_begin  first row of every shard and, last, m; not decreasing, from 0
    /// @param ranks      rank r gets shards even_part(shards, ranks, r)
    ShardLayout(std::vector<Index> row_begin, int ranks);

    /// `shards` shards with equal counts of rows (±1).
    static ShardLayout even(Index rows, Index shards, int ranks);

    [[nodiscard]] Index rows() const noexcept { return row_begin_.back(); }
    [[nodiscard]] Index shards() const noexcept {
        return static_cast<Index>(row_begin_.size()) - 1;
    }
    [[nodiscard]] int ranks() const noexcept { return ranks_; }

    [[nodiscard]] Range shard_rows(Index shard) const {
        return {row_begin_[static_cast<std::size_t>(shard)],
                row_begin_[static_cast<std::size_t>(shard) + 1]};
    }
    [[nodiscard]] Range rank_shards(int rank) const { return even_part(shards(), ranks_, rank); }
    [[nodiscard]] Range rank_rows(int rank) const;
    /// Rows of every rank, for collectives.
    [[nodiscard]] std::vector<Index> rank_row_counts() const;
    /// The rank that owns row i. @cost O(log shards)
    [[nodiscard]] int owner(Index row) const;

    friend bool operator==(const ShardLayout&, const ShardLayout&) = default;

private:
    std::vector<Index> row_begin_{0};
    int ranks_ = 1;
};

/// How many shards a matrix with this many stored entries gets: max(64, nnz / 65,536).
[[nodiscard]] Index shard_count(Index nnz);

/// The cost that every row adds to its entries when shards are balanced: a row solve and the
/// traffic of a factor row count as much as this many entries.
inline constexpr Index row_cost = 32;

/// Balanced shard boundaries for rows whose cumulative entry counts are known in pieces.
///
/// Shard s begins at the first row i with  nnz_before(i) + row_cost · i  >=  s · total / shards.
/// The caller holds cumulative counts for rows [first, first + prefix.size() − 1) and gets those
/// boundaries that fall among them; an all_reduce of the maxima over the callers gives the whole.
///
/// @param prefix  prefix[t] = entries in rows before first + t; one more element than rows held
/// @param begins  shards + 1 elements; raised to each boundary that is found here
void mark_shard_boundaries(std::span<const Index> prefix, Index first, Index rows, Index nnz,
                           std::span<Index> begins);

}  // namespace rankfold
