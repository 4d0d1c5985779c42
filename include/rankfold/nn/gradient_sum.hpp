// The sum of the micro-batches' gradients over all ranks, each slice at the rank that owns it.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include <rankfold/comm/communicator.hpp>
#include <rankfold/comm/shared_memory.hpp>
#include <rankfold/core/sum_tree.hpp>
#include <rankfold/linalg/dense.hpp>
#include <rankfold/nn/kernels.hpp>

namespace rankfold {

/// out ← Σ over a node's blocks of what leaf(block, to) writes to `to` (out.size() elements), in
/// the order of the tree. Allocates a copy of `out` for each level of the tree.
template <Real R, class Leaf>
void sum_tree(Range node, std::span<R> out, const Leaf& leaf) {
    if (node.size() == 1) {
        leaf(node.begin, out);
        return;
    }
    const auto [left, right] = tree_halves(node);
    sum_tree(left, out, leaf);
    AlignedVector<R> other(out.size());
    sum_tree(right, std::span<R>(other), leaf);
    add_to<R>(other, out);
}

/// How gradients are summed over the ranks.
struct SumOptions {
    /// The owner of a slice sums it and updates it alone; else every rank gets the whole sum, and
    /// updates all parameters.
    bool owner = true;
    /// The sum's bits do not depend on the ranks; else each rank is one block of its own, and a sum
    /// that all get is MPI's.
    bool reproducible = true;
    /// Each block is sent alone, so that it may be summed over several passes.
    bool by_block = false;
};

/// Adds gradients in a fixed binary tree over the micro-batches ("blocks"), so that the sum's bits
/// do not depend on the number of ranks.
///
///     blocks  0 1 2 3 4 5 6 7        rank 1 of 3 holds 2 … 4: its nodes are [2, 4) and [4, 5);
///     ranks   |0| |-1-| |-2-|        it adds block 2 and 3, sends two partials, no more
///
/// Every rank adds up the blocks of each of its nodes itself (partial()); the owner of a slice
/// receives that slice of every node of every rank, and adds them in the tree's order. Partials of
/// the ranks of one host lie in memory that they share: there the owner reads them in place, which
/// counts as sent. The array is cut into buckets, and every bucket into one slice a rank.
template <Real R>
class GradientSum {
public:
    /// @param blocks       micro-batches; rank r has even_part(blocks, p, r). Not reproducible:
    ///                     each rank has one
    /// @param bucket_ends  multiples of 16, increasing; the last is the array's length
    /// @pre the same on all ranks of `comm`, which must outlive this
    GradientSum(const Communicator& comm, Index blocks, std::vector<Index> bucket_ends,
                const SumOptions& options = {});

    GradientSum(const GradientSum&) = delete;
    GradientSum& operator=(const GradientSum&) = delete;
    ~GradientSum() = default;

    [[nodiscard]] Index buckets() const { return static_cast<Index>(ends_.size()); }
    [[nodiscard]] Range bucket(Index b) const;
    /// The part of a bucket that the rank updates, in positions of the whole array.
    [[nodiscard]] Range owned(Index b, int rank) const {
        return options_.owner ? slice(b, rank) : bucket(b);
    }

    /// This rank's nodes, and where the sum of a node's blocks is to be written (whole array).
    [[nodiscard]] const std::vector<Range>& nodes() const noexcept { return nodes_; }
    [[nodiscard]] std::span<R> partial(Index node) {
        return partials_[static_cast<std::size_t>(first_node_ + node)];
    }
    /// The largest number of nodes that a rank has.
    [[nodiscard]] Index most_nodes() const { return std::ranges::max(nodes_of_rank_); }
    /// How many nodes every rank has, and the additions over all of them, in rank order.
    [[nodiscard]] const std::vector<Index>& nodes_of_rank() const noexcept {
        return nodes_of_rank_;
    }
    [[nodiscard]] const std::vector<std::pair<Index, Index>>& additions() const noexcept {
        return additions_;
    }

    /// Sends the partials of a bucket to their owners; they stay untouched until the owners have
    /// summed them, which this rank knows when it has what they made of the sum.
    /// @collective over comm, buckets in increasing order
    void start(Index b);
    /// Lets the exchanges under way make progress.
    void progress();
    /// Waits until the bucket's exchange is over. @collective over comm if all ranks get the sum
    void finish(Index b);
    /// The sum over all blocks of `piece`, a part of what this rank updates of bucket b. Each piece
    /// may be asked for once after finish(); thread-safe on different pieces.
    /// @param room  of the piece's size, where the sum may be put; or empty: for summed() to find
    [[nodiscard]] std::span<const R> sum(Index b, Range piece, std::span<R> room = {});
    /// The same again.
    [[nodiscard]] std::span<const R> summed(Index b, Range piece);

private:
    [[nodiscard]] Range slice(Index b, int rank) const;
    [[nodiscard]] bool mpi_sums() const { return !options_.owner && !options_.reproducible; }
    [[nodiscard]] bool sends() const { return comm_->size() > 1 && !mpi_sums(); }
    [[nodiscard]] bool in_place(Index node) const {
        return !partials_[static_cast<std::size_t>(node)].empty();
    }
    [[nodiscard]] std::span<R> part(Index b, Index node, Range piece);
    void share();

    const Communicator* comm_;
    SumOptions options_;
    std::vector<Index> ends_;
    std::vector<Range> nodes_;                        // of this rank
    Index first_node_ = 0;                            // the number of its first among all nodes
    std::vector<Index> nodes_of_rank_;                // how many nodes every rank has
    std::vector<std::pair<Index, Index>> additions_;  // (to, from): over all ranks' nodes, in order
    std::vector<std::span<R>> partials_;  // one a node of all ranks, whole array; empty if not here
    std::vector<Index> received_place_;   // of the others' nodes in received_, in slices
    std::vector<int> here_;               // ranks whose partials are here, also this one

    std::unique_ptr<Communicator> host_;      // the ranks of this host, if they share…
    std::unique_ptr<SharedMemory> shared_;    // … the partials of all of them
    std::vector<AlignedVector<R>> own_;       // else this rank's
    std::vector<AlignedVector<R>> send_;      // one a bucket, if there are several nodes
    std::vector<AlignedVector<R>> received_;  // one a bucket: (nodes not here) x (own slice)
    AlignedVector<R> whole_;                  // if all ranks get the sum
    std::vector<PendingExchange> pending_;
    std::vector<PendingExchange> written_;  // a barrier of the host for each bucket
};

extern template class GradientSum<float>;
extern template class GradientSum<double>;

}  // namespace rankfold
