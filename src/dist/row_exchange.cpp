#include <rankfold/dist/row_exchange.hpp>

#include <algorithm>

namespace rankfold {

namespace {

std::vector<Index> elements(std::vector<Index> rows, Index cols) {
    for (Index& n : rows) n *= cols;
    return rows;
}

}  // namespace

RowExchange::RowExchange(const Communicator& comm, ShardLayout layout, ExchangeScheme scheme,
                         std::vector<Index> needed)
    : comm_{&comm}, layout_{std::move(layout)}, scheme_{scheme}, buffer_rows_{layout_.rows()} {
    if (scheme_ == ExchangeScheme::all) return;
    needed_ = std::move(needed);
    buffer_rows_ = static_cast<Index>(needed_.size());
    auto next = needed_.begin();
    for (int r = 0; r < comm.size(); ++r) {
        const auto end = std::lower_bound(next, needed_.end(), layout_.rank_rows(r).end);
        recv_counts_.push_back(end - next);
        next = end;
    }
    RANKFOLD_EXPECT(next == needed_.end());
    send_rows_ = comm.all_to_all(std::span<const Index>(needed_), recv_counts_, &send_counts_);
    const Index first = layout_.rank_rows(comm.rank()).begin;
    for (Index& row : send_rows_) row -= first;
}

Index RowExchange::position(Index row) const {
    if (scheme_ == ExchangeScheme::all) return row;
    const auto found = std::ranges::lower_bound(needed_, row);
    RANKFOLD_EXPECT(found != needed_.end() && *found == row);
    return found - needed_.begin();
}

template <Real R>
RowExchange::PendingGather<R> RowExchange::start_gather(const BlockRows<R>& source,
                                                        MatrixView<R> buffer) const {
    const Index k = source.cols();
    RANKFOLD_EXPECT(source.layout() == layout_ && buffer.rows == buffer_rows_ && buffer.cols == k &&
                    buffer.ld == k);
    const std::span<R> into(buffer.data, static_cast<std::size_t>(buffer_rows_ * k));
    comm_->ledger().predict_bytes(bytes_sent(k, sizeof(R)));
    if (scheme_ == ExchangeScheme::all) {
        comm_->all_gather(source.local().data(), elements(layout_.rank_row_counts(), k), into);
        return {};
    }
    PendingGather<R> pending;
    pending.packed.reserve(send_rows_.size() * static_cast<std::size_t>(k));
    for (const Index row : send_rows_) {
        const auto values = source.local().row(row);
        pending.packed.insert(pending.packed.end(), values.begin(), values.end());
    }
    pending.exchange =
        comm_->start_all_to_all(std::span<const R>(pending.packed), elements(send_counts_, k), into,
                                elements(recv_counts_, k));
    return pending;
}

template <Real R>
void RowExchange::send(std::span<const R> packed, Index cols, std::span<R> buffer) const {
    comm_->ledger().predict_bytes(bytes_sent(cols, sizeof(R)));
    comm_->all_to_all(packed, elements(send_counts_, cols), buffer, elements(recv_counts_, cols));
}

template <Real R>
void RowExchange::send_back(std::span<const R> buffer, Index cols, std::span<R> packed) const {
    const Index own = recv_counts_[static_cast<std::size_t>(comm_->rank())];
    comm_->ledger().predict_bytes(static_cast<double>((buffer_rows_ - own) * cols) * sizeof(R));
    comm_->all_to_all(buffer, elements(recv_counts_, cols), packed, elements(send_counts_, cols));
}

double RowExchange::bytes_sent(Index cols, std::size_t size) const {
    const double row_bytes = static_cast<double>(cols) * static_cast<double>(size);
    const int rank = comm_->rank();
    if (scheme_ == ExchangeScheme::all) {
        return static_cast<double>(layout_.rank_rows(rank).size()) * (comm_->size() - 1) *
               row_bytes;
    }
    const auto own = static_cast<std::size_t>(rank);
    return static_cast<double>(static_cast<Index>(send_rows_.size()) - send_counts_[own]) *
           row_bytes;
}

template RowExchange::PendingGather<float> RowExchange::start_gather(const BlockRows<float>&,
                                                                     MatrixView<float>) const;
template RowExchange::PendingGather<double> RowExchange::start_gather(const BlockRows<double>&,
                                                                      MatrixView<double>) const;

template void RowExchange::send(std::span<const float>, Index, std::span<float>) const;
template void RowExchange::send(std::span<const double>, Index, std::span<double>) const;
template void RowExchange::send_back(std::span<const float>, Index, std::span<float>) const;
template void RowExchange::send_back(std::span<const double>, Index, std::span<double>) const;

}  // namespace rankfold
