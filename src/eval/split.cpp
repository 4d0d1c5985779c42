#include <rankfold/eval/split.hpp>

#include <algorithm>
#include <numeric>

#include <rankfold/core/random.hpp>

namespace rankfold {

namespace {

enum class Part : std::uint8_t { train, test, validation };

Part holdout_part(double u, const SplitRule& rule) {
    if (u < rule.holdout) return Part::test;
    return u < rule.holdout + rule.validation * (1.0 - rule.holdout) ? Part::validation
                                                                     : Part::train;
}

/// The part of every entry of a row.
class EntryRule {
public:
    explicit EntryRule(const SplitRule& rule)
        : rule_{rule},
          split_{rule.seed, Stream::split},
          one_out_{rule.seed, Stream::leave_one_out} {}

    void assign(Index row, std::span<const ColIndex> cols, std::vector<Part>& parts) const {
        parts.assign(cols.size(), Part::train);
        const auto n = static_cast<Index>(cols.size());
        if (!rule_.leave_one_out) {
            for (std::size_t e = 0; e < cols.size(); ++e) {
                parts[e] = holdout_part(split_.uniform(row, cols[e]), rule_);
            }
            return;
        }
        if (n < 2) return;
        const Index test = one_out_.below(n, row, 0);
        parts[static_cast<std::size_t>(test)] = Part::test;
        if (rule_.validation > 0.0 && n >= 3) {
            const Index other = one_out_.below(n - 1, row, 1);
            parts[static_cast<std::size_t>(other < test ? other : other + 1)] = Part::validation;
        }
    }

private:
    SplitRule rule_;
    Philox split_;
    Philox one_out_;
};

/// Draws columns in which a row has no entry.
class NegativeSampler {
public:
    NegativeSampler(Index cols, const SplitRule& rule)
        : cols_{cols}, wanted_{rule.negatives}, random_{rule.seed, Stream::negatives} {}

    /// Distinct columns outside `taken` (increasing), increasing; all there are if too few.
    std::vector<ColIndex> draw(Index row, std::span<const ColIndex> taken) const {
        const Index used = static_cast<Index>(taken.size());
        const Index count = std::min(wanted_, cols_ - used);
        // few free columns: choose from the list of them; else try until enough are found
        std::vector<ColIndex> drawn =
            2 * (used + count) > cols_ ? from_list(row, taken, count) : by_trial(row, taken, count);
        std::ranges::sort(drawn);
        return drawn;
    }

private:
    std::vector<ColIndex> from_list(Index row, std::span<const ColIndex> taken, Index count) const {
        std::vector<ColIndex> list;
        auto next = taken.begin();
        for (Index j = 0; j < cols_; ++j) {
            if (next != taken.end() && *next == j) {
                ++next;
            } else {
                list.push_back(static_cast<ColIndex>(j));
            }
        }
        for (Index t = 0; t < count; ++t) {
            const Index other = t + random_.below(std::ssize(list) - t, row, t);
            std::swap(list[static_cast<std::size_t>(t)], list[static_cast<std::size_t>(other)]);
        }
        list.resize(static_cast<std::size_t>(count));
        return list;
    }

    std::vector<ColIndex> by_trial(Index row, std::span<const ColIndex> taken, Index count) const {
        std::vector<ColIndex> drawn;  // increasing
        for (Index t = 0; std::ssize(drawn) < count; ++t) {
            const auto j = static_cast<ColIndex>(random_.below(cols_, row, t));
            if (std::ranges::binary_search(taken, j)) continue;
            const auto at = std::ranges::lower_bound(drawn, j);
            if (at == drawn.end() || *at != j) drawn.insert(at, j);
        }
        return drawn;
    }

