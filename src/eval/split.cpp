#include <rankfold/eval/split.hpp>

#include <algorithm>
#include <numeric>

#include <rankfold/core/random.hpp>

namespace rankfold {

namespace {

constexpr double shown_share = 0.8;  // of the entries of a row that is left out of training

EntryPart holdout_part(double u, const SplitRule& rule) {
    if (u < rule.holdout) return EntryPart::test;
    return u < rule.holdout + rule.validation * (1.0 - rule.holdout) ? EntryPart::validation
                                                                     : EntryPart::train;
}

/// The part of every entry of a row.
class EntryRule {
public:
    explicit EntryRule(const SplitRule& rule)
        : rule_{rule},
          split_{rule.seed, Stream::split},
          one_out_{rule.seed, Stream::leave_one_out} {}

    /// @param numbers  of the row's entries, where the rule needs them
    void assign(Index row, std::span<const ColIndex> cols, std::span<const std::int64_t> numbers,
                std::span<EntryPart> parts) const {
        std::ranges::fill(parts, EntryPart::train);
        if (rule_.leave_one_out) {
            leave_one_out(row, parts);
        } else if (rule_.leave_last_out) {
            leave_last_out(cols, numbers, parts);
        } else if (rule_.holdout_rows > 0.0) {
            leave_row_out(row, cols, parts);
        } else {
            for (std::size_t e = 0; e < cols.size(); ++e) {
                parts[e] = rule_.folds > 0 ? fold_part(row, cols[e], numbers[e])
                                           : holdout_part(split_.uniform(row, cols[e]), rule_);
            }
        }
    }

private:
    void leave_one_out(Index row, std::span<EntryPart> parts) const {
        const auto n = std::ssize(parts);
        if (n < 2) return;
        const Index test = one_out_.below(n, row, 0);
        parts[static_cast<std::size_t>(test)] = EntryPart::test;
        if (rule_.validation > 0.0 && n >= 3) {
            const Index other = one_out_.below(n - 1, row, 1);
            parts[static_cast<std::size_t>(other < test ? other : other + 1)] =
                EntryPart::validation;
        }
    }

    void leave_last_out(std::span<const ColIndex> cols, std::span<const std::int64_t> times,
                        std::span<EntryPart> parts) const {
        if (cols.size() < 2) return;
        // columns increase in a row: of equal times the later entry is the greater
        std::size_t last = 0;
        std::size_t next = cols.size();
        for (std::size_t e = 1; e < cols.size(); ++e) {
            if (times[e] >= times[last]) {
                next = last;
                last = e;
            } else if (next == cols.size() || times[e] >= times[next]) {
                next = e;
            }
        }
        parts[last] = EntryPart::test;
        if (rule_.validation > 0.0 && cols.size() >= 3) parts[next] = EntryPart::validation;
    }

    void leave_row_out(Index row, std::span<const ColIndex> cols,
                       std::span<EntryPart> parts) const {
        SplitRule by_row = rule_;
        by_row.holdout = rule_.holdout_rows;
        const EntryPart part = holdout_part(split_.uniform(row, -1), by_row);
        if (part == EntryPart::train) return;
        const bool test = part == EntryPart::test;
        for (std::size_t e = 0; e < cols.size(); ++e) {
            const bool shown = split_.uniform(row, cols[e]) < shown_share;
            parts[e] = test ? (shown ? EntryPart::test_in : EntryPart::test)
                            : (shown ? EntryPart::validation_in : EntryPart::validation);
        }
    }

