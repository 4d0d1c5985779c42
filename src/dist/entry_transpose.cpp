#include <rankfold/dist/entry_transpose.hpp>

#include <algorithm>
#include <numeric>

#include <rankfold/core/subscript.hpp>

namespace rankfold {

template <Real R>
EntryTranspose<R>::EntryTranspose(const BlockRowCsr<R>& a, const BlockRowCsr<R>& transposed)
    : a_{&a}, transposed_{&transposed}, first_(at(a.cols()) + 1, 0) {
    RANKFOLD_EXPECT(a.rows() == transposed.cols() && a.cols() == transposed.rows());
    for (const ColIndex j : a.local().col_idx) ++first_[at(j) + 1];
    std::partial_sum(first_.begin(), first_.end(), first_.begin());
    const int ranks = a.comm().size();
    std::vector<Index> ends;  // of every rank's rows
    for (int q = 0; q < ranks; ++q) {
        const Range columns = transposed.layout().rank_rows(q);
        send_counts_.push_back(first_[at(columns.end)] - first_[at(columns.begin)]);
        ends.push_back(a.layout().rank_rows(q).end);
    }
    recv_counts_.assign(at(ranks), 0);
    for (const ColIndex i : transposed.local().col_idx) {
        ++recv_counts_[at(std::ranges::upper_bound(ends, Index{i}) - ends.begin())];
    }
}

template <Real R>
void EntryTranspose<R>::apply(std::span<const R> from, std::span<R> to) const {
    const auto& columns = a_->local().col_idx;
    RANKFOLD_EXPECT(from.size() == columns.size() &&
                    to.size() == transposed_->local().col_idx.size());
    std::vector<Index> next(first_.begin(), first_.end() - 1);
    const Communicator& comm = a_->comm();
    if (comm.size() == 1) {
        for (std::size_t e = 0; e < from.size(); ++e) to[at(next[at(columns[e])]++)] = from[e];
        return;
    }
    std::vector<R> sent(from.size());
    for (std::size_t e = 0; e < from.size(); ++e) sent[at(next[at(columns[e])]++)] = from[e];
    const Index own = send_counts_[at(comm.rank())];
    comm.ledger().predict_bytes(static_cast<double>(sizeof(R)) *
                                static_cast<double>(std::ssize(sent) - own));
    std::vector<R> received(to.size());
    comm.all_to_all(std::span<const R>(sent), send_counts_, std::span<R>(received), recv_counts_);
    std::vector<Index> begin(recv_counts_.size(), 0);  // of what is left of each rank's
    std::exclusive_scan(recv_counts_.begin(), recv_counts_.end(), begin.begin(), Index{0});
    std::vector<Index> ends;
    for (int q = 0; q < comm.size(); ++q) ends.push_back(a_->layout().rank_rows(q).end);
    const CsrView<R> rows = transposed_->local().view();
    std::size_t e = 0;
    for (Index j = 0; j < rows.rows; ++j) {
        std::size_t q = 0;  // a column's entries come by increasing rows, so rank after rank
        for (const ColIndex i : rows.row_cols(j)) {
            while (i >= ends[q]) ++q;
            to[e++] = received[at(begin[q]++)];
        }
    }
}

template class EntryTranspose<float>;
template class EntryTranspose<double>;

}  // namespace rankfold
