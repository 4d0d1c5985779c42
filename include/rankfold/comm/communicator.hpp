// Typed collectives over spans, on a private communicator.
#pragma once

#include <concepts>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <mpi.h>

#include <rankfold/comm/pending_exchange.hpp>
#include <rankfold/core/ledger.hpp>
#include <rankfold/core/types.hpp>

namespace rankfold {

/// What may be sent between ranks as bytes: all ranks are of one architecture.
template <class T>
concept Transferable = std::is_trivially_copyable_v<T> && !std::is_pointer_v<T>;

/// What MPI can add and compare.
template <class T>
concept Reducible = std::same_as<T, std::int32_t> || std::same_as<T, std::int64_t> ||
    std::same_as<T, std::uint64_t> || std::same_as<T, float> || std::same_as<T, double>;

enum class Reduce { sum, min, max };

/// Owns one MPI communicator for its whole life.
///
/// It is always a private duplicate, so our messages never match a library's, and it returns error
/// codes (MPI_ERRORS_RETURN), so that a failing call throws Error (Fault::system). It is pinned:
/// neither copied nor moved, so a matrix may safely borrow it. All calls are collective over the
/// communicator unless they say otherwise. Messages with more elements than an int count are split.
/// Every call charges the ledger with the bytes that this rank sends to others, by the volume of
/// the usual algorithm (all_reduce: 2 (p−1)/p n; all_gather: (p−1) · own part).
class Communicator {
public:
    /// Duplicates `parent`; traffic is charged to `ledger`, which must outlive the communicator.
    Communicator(MPI_Comm parent, Ledger& ledger);
    /// Duplicates MPI_COMM_WORLD.
    explicit Communicator(Ledger& ledger);
    Communicator(const Communicator&) = delete;
    Communicator& operator=(const Communicator&) = delete;
    /// Frees the communicator, except while an exception unwinds this rank.
    ~Communicator();
    [[nodiscard]] int rank() const noexcept { return rank_; }
    [[nodiscard]] int size() const noexcept { return size_; }
    [[nodiscard]] bool is_root() const noexcept { return rank_ == 0; }
    [[nodiscard]] MPI_Comm native() const noexcept { return comm_; }
    [[nodiscard]] Ledger& ledger() const noexcept { return *ledger_; }
    void barrier() const;

    /// Replaces `data` on every rank by its element-wise reduction over all ranks.
    /// @pre data.size() and `op` are the same on all ranks
    /// @note sums of floating point numbers depend on the number of ranks: see reproducible_sum.hpp
    template <Reducible T>
    void all_reduce(std::span<T> data, Reduce op) const;
    template <Reducible T>
    [[nodiscard]] T all_reduce(T value, Reduce op) const {
        all_reduce(std::span<T>(&value, 1), op);
        return value;
    }

    /// The sum of `value` over all lower ranks; 0 on rank 0.
    [[nodiscard]] Index exclusive_scan(Index value) const;

    /// Copies root's `data` to every rank.
    template <Transferable T>
    void broadcast(std::span<T> data, int root = 0) const {
        broadcast_bytes(data.data(), data.size_bytes(), root);
    }
    /// The same for a text of any length.
    void broadcast(std::string& text, int root = 0) const;

    /// Concatenates every rank's `mine` in rank order on every rank.
    /// @param counts  elements of every rank; counts[rank()] == mine.size()
    /// @param all     Σ counts elements
    template <Transferable T>
    void all_gather(std::span<const T> mine, std::span<const Index> counts,
                    std::span<T> all) const {
        all_gather_bytes(mine.data(), counts, all.data(), sizeof(T));
    }
    /// The same when the counts are not known; optionally returns them.
    template <Transferable T>
    [[nodiscard]] std::vector<T> all_gather(std::span<const T> mine,
                                            std::vector<Index>* counts = nullptr) const;
    /// One value of every rank, in rank order.
    template <Transferable T>
    [[nodiscard]] std::vector<T> all_gather(const T& value) const {
        return all_gather(std::span<const T>(&value, 1));
    }
    /// One text of every rank, in rank order.
    [[nodiscard]] std::vector<std::string> all_gather(const std::string& text) const;

    /// Sends send_counts[q] consecutive elements of `send` to every rank q, and receives
    /// recv_counts[q] consecutive elements from every rank q, all in rank order.
    template <Transferable T>
    void all_to_all(std::span<const T> send, std::span<const Index> send_counts, std::span<T> recv,
                    std::span<const Index> recv_counts) const {
        start_all_to_all(send, send_counts, recv, recv_counts).wait();
    }
    /// The same when the receive counts are not known; optionally returns them.
    template <Transferable T>
    [[nodiscard]] std::vector<T> all_to_all(std::span<const T> send,
                                            std::span<const Index> send_counts,
                                            std::vector<Index>* recv_counts = nullptr) const;

