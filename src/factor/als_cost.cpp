#include <rankfold/factor/als_cost.hpp>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>
#include <utility>

#include <rankfold/core/subscript.hpp>
#include <rankfold/core/sum_tree.hpp>
#include <rankfold/dist/shards.hpp>
#include <rankfold/factor/row_solver.hpp>

namespace rankfold {

namespace {

ShardLayout layout_of(const std::vector<Index>& counts, int ranks) {
    std::vector<Index> prefix(counts.size() + 1, 0);
    std::inclusive_scan(counts.begin(), counts.end(), prefix.begin() + 1);
    std::vector<Index> begins(at(shard_count(prefix.back())) + 1, 0);
    mark_shard_boundaries(prefix, 0, std::ssize(counts), prefix.back(), begins);
    return {std::move(begins), ranks};
}

/// The number of the shard of every row.
std::vector<std::int32_t> shards_of_rows(const ShardLayout& layout) {
    std::vector<std::int32_t> all(at(layout.rows()));
    for (Index s = 0; s < layout.shards(); ++s) {
        const Range rows = layout.shard_rows(s);
        std::fill(all.begin() + rows.begin, all.begin() + rows.end, static_cast<std::int32_t>(s));
    }
    return all;
}

/// One side's rows over one number of ranks.
struct Cut {
    explicit Cut(ShardLayout rows) : layout{std::move(rows)} {
        for (int r = 0; r < layout.ranks(); ++r) {
            const Range mine = layout.rank_shards(r);
            rank_of.insert(rank_of.end(), at(mine.size()), r);
            nodes.push_back(tree_nodes(layout.shards(), mine));
        }
    }

    ShardLayout layout;
    std::vector<int> rank_of;               // of every shard
    std::vector<std::vector<Range>> nodes;  // of a sum over shards, for every rank
};

/// How many rows of the other side the ranks of one side need.
struct Need {
    explicit Need(int ranks) : rows(at(ranks), 0) {}

    std::vector<Index> rows;  // of every rank
    Index foreign = 0;        // of all ranks together, those that others own
};

/// One side's needs on all numbers of ranks, counted while the matrix is walked.
class SideCount {
public:
    /// @param mine, fixed  cuts of both sides, for each number of ranks
    /// @param nested  whether what is one rank's there is also one rank's for all later numbers
    SideCount(const std::vector<Cut>& mine, const std::vector<Cut>& fixed,
              const std::vector<bool>& nested)
        : mine_{mine}, fixed_{fixed}, nested_{nested}, messages_(mine.size(), 0) {
        for (const Cut& cut : mine) {
            all_.emplace_back(cut.layout.ranks());
            light_.emplace_back(cut.layout.ranks());
        }
    }

    /// Shard `now` needs a row of shard `owner` of the other side; the last shard before it that
    /// needs the same row is `before` (−1: none).
    void see(std::int32_t before, std::int32_t now, std::int32_t owner) {
        see(all_, before, now, owner);
    }
    /// The same, of shards' rows that are not heavy.
    void see_light(std::int32_t before, std::int32_t now, std::int32_t owner) {
        see(light_, before, now, owner);
    }

    /// A heavy row of shard `owner`; `pieces` tells which shards of the other side it has entries
    /// in, from place `first` on.
    void add_heavy(std::int32_t owner, const std::vector<bool>& pieces, Index first) {
        std::vector<Index> before{0};  // so many shards with entries stand before each
        for (Index s = 0; s < fixed_.front().layout.shards(); ++s) {
            before.push_back(before.back() + (pieces[at(first + s)] ? 1 : 0));
        }
        heavy_ = true;
        for (std::size_t c = 0; c < mine_.size(); ++c) {
            const auto own = at(mine_[c].rank_of[at(owner)]);
            for (std::size_t r = 0; r < fixed_[c].nodes.size(); ++r) {
                if (r == own) continue;
                messages_[c] += std::ranges::count_if(fixed_[c].nodes[r], [&](Range node) {
                    return before[at(node.end)] > before[at(node.begin)];
                });
            }
        }
    }

    struct Result {
        std::string scheme = "all";
        double bytes = 0.0;  // of all ranks
        Index buffer = 0;    // rows that the fullest rank receives into
        bool numbered = false;
    };

