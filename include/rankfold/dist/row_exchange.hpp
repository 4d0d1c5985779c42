// The plan for remote rows.
#pragma once

#include <span>
#include <vector>

#include <rankfold/dist/block_rows.hpp>

namespace rankfold {

/// How the rows that a rank needs reach it.
enum class ExchangeScheme {
    all,     ///< every rank gets every row, in global order: one all_gather
    needed,  ///< every rank gets only the rows that it needs, each once: one all_to_all
};

/// Brings the rows of a distributed dense matrix that this rank needs into one local buffer.
///
/// Made once for a set of rows and used again whenever their values have changed. Row positions in
/// the buffer follow the global order of the rows.
class RowExchange {
public:
    /// Plans to gather rows of matrices of this layout.
    /// @param needed  this rank's rows, increasing; ignored under ExchangeScheme::all
    /// @collective over comm
    RowExchange(const Communicator& comm, ShardLayout layout, ExchangeScheme scheme,
                std::vector<Index> needed);

    /// The plan in which every rank gets every row.
    static RowExchange all(const Communicator& comm, ShardLayout layout) {
        return {comm, std::move(layout), ExchangeScheme::all, {}};
    }

    /// Rows of the buffer.
    [[nodiscard]] Index buffer_rows() const noexcept { return buffer_rows_; }
    /// This rank's rows in buffer order. @pre scheme needed
    [[nodiscard]] std::span<const Index> rows_needed() const noexcept { return needed_; }
    /// Where the global row stands in the buffer. @pre the row is needed @cost O(log rows)
    [[nodiscard]] Index position(Index row) const;

    /// Fills `buffer` (buffer_rows() x source.cols(), ld == cols) with the rows' present values.
    /// @collective over the communicator
    template <Real R>
    void gather(const BlockRows<R>& source, MatrixView<R> buffer) const {
        start_gather(source, buffer).exchange.wait();
    }

    /// A gather under way, with the rows that it sends.
    template <Real R>
    struct PendingGather {
        AlignedVector<R> packed;
        PendingExchange exchange;  // ends before its buffer does
    };
    /// gather() that returns at once under scheme needed (see Communicator::start_all_to_all).
    template <Real R>
    [[nodiscard]] PendingGather<R> start_gather(const BlockRows<R>& source,
                                                MatrixView<R> buffer) const;

    /// Local rows that other ranks (and this one) need, in the order of their receivers, and how
    /// many each rank needs. @pre scheme needed
    [[nodiscard]] std::span<const Index> rows_sent() const noexcept { return send_rows_; }
    [[nodiscard]] std::span<const Index> send_counts() const noexcept { return send_counts_; }

    /// The exchange alone, for rows that the caller packs.
    /// @param packed  the rows of rows_sent(), `cols` elements each
    /// @param buffer  buffer_rows() x cols
    /// @collective @pre scheme needed
    template <Real R>
    void send(std::span<const R> packed, Index cols, std::span<R> buffer) const;
    /// The way back: what stands in the buffer's rows reaches the owners, in the order of
    /// rows_sent(), to be added there. @collective @pre scheme needed
    template <Real R>
    void send_back(std::span<const R> buffer, Index cols, std::span<R> packed) const;

    /// Bytes that this rank sends in one gather of rows of `cols` elements of `size` bytes.
    [[nodiscard]] double bytes_sent(Index cols, std::size_t size) const;

private:
    const Communicator* comm_;
    ShardLayout layout_;
    ExchangeScheme scheme_;
    Index buffer_rows_;
    std::vector<Index> needed_;       // scheme needed: global rows in buffer order
    std::vector<Index> recv_counts_;  // rows from every rank
    std::vector<Index> send_rows_;    // local rows to send, in the order of their receivers
    std::vector<Index> send_counts_;  // rows to every rank
};

}  // namespace rankfold
