#include <rankfold/factor/als_cost.hpp>

#include <algorithm>
#include <numeric>

#include <rankfold/core/sum_tree.hpp>
#include <rankfold/dist/shards.hpp>
#include <rankfold/factor/row_solver.hpp>

namespace rankfold {

namespace {

std::size_t at(Index i) {
    return static_cast<std::size_t>(i);
}

ShardLayout layout_of(const std::vector<Index>& counts, int ranks) {
    std::vector<Index> prefix(counts.size() + 1, 0);
    std::inclusive_scan(counts.begin(), counts.end(), prefix.begin() + 1);
    std::vector<Index> begins(at(shard_count(prefix.back())) + 1, 0);
    mark_shard_boundaries(prefix, 0, std::ssize(counts), prefix.back(), begins);
    return {std::move(begins), ranks};
}

std::vector<int> owners(const ShardLayout& layout) {
    std::vector<int> all(at(layout.rows()));
    for (int r = 0; r < layout.ranks(); ++r) {
        const Range rows = layout.rank_rows(r);
        std::fill(all.begin() + rows.begin, all.begin() + rows.end, r);
    }
    return all;
}

std::vector<Index> shards_of_rows(const ShardLayout& layout) {
    std::vector<Index> all(at(layout.rows()));
    for (Index s = 0; s < layout.shards(); ++s) {
        const Range rows = layout.shard_rows(s);
        std::fill(all.begin() + rows.begin, all.begin() + rows.end, s);
    }
    return all;
}

/// One side: who needs which of the other side's rows.
class SideCount {
public:
    SideCount(const ShardLayout& mine, const ShardLayout& fixed, const std::vector<Index>& counts,
              bool heavy)
        : mine_{mine},
          fixed_{fixed},
          owner_{owners(mine)},
          shard_{shards_of_rows(fixed)},
          heavy_of_(counts.size(), -1),
          needed_(at(mine.ranks() * fixed.rows())),
          light_(needed_.size()) {
        for (std::size_t i = 0; heavy && i < counts.size(); ++i) {
            if (counts[i] > 64 * fixed.shards()) heavy_of_[i] = heavies_++;
        }
        pieces_.resize(at(heavies_ * fixed.shards()));
    }

    void mark(Index i, Index j) {
        const std::size_t place = at(owner_[at(i)] * fixed_.rows() + j);
        needed_[place] = true;
        const Index h = heavy_of_[at(i)];
        if (h < 0) {
            light_[place] = true;
        } else {
            pieces_[at(h * fixed_.shards() + shard_[at(j)])] = true;
        }
    }

    struct Result {
        std::string scheme = "all";
        double bytes = 0.0;  // of all ranks
        Index buffer = 0;    // rows that the fullest rank receives into
        bool numbered = false;
    };

    /// As SparseSide::choose_exchange chooses.
    [[nodiscard]] Result choose(Index k, std::size_t word) const {
        const int p = mine_.ranks();
        const double row_bytes = static_cast<double>(k) * static_cast<double>(word);
        Result best{.bytes = row_bytes * static_cast<double>(fixed_.rows() * (p - 1)),
                    .buffer = fixed_.rows()};
        if (p == 1) return best;
        const auto consider = [&](const char* name, const std::vector<bool>& wanted, double more) {
            Index foreign = 0;
            Index fullest = 0;
            for (int q = 0; q < p; ++q) {
                const Range own = fixed_.rank_rows(q);
                Index count = 0;
                for (Index j = 0; j < fixed_.rows(); ++j) {
                    if (!wanted[at(q * fixed_.rows() + j)]) continue;
                    ++count;
                    if (!own.contains(j)) ++foreign;
                }
                fullest = std::max(fullest, count);
            }
            const double bytes = row_bytes * static_cast<double>(foreign) + more;
            if (bytes < best.bytes) best = {name, bytes, fullest, true};
        };
        consider("needed", needed_, 0.0);
        if (heavies_ > 0) consider("reduced", light_, partial_bytes(k, word));
        return best;
    }

private:
    /// What the partial sums of heavy rows need.
    [[nodiscard]] double partial_bytes(Index k, std::size_t word) const {
        std::vector<std::vector<Range>> nodes;
        for (int r = 0; r < fixed_.ranks(); ++r) {
            nodes.push_back(tree_nodes(fixed_.shards(), fixed_.rank_shards(r)));
        }
        Index messages = 0;
        for (std::size_t i = 0; i < heavy_of_.size(); ++i) {
            if (heavy_of_[i] < 0) continue;
            const auto first = pieces_.begin() + heavy_of_[i] * fixed_.shards();
            for (int r = 0; r < fixed_.ranks(); ++r) {
                if (r == owner_[i]) continue;
                messages += std::ranges::count_if(nodes[at(r)], [&](Range node) {
                    return std::find(first + node.begin, first + node.end, true) !=
                           first + node.end;
                });
            }
        }
        return static_cast<double>(messages * (k * (k + 3) / 2)) * static_cast<double>(word);
    }

    ShardLayout mine_, fixed_;
    std::vector<int> owner_;
    std::vector<Index> shard_;
    std::vector<Index> heavy_of_;  // its number, or −1
    Index heavies_ = 0;
    std::vector<bool> needed_, light_, pieces_;
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
    struct Sides {
        ShardLayout row_layout, col_layout;
        SideCount rows, cols;
    };
    std::vector<Sides> all;
    for (const int p : ranks) {
        const ShardLayout rows = layout_of(size.row_counts, p);
        const ShardLayout cols = layout_of(size.col_counts, p);
        all.push_back({rows, cols, SideCount(rows, cols, size.row_counts, size.heavy),
                       SideCount(cols, rows, size.col_counts, size.heavy)});
    }
    walk([&](Index i, std::span<const ColIndex> cols) {
        for (Sides& sides : all) {
            for (const ColIndex j : cols) {
                sides.rows.mark(i, j);
                sides.cols.mark(j, i);
            }
        }
    });
    std::vector<AlsCost> costs;
    for (const Sides& s : all) {
        const auto row = s.rows.choose(size.k, size.word);
        const auto col = s.cols.choose(size.k, size.word);
        const double p = s.row_layout.ranks();
        const auto row_entries = static_cast<double>(most_entries(s.row_layout, size.row_counts));
        const auto col_entries = static_cast<double>(most_entries(s.col_layout, size.col_counts));
        AlsCost cost;
        cost.ranks = s.row_layout.ranks();
        cost.bytes = row.bytes + col.bytes;
        cost.row_scheme = row.scheme;
        cost.col_scheme = col.scheme;
        cost.sweep = {.messages = 2.0 * (p - 1.0),
                      .bytes = cost.bytes / p,
                      .flops = most_flops(s.row_layout, size.row_counts, size.k) +
                               most_flops(s.col_layout, size.col_counts, size.k)};
        cost.memory = als_memory(
            {.row_entries = row_entries,
             .col_entries = col_entries,
             .numbered_entries =
                 (row.numbered ? row_entries : 0.0) + (col.numbered ? col_entries : 0.0),
             .factor_rows = static_cast<double>(most_rows(s.row_layout) + most_rows(s.col_layout)),
             .received_rows = static_cast<double>(row.buffer + col.buffer)},
            size.k, size.word);
        costs.push_back(std::move(cost));
    }
    return costs;
}

}  // namespace rankfold