    /// As SparseSide::choose_exchange chooses, on one of the numbers of ranks.
    [[nodiscard]] Result choose(std::size_t c, Index k, std::size_t word) const {
        const int p = mine_[c].layout.ranks();
        const Index rows = fixed_[c].layout.rows();
        const double row_bytes = static_cast<double>(k) * static_cast<double>(word);
        Result best{.bytes = row_bytes * static_cast<double>(rows * (p - 1)), .buffer = rows};
        if (p == 1) return best;
        const auto consider = [&](const char* name, const Need& need, double more) {
            const double bytes = row_bytes * static_cast<double>(need.foreign) + more;
            if (bytes < best.bytes) best = {name, bytes, std::ranges::max(need.rows), true};
        };
        consider("needed", all_[c], 0.0);
        const auto partial = static_cast<double>(k * (k + 3) / 2) * static_cast<double>(word);
        if (heavy_) consider("reduced", light_[c], partial * static_cast<double>(messages_[c]));
        return best;
    }

private:
    void see(std::vector<Need>& needs, std::int32_t before, std::int32_t now, std::int32_t owner) {
        for (std::size_t c = 0; c < needs.size(); ++c) {
            const auto& rank_of = mine_[c].rank_of;
            const int rank = rank_of[at(now)];
            if (before >= 0 && rank_of[at(before)] == rank) {
                if (nested_[c]) return;
                continue;
            }
            ++needs[c].rows[at(rank)];
            if (fixed_[c].rank_of[at(owner)] != rank) ++needs[c].foreign;
        }
    }

    const std::vector<Cut>& mine_;
    const std::vector<Cut>& fixed_;
    const std::vector<bool>& nested_;
    std::vector<Need> all_, light_;
    std::vector<Index> messages_;  // with partial sums of heavy rows
    bool heavy_ = false;
};

/// Both sides' needs, counted row by row.
class Count {
public:
    Count(const AlsSize& size, const std::vector<Cut>& rows, const std::vector<Cut>& cols,
          const std::vector<bool>& nested)
        : row_shard_{shards_of_rows(rows.front().layout)},
          row_shards_{rows.front().layout.shards()},
          col_shards_{cols.front().layout.shards()},
          row_is_heavy_(at(size.rows)),
          rows_(rows, cols, nested),
          cols_(cols, rows, nested) {
        for (std::size_t i = 0; size.heavy && i < row_is_heavy_.size(); ++i) {
            row_is_heavy_[i] = size.row_counts[i] > 64 * col_shards_;
            heavy_rows_ = heavy_rows_ || row_is_heavy_[i];
        }
        for (const std::int32_t shard : shards_of_rows(cols.front().layout)) {
            const bool heavy = size.heavy && size.col_counts[columns_.size()] > 64 * row_shards_;
            columns_.push_back({.shard = shard, .heavy = heavy ? heavy_cols_++ : -1});
        }
        pieces_.resize(at(Index{heavy_cols_} * row_shards_));
    }

    void visit(Index i, std::span<const ColIndex> given) {
        std::vector<ColIndex> sorted;
        if (!std::ranges::is_sorted(given)) {
            sorted.assign(given.begin(), given.end());
            std::ranges::sort(sorted);
            given = sorted;
        }
        const std::int32_t mine = row_shard_[at(i)];
        const bool heavy = row_is_heavy_[at(i)];
        std::vector<bool> pieces(heavy ? at(col_shards_) : 0);
        std::int32_t before = -1;  // the shard of this row's column before
        std::int32_t before_light = -1;
        for (std::size_t e = 0; e < given.size(); ++e) {
            if (e + ahead < given.size()) __builtin_prefetch(&columns_[at(given[e + ahead])], 1);
            Column& column = columns_[at(given[e])];
            const std::int32_t shard = column.shard;
            if (column.last != mine) rows_.see(std::exchange(column.last, mine), mine, shard);
            if (shard != before) cols_.see(std::exchange(before, shard), shard, mine);
            if (heavy) pieces[at(shard)] = true;
            if (heavy_rows_ && !heavy && column.last_light != mine) {
                rows_.see_light(std::exchange(column.last_light, mine), mine, shard);
            }
            if (heavy_cols_ == 0) continue;
            if (column.heavy >= 0) {
                pieces_[at(Index{column.heavy} * row_shards_ + mine)] = true;
            } else if (shard != before_light) {
                cols_.see_light(std::exchange(before_light, shard), shard, mine);
            }
        }
        if (heavy) rows_.add_heavy(mine, pieces, 0);
    }

    void finish() {
        for (const Column& column : columns_) {
            if (column.heavy < 0) continue;
            cols_.add_heavy(column.shard, pieces_, Index{column.heavy} * row_shards_);
        }
    }

    [[nodiscard]] const SideCount& rows() const { return rows_; }
    [[nodiscard]] const SideCount& cols() const { return cols_; }

private:
    static constexpr std::size_t ahead = 16;  // columns that are fetched from memory meanwhile

    /// What is known of a column, in one line of the cache.
    struct Column {
        std::int32_t shard;
        std::int32_t last = -1;        // shard of rows that had an entry in it
        std::int32_t last_light = -1;  // likewise, of rows that are not heavy
        std::int32_t heavy = -1;       // its number among the heavy ones
    };