    /// all_to_all that returns at once. Exchanges started in the same order on all ranks may be
    /// under way together. Ranks `without` (maybe this one) get and send nothing: recv_counts 0.
    template <Transferable T>
    [[nodiscard]] PendingExchange start_all_to_all(std::span<const T> send,
                                                   std::span<const Index> send_counts,
                                                   std::span<T> recv,
                                                   std::span<const Index> recv_counts,
                                                   std::span<const int> without = {}) const {
        return start_bytes(send.data(), send_counts, recv.data(), recv_counts, sizeof(T), without);
    }

    /// all_gather that returns at once; this rank's part stands at its place in `all`.
    template <Transferable T>
    [[nodiscard]] PendingExchange start_all_gather(std::span<const Index> counts,
                                                   std::span<T> all) const {
        return start_gather_bytes(counts, all.data(), sizeof(T));
    }

    [[nodiscard]] PendingExchange start_barrier() const;  ///< finished when all have started it

    /// True on every rank if and only if `ok` is true on every rank.
    [[nodiscard]] bool all_agree(bool ok) const;
    /// Runs `work` on every rank. If it throws on any, every rank throws the same Error: that of
    /// the lowest failing rank, marked as agreed. So what only some ranks can see (a bad chunk of a
    /// file, an indefinite block) ends the job in good order. `work` must not communicate.
    void agree(const std::function<void()>& work) const;

    /// The agreement alone.
    void agree(const std::optional<Error>& mine) const;

    /// The ranks that pass the same `color` >= 0, in their present order.
    [[nodiscard]] std::unique_ptr<Communicator> split(int color) const;

    /// Lowers the number of elements (or bytes) per message, to test the splitting. Not collective.
    static void set_count_limit(Index limit);

private:
    struct Adopt {};
    Communicator(MPI_Comm owned, Ledger& ledger, Adopt);
    void all_reduce_raw(void* data, Index count, MPI_Datatype type, std::size_t size,
                        Reduce op) const;
    void broadcast_bytes(void* data, std::size_t bytes, int root) const;
    void all_gather_bytes(const void* mine, std::span<const Index> counts, void* all,
                          std::size_t size) const;
    [[nodiscard]] PendingExchange start_bytes(const void* send, std::span<const Index> send_counts,
                                              void* recv, std::span<const Index> recv_counts,
                                              std::size_t size, std::span<const int> without) const;
    [[nodiscard]] PendingExchange start_gather_bytes(std::span<const Index> counts, void* all,
                                                     std::size_t size) const;

    MPI_Comm comm_;
    Ledger* ledger_;
    int rank_ = 0;
    int size_ = 1;
    int uncaught_at_start_;
};

/// Throws Error (Fault::system) with MPI's own text unless `code` is MPI_SUCCESS.
void check_mpi(int code, const char* call);

template <Transferable T>
std::vector<T> Communicator::all_gather(std::span<const T> mine, std::vector<Index>* counts) const {
    std::vector<Index> sizes(static_cast<std::size_t>(size_), 1);
    const Index own = static_cast<Index>(mine.size());
    all_gather(std::span<const Index>(&own, 1), std::vector<Index>(sizes), std::span<Index>(sizes));
    Index total = 0;
    for (const Index n : sizes) total += n;
    std::vector<T> all(static_cast<std::size_t>(total));
    all_gather(mine, sizes, std::span<T>(all));
    if (counts != nullptr) *counts = std::move(sizes);
    return all;
}

template <Transferable T>
std::vector<T> Communicator::all_to_all(std::span<const T> send, std::span<const Index> send_counts,
                                        std::vector<Index>* recv_counts) const {
    const std::vector<Index> ones(static_cast<std::size_t>(size_), 1);
    std::vector<Index> incoming(ones.size());
    all_to_all(send_counts, ones, std::span<Index>(incoming), ones);
    Index total = 0;
    for (const Index n : incoming) total += n;
    std::vector<T> recv(static_cast<std::size_t>(total));
    all_to_all(send, send_counts, std::span<T>(recv), incoming);
    if (recv_counts != nullptr) *recv_counts = std::move(incoming);
    return recv;
}

}  // namespace rankfold
