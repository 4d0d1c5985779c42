#include <rankfold/nn/gradient_sum.hpp>

#include <algorithm>
#include <atomic>

#include <rankfold/core/subscript.hpp>
#include <rankfold/nn/kernels.hpp>

namespace rankfold {

template <Real R>
GradientSum<R>::GradientSum(const Communicator& comm, Index blocks, std::vector<Index> bucket_ends,
                            const SumOptions& options)
    : comm_{&comm}, options_{options}, ends_{std::move(bucket_ends)} {
    RANKFOLD_EXPECT(blocks > 0 && !ends_.empty());
    if (!options_.reproducible) blocks = comm.size();
    std::vector<Range> held;
    for (int rank = 0; rank < comm.size(); ++rank) {
        const Range mine = even_part(blocks, comm.size(), rank);
        std::vector<Range> nodes = tree_nodes(blocks, mine);
        if (options_.by_block) {
            nodes.clear();
            for (Index b = mine.begin; b < mine.end; ++b) nodes.push_back({b, b + 1});
        }
        held.insert(held.end(), nodes.begin(), nodes.end());
        nodes_of_rank_.push_back(static_cast<Index>(nodes.size()));
        if (rank == comm.rank()) {
            nodes_ = nodes;
            first_node_ = static_cast<Index>(held.size() - nodes.size());
        }
    }
    additions_ = tree_additions(blocks, held);
    partials_.resize(held.size());
    pending_.resize(ends_.size());
    written_.resize(ends_.size());
    if (sends()) share();
    if (!shared_) {
        here_ = {comm.rank()};
        for (std::size_t n = 0; n < nodes_.size(); ++n) {
            partials_[at(first_node_) + n] = own_.emplace_back(at(ends_.back()), R{0});
        }
    }
    if (!sends()) return;
    Index elsewhere = 0;
    for (Index node = 0; node < std::ssize(held); ++node) {
        received_place_.push_back(elsewhere);
        if (!in_place(node)) ++elsewhere;
    }
    for (Index b = 0; b < buckets(); ++b) {
        received_.emplace_back(at(elsewhere * slice(b, comm.rank()).size()), R{0});
        Index sent = bucket(b).size();
        for (const int rank : here_) sent -= slice(b, rank).size();
        send_.emplace_back(nodes_.size() > 1 ? nodes_.size() * at(sent) : 0, R{0});
    }
    if (!options_.owner) whole_.assign(at(ends_.back()), R{0});
}

/// Puts the partials of the ranks of this host where all of them may read, if there is such memory.
template <Real R>
void GradientSum<R>::share() {
    host_ = ranks_of_host(*comm_);
    const std::size_t length = at(ends_.back());
    if (host_->size() > 1) {
        shared_ = std::make_unique<SharedMemory>(*host_, nodes_.size() * length * sizeof(R));
    }
    if (!shared_ || !shared_->good()) {
        shared_.reset();
        host_.reset();
        return;
    }
    here_ = host_->all_gather(comm_->rank());
    for (int i = 0; i < host_->size(); ++i) {
        const int rank = here_[at(i)];
        Index first = 0;
        for (int q = 0; q < rank; ++q) first += nodes_of_rank_[at(q)];
        R* partial = reinterpret_cast<R*>(shared_->part(i).data());
        for (Index n = first; n < first + nodes_of_rank_[at(rank)]; ++n, partial += length) {
            partials_[at(n)] = {partial, length};
        }
    }
}

template <Real R>
Range GradientSum<R>::bucket(Index b) const {
    return {b == 0 ? 0 : ends_[at(b - 1)], ends_[at(b)]};
}

template <Real R>
Range GradientSum<R>::slice(Index b, int rank) const {
    const Range whole = bucket(b);
    const Range lines = even_part(whole.size() / 16, comm_->size(), rank);
    return {whole.begin + 16 * lines.begin, whole.begin + 16 * lines.end};
}

template <Real R>
void GradientSum<R>::start(Index b) {
    if (!sends()) return;
    const Index mine = slice(b, comm_->rank()).size();
    const auto nodes = static_cast<Index>(nodes_.size());
    const auto bytes = [&](Index elements) {
        return static_cast<double>(elements * nodes) * sizeof(R);
    };
    std::vector<Index> send_counts;
    std::vector<Index> recv_counts;
    auto packed = send_[at(b)].begin();
    for (int q = 0; q < comm_->size(); ++q) {
        const Range to = slice(b, q);
        const bool here = std::ranges::count(here_, q) > 0;
        if (here && q != comm_->rank()) comm_->ledger().add_bytes(bytes(to.size()), 1.0);
        send_counts.push_back(here && nodes > 1 ? 0 : to.size() * nodes);
        recv_counts.push_back(here ? 0 : mine * nodes_of_rank_[at(q)]);
        for (Index n = 0; !here && nodes > 1 && n < nodes; ++n) {
            packed = std::copy_n(partial(n).begin() + to.begin, to.size(), packed);
        }
    }
    comm_->ledger().predict_bytes(bytes(bucket(b).size() - mine));
    std::span<const R> from = send_[at(b)];
    if (nodes == 1) from = partial(0).subspan(at(bucket(b).begin), at(bucket(b).size()));
    pending_[at(b)] = comm_->start_all_to_all(from, send_counts, std::span<R>(received_[at(b)]),
                                              recv_counts, here_);
    if (shared_) {
        std::atomic_thread_fence(std::memory_order_release);
        written_[at(b)] = host_->start_barrier();
    }
}

template <Real R>
void GradientSum<R>::progress() {
    for (PendingExchange& exchange : pending_) exchange.test();
    for (PendingExchange& barrier : written_) barrier.test();
}

template <Real R>
void GradientSum<R>::finish(Index b) {
    pending_[at(b)].wait();
    written_[at(b)].wait();
    std::atomic_thread_fence(std::memory_order_acquire);
    if (options_.owner || comm_->size() == 1) return;
    const Range all = bucket(b);
    if (mpi_sums()) {
        const std::span<R> mine = partial(0).subspan(at(all.begin), at(all.size()));
        const double p = comm_->size();
        comm_->ledger().predict_bytes(2.0 * (p - 1.0) / p * static_cast<double>(mine.size_bytes()));
        comm_->all_reduce(mine, Reduce::sum);
        return;
    }
    const Range mine = slice(b, comm_->rank());
    for (const auto& [to, from] : additions_) add_to<R>(part(b, from, mine), part(b, to, mine));
    const std::span<R> sum = part(b, 0, mine);
    std::ranges::copy(sum, whole_.begin() + mine.begin);
    std::vector<Index> counts;
    for (int q = 0; q < comm_->size(); ++q) counts.push_back(slice(b, q).size());
    comm_->ledger().predict_bytes(static_cast<double>(sum.size_bytes()) * (comm_->size() - 1));
    comm_->start_all_gather(counts, std::span<R>(whole_).subspan(at(all.begin), at(all.size())))
        .wait();
}

/// The partial of a node for `piece` of this rank's slice: in place, or received.
template <Real R>
std::span<R> GradientSum<R>::part(Index b, Index node, Range piece) {
    if (in_place(node)) return partials_[at(node)].subspan(at(piece.begin), at(piece.size()));
    const Range own = slice(b, comm_->rank());
    return std::span<R>(received_[at(b)])
        .subspan(at(received_place_[at(node)] * own.size() + piece.begin - own.begin),
                 at(piece.size()));
}

template <Real R>
std::span<const R> GradientSum<R>::sum(Index b, Range piece, std::span<R> room) {
    if ((!options_.owner && comm_->size() > 1) || additions_.empty()) return summed(b, piece);
    for (const auto& [to, from] : std::span(additions_).first(additions_.size() - 1)) {
        add_to<R>(part(b, from, piece), part(b, to, piece));
    }
    const auto [to, from] = additions_.back();  // to node 0, the root of the tree
    const std::span<R> sum = room.empty() ? part(b, to, piece) : room;
    add<R>(part(b, from, piece), part(b, to, piece), sum);
    return sum;
}

template <Real R>
std::span<const R> GradientSum<R>::summed(Index b, Range piece) {
    if (options_.owner || comm_->size() == 1) return part(b, 0, piece);
    return (mpi_sums() ? partial(0) : std::span<R>(whole_))
        .subspan(at(piece.begin), at(piece.size()));
}

template class GradientSum<float>;
template class GradientSum<double>;

}  // namespace rankfold
