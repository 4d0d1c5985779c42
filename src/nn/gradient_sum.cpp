#include <rankfold/nn/gradient_sum.hpp>

#include <algorithm>
#include <numeric>

#include <rankfold/nn/kernels.hpp>

namespace rankfold {

namespace {

std::size_t at(Index i) {
    return static_cast<std::size_t>(i);
}

}  // namespace

template <Real R>
GradientSum<R>::GradientSum(const Communicator& comm, Index blocks, std::vector<Index> bucket_ends)
    : comm_{&comm}, ends_{std::move(bucket_ends)} {
    RANKFOLD_EXPECT(blocks > 0 && !ends_.empty());
    std::vector<Range> held;
    for (int rank = 0; rank < comm.size(); ++rank) {
        const auto nodes = tree_nodes(blocks, even_part(blocks, comm.size(), rank));
        held.insert(held.end(), nodes.begin(), nodes.end());
        nodes_of_rank_.push_back(static_cast<Index>(nodes.size()));
        if (rank == comm.rank()) nodes_ = nodes;
    }
    additions_ = tree_additions(blocks, held);
    partials_.resize(nodes_.size());
    for (auto& partial : partials_) partial.assign(at(ends_.back()), R{0});
    pending_.resize(ends_.size());
    if (comm.size() == 1) return;
    for (Index b = 0; b < buckets(); ++b) {
        received_.emplace_back(held.size() * at(owned(b, comm.rank()).size()), R{0});
        send_.emplace_back(nodes_.size() > 1 ? nodes_.size() * at(bucket(b).size()) : 0, R{0});
    }
}

template <Real R>
Range GradientSum<R>::bucket(Index b) const {
    return {b == 0 ? 0 : ends_[at(b - 1)], ends_[at(b)]};
}

template <Real R>
Range GradientSum<R>::owned(Index b, int rank) const {
    const Range whole = bucket(b);
    const Range lines = even_part(whole.size() / 16, comm_->size(), rank);
    return {whole.begin + 16 * lines.begin, whole.begin + 16 * lines.end};
}

template <Real R>
void GradientSum<R>::start(Index b) {
    const int p = comm_->size();
    if (p == 1) return;
    const Index mine = owned(b, comm_->rank()).size();
    std::vector<Index> send_counts;
    std::vector<Index> recv_counts;
    auto packed = send_[at(b)].begin();
    for (int q = 0; q < p; ++q) {
        const Range slice = owned(b, q);
        send_counts.push_back(slice.size() * static_cast<Index>(nodes_.size()));
        recv_counts.push_back(mine * nodes_of_rank_[at(q)]);
        if (nodes_.size() < 2) continue;
        for (const auto& partial : partials_) {
            packed = std::copy(partial.begin() + slice.begin, partial.begin() + slice.end, packed);
        }
    }
    std::span<const R> from = send_[at(b)];
    if (nodes_.size() == 1) {
        from = std::span<const R>(partials_[0]).subspan(at(bucket(b).begin), at(bucket(b).size()));
    }
    const double others = static_cast<double>(bucket(b).size() - mine);
    comm_->ledger().predict_bytes(others * static_cast<double>(nodes_.size() * sizeof(R)));
    pending_[at(b)] =
        comm_->start_all_to_all(from, send_counts, std::span<R>(received_[at(b)]), recv_counts);
}

template <Real R>
void GradientSum<R>::progress() {
    for (PendingExchange& exchange : pending_) exchange.test();
}

template <Real R>
void GradientSum<R>::finish(Index b) {
    pending_[at(b)].wait();
}

template <Real R>
std::span<const R> GradientSum<R>::sum(Index b, Range piece) {
    const auto count = at(piece.size());
    if (comm_->size() == 1) {
        return std::span<const R>(partials_[0]).subspan(at(piece.begin), count);
    }
    const Range slice = owned(b, comm_->rank());
    const auto part = [&](Index node) {
        return std::span<R>(received_[at(b)])
            .subspan(at(node * slice.size() + piece.begin - slice.begin), count);
    };
    for (const auto& [to, from] : additions_) add_to<R>(part(from), part(to));
    return part(0);
}

template class GradientSum<float>;
template class GradientSum<double>;

}  // namespace rankfold