    EntryPart fold_part(Index row, Index col, std::int64_t number) const {
        if (number == rule_.fold) return EntryPart::test;
        constexpr Index other_draw = Index{1} << 40;  // independent of that of the fold
        return split_.uniform(row, col + other_draw) < rule_.validation ? EntryPart::validation
                                                                        : EntryPart::train;
    }

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

}  // namespace

template <Real R>
std::vector<EntryPart> entry_parts(const BlockRowCsr<R>& a, const SplitRule& rule,
                                   std::span<const std::int64_t> numbers) {
    const CsrView<R> local = a.local().view();
    const bool numbered = rule.leave_last_out || rule.folds > 0;
    RANKFOLD_EXPECT(std::ssize(numbers) == (numbered ? local.nnz() : 0));
    const EntryRule entry_rule(rule);
    std::vector<EntryPart> parts(static_cast<std::size_t>(local.nnz()));
    for (Index i = 0; i < local.rows; ++i) {
        const auto begin = static_cast<std::size_t>(local.row_ptr[i]);
        const auto cols = local.row_cols(i);
        entry_rule.assign(a.first_row() + i, cols,
                          numbered ? numbers.subspan(begin, cols.size()) : numbers,
                          std::span<EntryPart>(parts).subspan(begin, cols.size()));
    }
    return parts;
}

template <Real R>
std::vector<std::int64_t> fold_numbers(const BlockRowCsr<R>& a, Index folds, std::uint64_t seed) {
    const Philox random(seed, Stream::split);
    const CsrView<R> local = a.local().view();
    std::vector<std::int64_t> numbers;
    numbers.reserve(static_cast<std::size_t>(local.nnz()));
    for (Index i = 0; i < local.rows; ++i) {
        for (const ColIndex j : local.row_cols(i)) {
            const double u = random.uniform(a.first_row() + i, j);
            numbers.push_back(static_cast<std::int64_t>(u * static_cast<double>(folds)) + 1);
        }
    }
    return numbers;
}

template <Real R>
BlockRowCsr<R> select_entries(const BlockRowCsr<R>& a, std::span<const EntryPart> parts,
                              EntryPart wanted) {
    const CsrMatrix<R>& local = a.local();
    RANKFOLD_EXPECT(std::ssize(parts) == local.nnz());
    CsrMatrix<R> chosen;
    chosen.cols = local.cols;
    chosen.row_ptr.reserve(local.row_ptr.size());
    for (Index i = 0; i < local.rows(); ++i) {
        const auto row = static_cast<std::size_t>(i);
        for (auto e = static_cast<std::size_t>(local.row_ptr[row]);
             e < static_cast<std::size_t>(local.row_ptr[row + 1]); ++e) {
            if (parts[e] != wanted) continue;
            chosen.col_idx.push_back(local.col_idx[e]);
            chosen.values.push_back(local.values[e]);
        }
        chosen.row_ptr.push_back(chosen.nnz());
    }
    return {a.comm(), a.layout(), std::move(chosen)};
}

namespace {

/// Columns that a row has in no part, with values 1; counts the rows that have too few.
template <Real R>
BlockRowCsr<R> draw_negatives(const BlockRowCsr<R>& a, const SplitRule& rule, Index& short_rows) {
    const NegativeSampler sampler(a.cols(), rule);
    const CsrView<R> local = a.local().view();
    CsrMatrix<R> negatives;
    negatives.cols = a.cols();
    for (Index i = 0; i < local.rows; ++i) {
        const auto drawn = sampler.draw(a.first_row() + i, local.row_cols(i));
        if (std::ssize(drawn) < rule.negatives) ++short_rows;
        negatives.col_idx.insert(negatives.col_idx.end(), drawn.begin(), drawn.end());
        negatives.row_ptr.push_back(negatives.nnz());
    }
    negatives.values.assign(negatives.col_idx.size(), R{1});
    return {a.comm(), a.layout(), std::move(negatives)};
}

}  // namespace

template <Real R>
SplitParts<R> split_entries(const BlockRowCsr<R>& a, const SplitRule& rule,
                            std::span<const std::int64_t> numbers) {
    const Communicator& comm = a.comm();
    const auto phase = comm.ledger().phase("split");
    const auto parts = entry_parts(a, rule, numbers);
    const auto part = [&](EntryPart wanted) { return select_entries<R>(a, parts, wanted); };
    SplitParts<R> result{.train = part(EntryPart::train), .test = part(EntryPart::test)};
    if (rule.validation > 0.0) result.validation = part(EntryPart::validation);
    if (rule.holdout_rows > 0.0) {
        result.test_in = part(EntryPart::test_in);
        if (rule.validation > 0.0) result.validation_in = part(EntryPart::validation_in);
    }
    Index counts[2] = {0, 0};
    for (Index i = 0; i < result.test.local().rows(); ++i) {
        if (result.test.local().view().row_nnz(i) == 0) ++counts[0];
    }
    if (rule.negatives > 0) result.negatives = draw_negatives(a, rule, counts[1]);
    comm.all_reduce(std::span<Index>(counts), Reduce::sum);
    result.rows_without_test = counts[0];
    result.rows_short_of_negatives = counts[1];
    return result;
}

RowParts split_rows(Range mine, const SplitRule& rule) {
    const Philox random(rule.seed, Stream::split);
    RowParts parts;
    for (Index i = mine.begin; i < mine.end; ++i) {
        const EntryPart part = holdout_part(random.uniform(i), rule);
        auto& rows = part == EntryPart::test         ? parts.test
                     : part == EntryPart::validation ? parts.validation
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

#define RANKFOLD_INSTANTIATE(R)                                                                   \
    template std::vector<EntryPart> entry_parts(const BlockRowCsr<R>&, const SplitRule&,          \
                                                std::span<const std::int64_t>);                   \
    template std::vector<std::int64_t> fold_numbers(const BlockRowCsr<R>&, Index, std::uint64_t); \
    template BlockRowCsr<R> select_entries(const BlockRowCsr<R>&, std::span<const EntryPart>,     \
                                           EntryPart);                                            \
    template SplitParts<R> split_entries(const BlockRowCsr<R>&, const SplitRule&,                 \
                                         std::span<const std::int64_t>);                          \
    template BlockRows<R> select_rows(const BlockRows<R>&, std::span<const Index>);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE
template BlockRows<Index> select_rows(const BlockRows<Index>&, std::span<const Index>);

}  // namespace rankfold
