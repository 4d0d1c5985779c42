#include <rankfold/nn/negative_samples.hpp>

#include <algorithm>
#include <numeric>

#include <rankfold/core/random.hpp>
#include <rankfold/core/subscript.hpp>

namespace rankfold {

template <Real R>
NegativeSamples<R>::NegativeSamples(const BlockRowCsr<R>& entries, Index negatives, NegativeUse use,
                                    Index blocks, std::uint64_t seed)
    : comm_{&entries.comm()},
      negatives_{negatives},
      use_{use},
      blocks_{blocks},
      seed_{seed},
      per_entry_{use == NegativeUse::ranked ? negatives : negatives + 1},
      samples_{entries.nnz() * per_entry_} {
    RANKFOLD_EXPECT(negatives >= 0 && blocks > 0 &&
                    (use == NegativeUse::labelled || negatives > 0));
    if (entries.nnz() == 0) {
        throw Error(Fault::input, "there is nothing to learn from: the matrix has no entries",
                    true);
    }
    const CsrView<R> local = entries.local().view();
    comm_->agree([&] {
        for (Index i = 0; i < local.rows; ++i) {
            if (negatives == 0 || local.row_nnz(i) < entries.cols()) continue;
            throw input_error("row ", entries.first_row() + i,
                              " has an entry in every column: there is no pair without one to "
                              "learn from; leave the row out");
        }
    });
    bring_rows(entries);
}

/// Fetches the rows whose entries make this rank's samples, whole, from those who hold them.
template <Real R>
void NegativeSamples<R>::bring_rows(const BlockRowCsr<R>& entries) {
    const int p = comm_->size();
    const CsrView<R> local = entries.local().view();
    const Index before = comm_->exclusive_scan(local.nnz());
    // for every rank: its first and last row, and the number of the first one's first entry
    std::vector<Index> wanted(at(3 * Index{p}), -1);
    for (int q = 0; q < p; ++q) {
        const Range blocks = even_part(blocks_, p, q);
        const Range samples{
            even_part(samples_, blocks_, blocks.begin).begin,
            blocks.size() == 0 ? 0 : even_part(samples_, blocks_, blocks.end - 1).end};
        if (blocks.size() == 0 || samples.size() <= 0) continue;
        const auto mark = [&](Index entry, bool first) {
            if (entry < before || entry >= before + local.nnz()) return;
            const auto* ptr = std::upper_bound(local.row_ptr, local.row_ptr + local.rows + 1,
                                               entry - before + local.row_ptr[0]);
            const Index row = ptr - local.row_ptr - 1;
            wanted[at(3 * Index{q} + (first ? 0 : 1))] = entries.first_row() + row;
            if (first) wanted[at(3 * Index{q} + 2)] = before + local.row_ptr[row];
        };
        mark(samples.begin / per_entry_, true);
        mark((samples.end - 1) / per_entry_, false);
    }
    comm_->all_reduce(std::span<Index>(wanted), Reduce::max);
    std::vector<Index> lengths;
    std::vector<ColIndex> columns;
    std::vector<Index> length_counts(at(p), 0);
    std::vector<Index> column_counts(at(p), 0);
    for (int q = 0; q < p; ++q) {
        const Index first = wanted[at(3 * Index{q})];
        if (first < 0) continue;
        const Range rows{
            std::max(first, entries.first_row()) - entries.first_row(),
            std::min(wanted[at(3 * Index{q} + 1)] + 1 - entries.first_row(), local.rows)};
        for (Index i = rows.begin; i < rows.end; ++i) {
            lengths.push_back(local.row_nnz(i));
            const auto cols = local.row_cols(i);
            columns.insert(columns.end(), cols.begin(), cols.end());
            ++length_counts[at(q)];
            column_counts[at(q)] += local.row_nnz(i);
        }
    }
    const auto got = comm_->all_to_all(std::span<const Index>(lengths), length_counts);
    rows_.col_idx = comm_->all_to_all(std::span<const ColIndex>(columns), column_counts);
    rows_.cols = entries.cols();
    for (const Index n : got) {
        row_of_.insert(row_of_.end(), at(n), rows_.rows());
        rows_.row_ptr.push_back(rows_.row_ptr.back() + n);
    }
    first_row_ = std::max<Index>(0, wanted[at(3 * Index{comm_->rank()})]);
    first_entry_ = std::max<Index>(0, wanted[at(3 * Index{comm_->rank()} + 2)]);
}

/// A column in which the (local) row has no entry.
template <Real R>
Index NegativeSamples<R>::draw(Index row, Index sample, Index epoch) const {
    const Philox random(seed_, Stream::negatives);
    const std::span<const ColIndex> cols(rows_.col_idx.data() + rows_.row_ptr[at(row)],
                                         at(rows_.row_ptr[at(row) + 1] - rows_.row_ptr[at(row)]));
    for (Index attempt = 0;; ++attempt) {
        const Index j = random.below(rows_.cols, epoch * samples_ + sample, attempt);
        if (!std::ranges::binary_search(cols, static_cast<ColIndex>(j))) return j;
    }
}

template <Real R>
void NegativeSamples<R>::fill(MicroBatch<R>& batch) const {
    batch.targets.values.clear();
    std::size_t to = 0;
    const auto put = [&](Index row, Index column) {
        batch.indices[0][to] = first_row_ + row;
        batch.indices[1][to++] = column;
    };
    for (const Index sample : batch.samples) {
        const Index entry = sample / per_entry_ - first_entry_;
        const Index row = row_of_[at(entry)];
        const Index column = rows_.col_idx[at(entry)];
        if (use_ == NegativeUse::ranked) {
            put(row, column);
            put(row, draw(row, sample, batch.epoch));
            continue;
        }
        const bool real = sample % per_entry_ == 0;
        put(row, real ? column : draw(row, sample, batch.epoch));
        batch.targets.values.push_back(real ? R{1} : R{0});
    }
}

template class NegativeSamples<float>;
template class NegativeSamples<double>;

}  // namespace rankfold