    std::vector<std::int32_t> row_shard_;
    std::vector<Column> columns_;
    Index row_shards_, col_shards_;
    std::vector<bool> row_is_heavy_;
    std::vector<bool> pieces_;  // of every heavy column and shard of rows
    bool heavy_rows_ = false;
    std::int32_t heavy_cols_ = 0;
    SideCount rows_, cols_;
};

Index most_entries(const ShardLayout& layout, const std::vector<Index>& counts) {
    Index most = 0;
    for (int r = 0; r < layout.ranks(); ++r) {
        const Range rows = layout.rank_rows(r);
        most = std::max(most, std::accumulate(counts.begin() + rows.begin,
                                              counts.begin() + rows.end, Index{0}));
    }
    return most;
}

Index most_rows(const ShardLayout& layout) {
    return std::ranges::max(layout.rank_row_counts());
}

double most_flops(const ShardLayout& layout, const std::vector<Index>& counts, Index k) {
    double most = 0.0;
    for (int r = 0; r < layout.ranks(); ++r) {
        const Range rows = layout.rank_rows(r);
        const Index nnz =
            std::accumulate(counts.begin() + rows.begin, counts.begin() + rows.end, Index{0});
        most = std::max(most, half_sweep_flops(nnz, rows.size(), k));
    }
    return most;
}

}  // namespace

MemoryParts als_memory(const AlsHoldings& held, Index k, std::size_t word) {
    const auto entry = static_cast<double>(word + sizeof(ColIndex));
    const auto factor_row = static_cast<double>(k) * static_cast<double>(word);
    const double numbers = sizeof(ColIndex) * held.numbered_entries;
    const double buffers = factor_row * held.received_rows;
    const double passing = held.transposing ? entry * held.col_entries : 0.0;
    return {{"matrix", entry * held.row_entries},
            {"transpose", entry * held.col_entries},
            {"column numbers", numbers},
            {"factors", factor_row * held.factor_rows},
            {"received factors", buffers},
            {"exchange of the transpose", std::max(0.0, passing - numbers - buffers)}};
}

Index AlsSize::nnz() const {
    return std::accumulate(row_counts.begin(), row_counts.end(), Index{0});
}

std::vector<AlsCost> als_costs(const AlsSize& size, const std::vector<int>& ranks,
                               const RowWalk& walk) {
    std::vector<std::size_t> order(ranks.size());  // the greatest number of ranks first
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::ranges::sort(order, std::greater<>(), [&](std::size_t i) { return ranks[i]; });
    std::vector<Cut> rows;
    std::vector<Cut> cols;
    std::vector<bool> nested;
    for (auto i = order.begin(); i != order.end(); ++i) {
        rows.emplace_back(layout_of(size.row_counts, ranks[*i]));
        cols.emplace_back(layout_of(size.col_counts, ranks[*i]));
        nested.push_back(std::all_of(
            i, order.end(), [&](std::size_t later) { return ranks[*i] % ranks[later] == 0; }));
    }
    Count count(size, rows, cols, nested);
    walk([&](Index i, std::span<const ColIndex> entries) { count.visit(i, entries); });
    count.finish();
    std::vector<AlsCost> costs(ranks.size());
    for (std::size_t c = 0; c < order.size(); ++c) {
        const ShardLayout& row_layout = rows[c].layout;
        const ShardLayout& col_layout = cols[c].layout;
        const auto row = count.rows().choose(c, size.k, size.word);
        const auto col = count.cols().choose(c, size.k, size.word);
        const double p = row_layout.ranks();
        const auto row_entries = static_cast<double>(most_entries(row_layout, size.row_counts));
        const auto col_entries = static_cast<double>(most_entries(col_layout, size.col_counts));
        AlsCost& cost = costs[order[c]];
        cost.ranks = row_layout.ranks();
        cost.bytes = row.bytes + col.bytes;
        cost.row_scheme = row.scheme;
        cost.col_scheme = col.scheme;
        cost.sweep = {.messages = 2.0 * (p - 1.0),
                      .bytes = cost.bytes / p,
                      .flops = most_flops(row_layout, size.row_counts, size.k) +
                               most_flops(col_layout, size.col_counts, size.k)};
        cost.memory = als_memory(
            {.row_entries = row_entries,
             .col_entries = col_entries,
             .numbered_entries =
                 (row.numbered ? row_entries : 0.0) + (col.numbered ? col_entries : 0.0),
             .factor_rows = static_cast<double>(most_rows(row_layout) + most_rows(col_layout)),
             .received_rows = static_cast<double>(row.buffer + col.buffer)},
            size.k, size.word);
    }
    return costs;
}

}  // namespace rankfold
