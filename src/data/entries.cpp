#include <rankfold/data/entries.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>

#include <rankfold/data/names.hpp>

namespace rankfold {

namespace {

std::size_t at(Index i) {
    return static_cast<std::size_t>(i);
}

bool same_place(const Entry& a, const Entry& b) {
    return a.row == b.row && a.col == b.col;
}

std::string name_of(const Names& names, Index i) {
    return count_of(names) > i ? name_text(names, i) : std::to_string(i);
}

}  // namespace

EntryCollector::EntryCollector(const Communicator& comm, Index rows, Index cols)
    : comm_{comm}, layout_{ShardLayout::even(rows, comm.size(), comm.size())}, cols_{cols} {}

void EntryCollector::add(std::vector<Entry> entries) {
    if (comm_.size() == 1 && entries_.empty()) {
        entries_ = std::move(entries);
        return;
    }
    std::vector<Index> counts(at(comm_.size()), 0);
    std::vector<int> owners;
    owners.reserve(entries.size());
    for (const Entry& e : entries) {
        owners.push_back(layout_.owner(e.row));
        ++counts[at(owners.back())];
    }
    std::vector<Index> next(counts.size(), 0);
    std::exclusive_scan(counts.begin(), counts.end(), next.begin(), Index{0});
    std::vector<Entry> ordered(entries.size());
    for (std::size_t e = 0; e < entries.size(); ++e)
        ordered[at(next[at(owners[e])]++)] = entries[e];
    const auto received = comm_.all_to_all(std::span<const Entry>(ordered), counts);
    entries_.insert(entries_.end(), received.begin(), received.end());
}

/// By row (counted), then by column within each row; entries at one place keep their order.
void EntryCollector::sort() {
    const Range mine = layout_.rank_rows(comm_.rank());
    const auto in_order = [](const Entry& a, const Entry& b) {
        return a.row < b.row || (a.row == b.row && a.col < b.col);
    };
    if (std::ranges::is_sorted(entries_, in_order)) return;
    std::vector<Index> begin(at(mine.size()) + 1, 0);
    for (const Entry& e : entries_) ++begin[at(e.row - mine.begin) + 1];
    std::partial_sum(begin.begin(), begin.end(), begin.begin());
    std::vector<Index> next(begin.begin(), begin.end() - 1);
    std::vector<Entry> sorted(entries_.size());
    for (const Entry& e : entries_) sorted[at(next[at(e.row - mine.begin)]++)] = e;
    entries_ = std::move(sorted);
    std::vector<std::uint64_t> keys;  // column and place in the row, as one number
    std::vector<Entry> row_before;
    for (std::size_t i = 0; i + 1 < begin.size(); ++i) {
        const auto row = std::span(entries_).subspan(at(begin[i]), at(begin[i + 1] - begin[i]));
        if (std::ranges::is_sorted(row, {}, &Entry::col)) continue;
        keys.clear();
        for (std::size_t e = 0; e < row.size(); ++e) {
            keys.push_back((static_cast<std::uint64_t>(row[e].col) << 32) | e);
        }
        std::ranges::sort(keys);
        row_before.assign(row.begin(), row.end());
        for (std::size_t e = 0; e < row.size(); ++e) row[e] = row_before[keys[e] & 0xffffffffU];
    }
}

Index EntryCollector::merge(Duplicates rule) {
    std::size_t kept = 0;
    for (std::size_t e = 0; e < entries_.size();) {
        Entry one = entries_[e];
        double count = 1.0;
        for (++e; e < entries_.size() && same_place(one, entries_[e]); ++e) {
            one.value =
                rule == Duplicates::last ? entries_[e].value : one.value + entries_[e].value;
            one.time = entries_[e].time;
            one.fold = entries_[e].fold;
            ++count;
        }
        if (rule == Duplicates::mean) one.value /= count;
        entries_[kept++] = one;
    }
    const auto merged = static_cast<Index>(entries_.size() - kept);
    entries_.resize(kept);
    return comm_.all_reduce(merged, Reduce::sum);
}

void EntryCollector::refuse_duplicates(const Names& row_names, const Names& col_names) const {
    const auto twice = std::ranges::adjacent_find(entries_, same_place);
    Index count = 0;
    for (std::size_t e = 1; e < entries_.size(); ++e) {
        count += same_place(entries_[e - 1], entries_[e]) ? 1 : 0;
    }
    count = comm_.all_reduce(count, Reduce::sum);
    if (count == 0) return;
    struct Place {
        Index row;
        Index col;
    };
    const auto places =
        comm_.all_gather(twice == entries_.end() ? Place{-1, -1} : Place{twice->row, twice->col});
    const Place first = *std::ranges::find_if(places, [](const Place& p) { return p.row >= 0; });
    std::optional<Error> mine;
    if (comm_.is_root()) {
        mine = input_error("row ", name_of(row_names, first.row), ", column ",
                           name_of(col_names, first.col), " has more than one entry (", count,
                           " surplus entries in all); choose --duplicates last, sum or mean");
    }
    comm_.agree(mine);
}

template <Real R>
AssembledEntries<R> EntryCollector::finish(Duplicates rule, const Names& row_names,
                                           const Names& col_names) {
    sort();
    if (rule == Duplicates::error) refuse_duplicates(row_names, col_names);
    AssembledEntries<R> result;
    result.duplicates = merge(rule);
    if (comm_.all_reduce(static_cast<Index>(entries_.size()), Reduce::sum) == 0) {
        throw input_error("the sources hold no entry; there is nothing to make a matrix of");
    }
    const Range held = layout_.rank_rows(comm_.rank());
    std::vector<Index> counts(at(held.size()), 0);
    for (const Entry& e : entries_) ++counts[at(e.row - held.begin)];
    const ShardLayout layout = balanced_layout(comm_, layout_.rows(), held.begin, counts);

    std::vector<Index> send_counts(at(comm_.size()), 0);
    for (const Entry& e : entries_) ++send_counts[at(layout.owner(e.row))];
    if (comm_.size() > 1) {
        entries_ = comm_.all_to_all(std::span<const Entry>(entries_), send_counts);
    }

    const Range mine = layout.rank_rows(comm_.rank());
    CsrMatrix<R> local;
    local.cols = cols_;
    local.row_ptr.assign(at(mine.size()) + 1, 0);
    local.col_idx.reserve(entries_.size());
    local.values.reserve(entries_.size());
    result.times.reserve(entries_.size());
    result.folds.reserve(entries_.size());
    comm_.agree([&] {
        for (const Entry& e : entries_) {
            const R value = static_cast<R>(e.value);
            if (!std::isfinite(value)) {
                throw input_error("the value ", e.value, " at row ", e.row, ", column ", e.col,
                                  " does not fit float; use --precision double");
            }
            ++local.row_ptr[at(e.row - mine.begin) + 1];
            local.col_idx.push_back(e.col);
            local.values.push_back(value);
            result.times.push_back(e.time);
            result.folds.push_back(e.fold);
        }
    });
    std::partial_sum(local.row_ptr.begin(), local.row_ptr.end(), local.row_ptr.begin());
    entries_ = {};
    result.matrix = BlockRowCsr<R>(comm_, layout, std::move(local));
    return result;
}

template AssembledEntries<float> EntryCollector::finish(Duplicates, const Names&, const Names&);
template AssembledEntries<double> EntryCollector::finish(Duplicates, const Names&, const Names&);

}  // namespace rankfold
