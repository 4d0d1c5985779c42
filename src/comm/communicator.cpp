#include <rankfold/comm/communicator.hpp>

#include <algorithm>
#include <climits>
#include <cstddef>
#include <new>

namespace rankfold {

namespace {

Index count_limit = INT_MAX;
constexpr int exchange_tag = 7;  // messages between two ranks keep their order: one is enough
/// On SimGrid an exchange ends each of its p - 1 rounds of partners before the next, as it shares
/// out the links anew among all messages under way whenever one of them ends; and a scan is a
/// gathering, as its MPI_Exscan sends p²/2 messages at once.
#ifdef RANKFOLD_SIMULATED
constexpr bool simulated = true;
#else
constexpr bool simulated = false;
#endif

MPI_Op native_op(Reduce op) {
    switch (op) {
        case Reduce::sum:
            return MPI_SUM;
        case Reduce::min:
            return MPI_MIN;
        case Reduce::max:
            return MPI_MAX;
    }
    return MPI_OP_NULL;
}

template <Reducible T>
MPI_Datatype native_type() {
    if constexpr (std::same_as<T, std::int32_t>) return MPI_INT32_T;
    if constexpr (std::same_as<T, std::int64_t>) return MPI_INT64_T;
    if constexpr (std::same_as<T, std::uint64_t>) return MPI_UINT64_T;
    if constexpr (std::same_as<T, float>) return MPI_FLOAT;
    if constexpr (std::same_as<T, double>) return MPI_DOUBLE;
}

/// Calls part(offset, count) for consecutive parts of [0, total) no longer than an int count.
template <class Part>
void in_parts(Index total, Part part) {
    for (Index done = 0; done < total; done += count_limit) {
        part(done, static_cast<int>(std::min(count_limit, total - done)));
    }
}

/// Where each rank's part of a buffer begins, in bytes, and where the last one ends.
std::vector<std::size_t> byte_offsets(std::span<const Index> counts, std::size_t size) {
    std::vector<std::size_t> offsets{0};
    for (const Index n : counts) {
        offsets.push_back(offsets.back() + static_cast<std::size_t>(n) * size);
    }
    return offsets;
}

template <class Byte>
std::span<Byte> part_of(std::span<Byte> all, const std::vector<std::size_t>& offsets, int rank) {
    const auto q = static_cast<std::size_t>(rank);
    return all.subspan(offsets[q], offsets[q + 1] - offsets[q]);
}

}  // namespace

void check_mpi(int code, const char* call) {
    if (code == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    MPI_Error_string(code, text, &length);
    throw Error(Fault::system,
                concat(call, " failed: ", std::string(text, static_cast<std::size_t>(length))));
}

/// What an exchange of one rank with all others sends and receives.
struct Rounds {
    MPI_Comm comm;
    int rank;
    int size;
    std::function<std::span<const std::byte>(int)> to;  ///< what a rank gets
    std::function<std::span<std::byte>(int)> from;      ///< and where what it sends belongs
};

struct PendingExchange::Requests {
    std::vector<MPI_Request> all;

    void wait() {
        check_mpi(MPI_Waitall(static_cast<int>(all.size()), all.data(), MPI_STATUSES_IGNORE),
                  "MPI_Waitall");
        all.clear();
    }

    /// Begins p - 1 rounds: to the rank r places further, from the one r places back.
    void start(const Rounds& rounds, Ledger& ledger) {
        double sent = 0.0;
        double messages = 0.0;
        const auto receive = [&](int q) {
            const std::span<std::byte> part = rounds.from(q);
            in_parts(std::ssize(part), [&](Index offset, int n) {
                all.emplace_back();
                check_mpi(MPI_Irecv(part.data() + offset, n, MPI_BYTE, q, exchange_tag, rounds.comm,
                                    &all.back()),
                          "MPI_Irecv");
            });
        };
        const auto send = [&](int q) {
            const std::span<const std::byte> part = rounds.to(q);
            in_parts(std::ssize(part), [&](Index offset, int n) {
                all.emplace_back();
                check_mpi(MPI_Isend(part.data() + offset, n, MPI_BYTE, q, exchange_tag, rounds.comm,
                                    &all.back()),
                          "MPI_Isend");
                sent += n;
                messages += 1.0;
            });
        };
        const auto partner = [&](int places) {
            return (rounds.rank + places + rounds.size) % rounds.size;
        };
        for (int r = 1; r < rounds.size; ++r) {
            receive(partner(-r));
            if (simulated) {
                send(partner(r));
                wait();
            }
        }
        for (int r = 1; r < rounds.size && !simulated; ++r) send(partner(r));
        ledger.add_bytes(sent, messages);
    }
};

PendingExchange::PendingExchange() = default;
PendingExchange::PendingExchange(PendingExchange&&) noexcept = default;

PendingExchange& PendingExchange::operator=(PendingExchange&& other) noexcept {
    if (requests_) {
        MPI_Waitall(static_cast<int>(requests_->all.size()), requests_->all.data(),
                    MPI_STATUSES_IGNORE);
    }
    requests_ = std::move(other.requests_);
    return *this;
}

PendingExchange::~PendingExchange() {
    if (requests_ && std::uncaught_exceptions() == 0) {
        MPI_Waitall(static_cast<int>(requests_->all.size()), requests_->all.data(),
                    MPI_STATUSES_IGNORE);
    }
}

bool PendingExchange::test() {
    if (!requests_) return true;
    int done = 0;
    check_mpi(MPI_Testall(static_cast<int>(requests_->all.size()), requests_->all.data(), &done,
                          MPI_STATUSES_IGNORE),
              "MPI_Testall");
    if (done != 0) requests_.reset();
    return done != 0;
}

void PendingExchange::wait() {
    if (!requests_) return;
    const auto requests = std::move(requests_);
    requests->wait();
}

Communicator::Communicator(MPI_Comm owned, Ledger& ledger, Adopt)
    : comm_{owned}, ledger_{&ledger}, uncaught_at_start_{std::uncaught_exceptions()} {
    check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check_mpi(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
}

static MPI_Comm duplicate(MPI_Comm parent) {
    MPI_Comm copy = MPI_COMM_NULL;
    check_mpi(MPI_Comm_dup(parent, &copy), "MPI_Comm_dup");
    return copy;
}

Communicator::Communicator(MPI_Comm parent, Ledger& ledger)
    : Communicator(duplicate(parent), ledger, Adopt{}) {}

Communicator::Communicator(Ledger& ledger) : Communicator(MPI_COMM_WORLD, ledger) {}

Communicator::~Communicator() {
    if (std::uncaught_exceptions() == uncaught_at_start_) MPI_Comm_free(&comm_);
}

void Communicator::barrier() const {
    check_mpi(MPI_Barrier(comm_), "MPI_Barrier");
}

void Communicator::all_reduce_raw(void* data, Index count, MPI_Datatype type, std::size_t size,
                                  Reduce op) const {
    in_parts(count, [&](Index offset, int n) {
        check_mpi(MPI_Allreduce(MPI_IN_PLACE,
                                static_cast<std::byte*>(data) + offset * static_cast<Index>(size),
                                n, type, native_op(op), comm_),
                  "MPI_Allreduce");
    });
    ledger_->add_bytes(
        2.0 * (size_ - 1) / size_ * static_cast<double>(count) * static_cast<double>(size), 1.0);
}

template <Reducible T>
void Communicator::all_reduce(std::span<T> data, Reduce op) const {
    all_reduce_raw(data.data(), static_cast<Index>(data.size()), native_type<T>(), sizeof(T), op);
}

template void Communicator::all_reduce(std::span<std::int32_t>, Reduce) const;
template void Communicator::all_reduce(std::span<std::int64_t>, Reduce) const;
template void Communicator::all_reduce(std::span<std::uint64_t>, Reduce) const;
template void Communicator::all_reduce(std::span<float>, Reduce) const;
template void Communicator::all_reduce(std::span<double>, Reduce) const;

Index Communicator::exclusive_scan(Index value) const {
    Index before = 0;
    if (simulated) {
        const std::vector<Index> all = all_gather(value);
        for (int q = 0; q < rank_; ++q) before += all[static_cast<std::size_t>(q)];
        return before;
    }
    check_mpi(MPI_Exscan(&value, &before, 1, MPI_INT64_T, MPI_SUM, comm_), "MPI_Exscan");
    return rank_ == 0 ? 0 : before;
}

void Communicator::broadcast_bytes(void* data, std::size_t bytes, int root) const {
    in_parts(static_cast<Index>(bytes), [&](Index offset, int n) {
        check_mpi(MPI_Bcast(static_cast<std::byte*>(data) + offset, n, MPI_BYTE, root, comm_),
                  "MPI_Bcast");
    });
    if (rank_ == root) ledger_->add_bytes(static_cast<double>(bytes) * (size_ - 1), size_ - 1);
}

void Communicator::broadcast(std::string& text, int root) const {
    auto length = static_cast<Index>(text.size());
    broadcast(std::span<Index>(&length, 1), root);
    text.resize(static_cast<std::size_t>(length));
    broadcast(std::span<char>(text), root);
}

void Communicator::all_gather_bytes(const void* mine, std::span<const Index> counts, void* all,
                                    std::size_t size) const {
    RANKFOLD_EXPECT(counts.size() == static_cast<std::size_t>(size_));
    const auto bytes_of = [&](int q) {
        return counts[static_cast<std::size_t>(q)] * static_cast<Index>(size);
    };
    Index total = 0;
    for (int q = 0; q < size_; ++q) total += bytes_of(q);
    if (total <= count_limit) {
        std::vector<int> lengths;
        std::vector<int> offsets;
        int offset = 0;
        for (int q = 0; q < size_; ++q) {
            lengths.push_back(static_cast<int>(bytes_of(q)));
            offsets.push_back(offset);
            offset += lengths.back();
        }
        check_mpi(MPI_Allgatherv(mine, lengths[static_cast<std::size_t>(rank_)], MPI_BYTE, all,
                                 lengths.data(), offsets.data(), MPI_BYTE, comm_),
                  "MPI_Allgatherv");
    } else {  // one broadcast a rank, each split as needed
        auto* to = static_cast<std::byte*>(all);
        for (int q = 0; q < size_; ++q) {
            if (q == rank_) std::copy_n(static_cast<const std::byte*>(mine), bytes_of(q), to);
            in_parts(bytes_of(q), [&](Index offset, int n) {
                check_mpi(MPI_Bcast(to + offset, n, MPI_BYTE, q, comm_), "MPI_Bcast");
            });
            to += bytes_of(q);
        }
    }
    ledger_->add_bytes(static_cast<double>(bytes_of(rank_)) * (size_ - 1), size_ - 1);
}

std::vector<std::string> Communicator::all_gather(const std::string& text) const {
    std::vector<Index> lengths;
    const std::vector<char> all =
        all_gather(std::span<const char>(text.data(), text.size()), &lengths);
    std::vector<std::string> texts;
    auto from = all.begin();
    for (const Index n : lengths) {
        texts.emplace_back(from, from + n);
        from += n;
    }
    return texts;
}

PendingExchange Communicator::start_bytes(const void* send, std::span<const Index> send_counts,
                                          void* recv, std::span<const Index> recv_counts,
                                          std::size_t size, std::span<const int> without) const {
    RANKFOLD_EXPECT(send_counts.size() == static_cast<std::size_t>(size_) &&
                    recv_counts.size() == static_cast<std::size_t>(size_));
    const std::vector<std::size_t> send_at = byte_offsets(send_counts, size);
    const std::vector<std::size_t> recv_at = byte_offsets(recv_counts, size);
    const auto to = [&](int q) {
        const auto all = std::span(static_cast<const std::byte*>(send), send_at.back());
        return std::ranges::count(without, q) > 0 ? all.first(0) : part_of(all, send_at, q);
    };
    const auto from = [&](int q) {
        return part_of(std::span(static_cast<std::byte*>(recv), recv_at.back()), recv_at, q);
    };
    const auto own_to = to(rank_);
    const auto own_from = from(rank_);
    RANKFOLD_EXPECT(own_to.size() == own_from.size());
    if (own_to.data() != own_from.data()) std::ranges::copy(own_to, own_from.begin());
    PendingExchange pending;
    pending.requests_ = std::make_unique<PendingExchange::Requests>();
    pending.requests_->start({comm_, rank_, size_, to, from}, *ledger_);
    return pending;
}

PendingExchange Communicator::start_barrier() const {
    PendingExchange pending;
    pending.requests_ = std::make_unique<PendingExchange::Requests>();
    pending.requests_->all.emplace_back();
    check_mpi(MPI_Ibarrier(comm_, &pending.requests_->all.back()), "MPI_Ibarrier");
    return pending;
}

PendingExchange Communicator::start_gather_bytes(std::span<const Index> counts, void* all,
                                                 std::size_t size) const {
    RANKFOLD_EXPECT(counts.size() == static_cast<std::size_t>(size_));
    const std::vector<std::size_t> parts = byte_offsets(counts, size);
    const auto part = [&](int q) {
        return part_of(std::span(static_cast<std::byte*>(all), parts.back()), parts, q);
    };
    PendingExchange pending;
    pending.requests_ = std::make_unique<PendingExchange::Requests>();
    const auto own = [&](int) { return part(rank_); };
    pending.requests_->start({comm_, rank_, size_, own, part}, *ledger_);
    return pending;
}

bool Communicator::all_agree(bool ok) const {
    return all_reduce(std::int32_t{ok ? 1 : 0}, Reduce::min) == 1;
}

void Communicator::agree(const std::optional<Error>& mine) const {
    const int failing = all_reduce(std::int32_t{mine ? rank_ : size_}, Reduce::min);
    if (failing == size_) return;
    auto fault = static_cast<std::int32_t>(mine ? mine->fault() : Fault::bug);
    broadcast(std::span<std::int32_t>(&fault, 1), failing);
    std::string message = mine ? mine->what() : "";
    broadcast(message, failing);
    throw Error(static_cast<Fault>(fault), message, true);
}

void Communicator::agree(const std::function<void()>& work) const {
    std::optional<Error> mine;
    try {
        work();
    } catch (const Error& error) {
        mine = error;
    } catch (const std::bad_alloc&) {
        mine = Error(Fault::system, concat("out of memory (rank ", rank_,
                                           "); use more ranks, or "
                                           "nodes with more memory"));
    }
    agree(mine);
}

std::unique_ptr<Communicator> Communicator::split(int color) const {
    RANKFOLD_EXPECT(color >= 0);
    MPI_Comm part = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split(comm_, color, rank_, &part), "MPI_Comm_split");
    return std::unique_ptr<Communicator>(new Communicator(part, *ledger_, Adopt{}));
}

void Communicator::set_count_limit(Index limit) {
    RANKFOLD_EXPECT(limit > 0 && limit <= INT_MAX);
    count_limit = limit;
}

}  // namespace rankfold
