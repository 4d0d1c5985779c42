#include <rankfold/factor/fixed_rows.hpp>

#include <algorithm>

namespace rankfold {

template <Real R>
FixedRows<R>::FixedRows(const Communicator& comm, const ShardLayout& fixed)
    : buffer_rows_{fixed.rows()} {
    panels_.push_back({RowExchange::all(comm, fixed), 0});
}

template <Real R>
FixedRows<R>::FixedRows(const Communicator& comm, const ShardLayout& fixed,
                        std::vector<std::vector<Index>> needed, bool bounded)
    : bounded_{bounded} {
    std::size_t most = 0;
    for (const auto& rows : needed) most = std::max(most, rows.size());
    std::vector<char> present(bounded ? 0 : static_cast<std::size_t>(fixed.rows()), 0);
    for (auto& rows : needed) {
        if (!bounded) {
            std::erase_if(rows, [&](Index j) {
                return std::exchange(present[static_cast<std::size_t>(j)], 1) != 0;
            });
        }
        const Index first = bounded ? panels() % 2 * static_cast<Index>(most) : buffer_rows_;
        buffer_rows_ = std::max(buffer_rows_, first + std::ssize(rows));
        panels_.push_back(
            {RowExchange(comm, fixed, ExchangeScheme::needed, std::move(rows)), first});
    }
}

template <Real R>
void FixedRows<R>::positions(Index panel, std::span<ColIndex> position) const {
    const auto& [exchange, first] = panels_[static_cast<std::size_t>(panel)];
    Index at = first;
    for (const Index row : exchange.rows_needed()) {
        position[static_cast<std::size_t>(row)] = static_cast<ColIndex>(at++);
    }
}

template <Real R>
double FixedRows<R>::bytes_sent(Index cols) const {
    double bytes = 0.0;
    for (const Panel& panel : panels_) bytes += panel.exchange.bytes_sent(cols, sizeof(R));
    return bytes;
}

template <Real R>
void FixedRows<R>::begin(const BlockRows<R>& y, bool biases) {
    pending_.exchange.wait();  // that of a round which nobody went on with
    if (buffer_.rows() != buffer_rows_ || buffer_.cols() != y.cols()) {
        buffer_ = DenseMatrix<R>(buffer_rows_, y.cols());
    }
    offsets_.resize(biases ? static_cast<std::size_t>(buffer_rows_) : 0);
    y_ = &y;
    biases_ = biases;
    arrived_ = 0;
    start(0);
}

template <Real R>
void FixedRows<R>::start(Index panel) {
    const auto& [exchange, first] = panels_[static_cast<std::size_t>(panel)];
    pending_ = exchange.start_gather(
        *y_, buffer_.view().row_block({first, first + exchange.buffer_rows()}));
}

template <Real R>
void FixedRows<R>::arrive(Index panel) {
    if (bounded_ && panel == 0 && arrived_ == panels()) {  // once more from the beginning
        arrived_ = 0;
        start(0);
    }
    if (panel < arrived_) return;
    RANKFOLD_EXPECT(panel == arrived_);
    const auto& [exchange, first] = panels_[static_cast<std::size_t>(panel)];
    pending_.exchange.wait();
    pending_ = {};
    ++arrived_;
    if (biases_) {
        const auto rows = static_cast<std::size_t>(exchange.buffer_rows());
        take_offsets<R>(buffer_.view().row_block({first, first + exchange.buffer_rows()}),
                        std::span<R>(offsets_).subspan(static_cast<std::size_t>(first), rows));
    }
    if (arrived_ < panels()) start(arrived_);
}

template class FixedRows<float>;
template class FixedRows<double>;

}  // namespace rankfold
