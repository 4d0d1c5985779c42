// The rows of a half sweep's fixed side that a rank needs.
#pragma once

#include <utility>
#include <vector>

#include <rankfold/dist/row_exchange.hpp>

namespace rankfold {

/// Brings the rows of Y that this rank's rows need, panel by panel of these rows: the next panel's
/// rows travel while the caller solves the present one's.
///
/// Either all panels share one buffer of all rows needed, each of them sent once, with the panel
/// that first needs it; or ("bounded") two buffers of one panel's rows take turns, and a row is
/// sent anew with every panel that needs it.
template <Real R>
class FixedRows {
public:
    /// Every rank gets every row, in one panel.
    FixedRows(const Communicator& comm, const ShardLayout& fixed);

    /// @param needed   rows needed by each panel, increasing; as many panels on every rank
    /// @param bounded  two buffers take turns
    /// @collective over comm
    FixedRows(const Communicator& comm, const ShardLayout& fixed,
              std::vector<std::vector<Index>> needed, bool bounded);

    [[nodiscard]] Index panels() const noexcept { return std::ssize(panels_); }
    /// Elements of the buffer, in rows.
    [[nodiscard]] Index buffer_rows() const noexcept { return buffer_rows_; }
    /// Writes where a panel's rows stand in view() into position[global row]; other elements stay.
    void positions(Index panel, std::span<ColIndex> position) const;

    /// Bytes that this rank sends in one round over all panels.
    [[nodiscard]] double bytes_sent(Index cols) const;

    /// Begins with Y as it now is, borrowed as long as rows are asked for.
    /// @param biases  the last column holds offsets: they are kept apart, and ones put there
    /// @collective
    void begin(const BlockRows<R>& y, bool biases);
    /// Waits for a panel's rows and starts the next one's. Called for all panels in order, as often
    /// as wanted: rows that are still there are not sent again. @collective
    void arrive(Index panel);
    /// Lets messages move. Main thread only.
    void progress() { pending_.exchange.test(); }

    [[nodiscard]] MatrixView<const R> view() const { return buffer_.view(); }
    /// Of the rows of view(); empty without biases.
    [[nodiscard]] std::span<const R> offsets() const noexcept { return offsets_; }

private:
    struct Panel {
        RowExchange exchange;
        Index first;  // row of the buffer
    };

    void start(Index panel);

    std::vector<Panel> panels_;
    bool bounded_ = false;
    Index buffer_rows_ = 0;
    const BlockRows<R>* y_ = nullptr;
    bool biases_ = false;
    Index arrived_ = 0;  // panels whose rows have come in this round
    DenseMatrix<R> buffer_;
    std::vector<R> offsets_;
    RowExchange::PendingGather<R> pending_;
};

/// Takes the last column out, where ones come instead.
template <Real R>
void take_offsets(MatrixView<R> from, std::span<R> offsets) {
    for (Index j = 0; j < from.rows; ++j) {
        offsets[static_cast<std::size_t>(j)] = std::exchange(from(j, from.cols - 1), R{1});
    }
}

extern template class FixedRows<float>;
extern template class FixedRows<double>;

}  // namespace rankfold
