#include <rankfold/dist/shards.hpp>

#include <algorithm>

namespace rankfold {

ShardLayout::ShardLayout(std::vector<Index> row_begin, int ranks)
    : row_begin_{std::move(row_begin)}, ranks_{ranks} {
    RANKFOLD_EXPECT(row_begin_.size() >= 2 && row_begin_.front() == 0 && ranks_ > 0);
    RANKFOLD_EXPECT(std::ranges::is_sorted(row_begin_));
}

ShardLayout ShardLayout::even(Index rows, Index shards, int ranks) {
    std::vector<Index> begins;
    for (Index s = 0; s < shards; ++s) begins.push_back(even_part(rows, shards, s).begin);
    begins.push_back(rows);
    return {std::move(begins), ranks};
}

Range ShardLayout::rank_rows(int rank) const {
    const Range mine = rank_shards(rank);
    return {row_begin_[static_cast<std::size_t>(mine.begin)],
            row_begin_[static_cast<std::size_t>(mine.end)]};
}

std::vector<Index> ShardLayout::rank_row_counts() const {
    std::vector<Index> counts;
    for (int r = 0; r < ranks_; ++r) counts.push_back(rank_rows(r).size());
    return counts;
}

int ShardLayout::owner(Index row) const {
    RANKFOLD_EXPECT(row >= 0 && row < rows());
    // the last shard that begins at or before the row and is not empty holds it
    const auto next = std::ranges::upper_bound(row_begin_, row);
    const Index shard = static_cast<Index>(next - row_begin_.begin()) - 1;
    auto rank = static_cast<int>(static_cast<WideIndex>(shard) * ranks_ / shards());
    while (!rank_shards(rank).contains(shard)) ++rank;
    return rank;
}

Index shard_count(Index nnz) {
    return std::max<Index>(64, nnz / 65536);
}

void mark_shard_boundaries(std::span<const Index> prefix, Index first, Index rows, Index nnz,
                           std::span<Index> begins) {
    const Index shards = static_cast<Index>(begins.size()) - 1;
    const Index held = static_cast<Index>(prefix.size()) - 1;
    const Index total = nnz + row_cost * rows;
    const auto cost_before = [&](Index t) {
        return prefix[static_cast<std::size_t>(t)] + row_cost * (first + t);
    };
    Index t = 0;
    for (Index s = 1; s < shards; ++s) {
        const Index wanted = even_part(total, shards, s).begin;
        if (cost_before(0) >= wanted) continue;  // earlier, with another caller
        if (cost_before(held) < wanted) break;   // further on, with another caller
        while (t < held && cost_before(t) < wanted) ++t;
        auto& begin = begins[static_cast<std::size_t>(s)];
        begin = std::max(begin, first + t);
    }
    begins[static_cast<std::size_t>(shards)] = rows;
}

}  // namespace rankfold