    Index cols_;
    Index wanted_;
    Philox random_;
};

template <Real R>
CsrMatrix<R> empty_part(const BlockRowCsr<R>& a) {
    CsrMatrix<R> part;
    part.cols = a.cols();
    part.row_ptr.reserve(a.local().row_ptr.size());
    return part;
}

}  // namespace

template <Real R>
SplitParts<R> split_entries(const BlockRowCsr<R>& a, const SplitRule& rule) {
    const Communicator& comm = a.comm();
    const auto phase = comm.ledger().phase("split");
    const EntryRule entry_rule(rule);
    const NegativeSampler sampler(a.cols(), rule);
    const CsrView<R> local = a.local().view();
    CsrMatrix<R> parts[3] = {empty_part(a), empty_part(a), empty_part(a)};
    CsrMatrix<R> negatives = empty_part(a);
    std::vector<Part> of_entry;
    Index counts[2] = {0, 0};
    for (Index i = 0; i < local.rows; ++i) {
        const Index row = a.first_row() + i;
        const auto cols = local.row_cols(i);
        entry_rule.assign(row, cols, of_entry);
        for (std::size_t e = 0; e < cols.size(); ++e) {
            auto& part = parts[static_cast<std::size_t>(of_entry[e])];
            part.col_idx.push_back(cols[e]);
            part.values.push_back(local.row_values(i)[e]);
        }
        for (auto& part : parts) part.row_ptr.push_back(part.nnz());
        if (std::ranges::find(of_entry, Part::test) == of_entry.end()) ++counts[0];
        if (rule.negatives > 0) {
            const auto drawn = sampler.draw(row, cols);
            if (std::ssize(drawn) < rule.negatives) ++counts[1];
            negatives.col_idx.insert(negatives.col_idx.end(), drawn.begin(), drawn.end());
            negatives.row_ptr.push_back(negatives.nnz());
        }
    }
    comm.all_reduce(std::span<Index>(counts), Reduce::sum);
    const auto distributed = [&](CsrMatrix<R>& part) {
        return BlockRowCsr<R>(comm, a.layout(), std::move(part));
    };
    SplitParts<R> result{.train = distributed(parts[0]),
                         .test = distributed(parts[1]),
                         .rows_without_test = counts[0],
                         .rows_short_of_negatives = counts[1]};
    if (rule.validation > 0.0) result.validation = distributed(parts[2]);
    if (rule.negatives > 0) {
        negatives.values.assign(negatives.col_idx.size(), R{1});
        result.negatives = distributed(negatives);
    }
    return result;
}

RowParts split_rows(Range mine, const SplitRule& rule) {
    const Philox random(rule.seed, Stream::split);
    RowParts parts;
    for (Index i = mine.begin; i < mine.end; ++i) {
        const Part part = holdout_part(random.uniform(i), rule);
        auto& rows = part == Part::test         ? parts.test
                     : part == Part::validation ? parts.validation
                                                : parts.train;
        rows.push_back(i);
    }
    return parts;
}

template <class T>
BlockRows<T> select_rows(const BlockRows<T>& a, std::span<const Index> rows) {
    const Communicator& comm = a.comm();
    // first in the shards of `a`, which holds the chosen rows where they are
    std::vector<Index> begins(static_cast<std::size_t>(a.layout().shards()) + 1, 0);
    for (Index s = a.shards().begin; s < a.shards().end; ++s) {
        const Range shard = a.layout().shard_rows(s);
        begins[static_cast<std::size_t>(s) + 1] =
            std::ranges::lower_bound(rows, shard.end) - std::ranges::lower_bound(rows, shard.begin);
    }
    comm.all_reduce(std::span<Index>(begins), Reduce::sum);
    std::partial_sum(begins.begin(), begins.end(), begins.begin());
    const Index count = begins.back();
    if (count == 0) throw Error(Fault::input, "a part of the split has no rows", true);
    BlockRows<T> chosen(comm, ShardLayout(std::move(begins), comm.size()), a.cols());
    for (std::size_t t = 0; t < rows.size(); ++t) {
        std::ranges::copy(a.local().row(rows[t] - a.first_row()),
                          chosen.local().row(static_cast<Index>(t)).begin());
    }
    return redistribute(chosen,
                        ShardLayout::even(count, shard_count(count * a.cols()), comm.size()));
}

#define RANKFOLD_INSTANTIATE(R)                                                    \
    template SplitParts<R> split_entries(const BlockRowCsr<R>&, const SplitRule&); \
    template BlockRows<R> select_rows(const BlockRows<R>&, std::span<const Index>);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE
template BlockRows<Index> select_rows(const BlockRows<Index>&, std::span<const Index>);

}  // namespace rankfold
