#include <rankfold/nn/gradient_sum.hpp>

#include <algorithm>
#include <numeric>

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
    partials_.resize(nodes_.size());
    for (auto& partial : partials_) partial.assign(at(ends_.back()), R{0});
    pending_.resize(ends_.size());
    if (comm.size() == 1 || mpi_sums()) return;
    for (Index b = 0; b < buckets(); ++b) {
        received_.emplace_back(held.size() * at(slice(b, comm.rank()).size()), R{0});
        send_.emplace_back(nodes_.size() > 1 ? nodes_.size() * at(bucket(b).size()) : 0, R{0});
    }
    if (!options_.owner) whole_.assign(at(ends_.back()), R{0});
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
    const int p = comm_->size();
    if (p == 1 || mpi_sums()) return;
    const Index mine = slice(b, comm_->rank()).size();
    std::vector<Index> send_counts;
    std::vector<Index> recv_counts;
    auto packed = send_[at(b)].begin();
    for (int q = 0; q < p; ++q) {
        const Range to = slice(b, q);
        send_counts.push_back(to.size() * static_cast<Index>(nodes_.size()));
        recv_counts.push_back(mine * nodes_of_rank_[at(q)]);
        if (nodes_.size() < 2) continue;
        for (const auto& partial : partials_) {
            packed = std::copy(partial.begin() + to.begin, partial.begin() + to.end, packed);
        }
    }
    std::span<const R> from = send_[at(b)];
    if (nodes_.size() == 1) {
        from = std::span<const R>(partials_[0]).subspan(at(bucket(b).begin), at(bucket(b).size()));
    }
    const double others = static_cast<double>(bucket(b).size() - mine);
    comm_->ledger().predict_bytes(others * static_cast<double>(nodes_.size() * sizeof(R)));
    pending_[at(b)] = comm_->start_all_to_all(from, send_counts, std::span<R>(received_[at(b)]),
                                              recv_counts, OwnPart::stays);
}

template <Real R>
void GradientSum<R>::progress() {
    for (PendingExchange& exchange : pending_) exchange.test();
}

template <Real R>
void GradientSum<R>::finish(Index b) {
    pending_[at(b)].wait();
    if (options_.owner || comm_->size() == 1) return;
    const Range all = bucket(b);
    if (mpi_sums()) {
        const std::span<R> mine = std::span<R>(partials_[0]).subspan(at(all.begin), at(all.size()));
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

/// The partial of a node for `piece` of this rank's slice: received, or this rank's own.
template <Real R>
std::span<R> GradientSum<R>::part(Index b, Index node, Range piece) {
    const Index mine = node - first_node_;
    if (mine >= 0 && mine < std::ssize(nodes_)) {
        return std::span<R>(partials_[at(mine)]).subspan(at(piece.begin), at(piece.size()));
    }
    const Range own = slice(b, comm_->rank());
    return std::span<R>(received_[at(b)])
        .subspan(at(node * own.size() + piece.begin - own.begin), at(piece.size()));
}

template <Real R>
std::span<const R> GradientSum<R>::sum(Index b, Range piece) {
    if (options_.owner || comm_->size() == 1) {
        for (const auto& [to, from] : additions_) {
            add_to<R>(part(b, from, piece), part(b, to, piece));
        }
    }
    return summed(b, piece);
}

template <Real R>
std::span<const R> GradientSum<R>::summed(Index b, Range piece) {
    if (options_.owner || comm_->size() == 1) return part(b, 0, piece);
    return std::span<const R>(mpi_sums() ? partials_[0] : whole_)
        .subspan(at(piece.begin), at(piece.size()));
}

template class GradientSum<float>;
template class GradientSum<double>;

}  // namespace rankfold
