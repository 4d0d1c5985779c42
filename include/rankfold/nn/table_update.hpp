// Embedding tables in training: rows are fetched and updated as a batch touches them.
#pragma once

#include <vector>

#include <rankfold/dist/row_exchange.hpp>
#include <rankfold/nn/gradient_sum.hpp>
#include <rankfold/nn/network.hpp>
#include <rankfold/nn/optimizer.hpp>
#include <rankfold/nn/row_groups.hpp>

namespace rankfold {

/// A sample that names a row of an embedding, and the entry's value (1, unless the input is
/// sparse).
template <Real R>
struct Naming {
    Index sample = 0;
    R value = 1;
};

/// Trains the tables of a network's embeddings.
///
/// Each rank owns the rows even_part(rows, p, r) of every table, and the moments of those alone.
/// Before a batch, a rank fetches the rows that its samples name, each once (RowExchange), into its
/// copy in the arena. After the backward pass it sends each of them the sum of its samples'
/// gradients (times the entry's value, if the input is sparse), one for each of its nodes of
/// blocks; the owner adds them in the order of the tree and
/// updates the row. Rows that no sample names are not touched, and neither are their moments (lazy
/// Adam, as PyTorch's SparseAdam). Tables that one input indexes travel together.
template <Real R>
class TableUpdate {
public:
    /// @param sum  whose nodes of blocks are used; borrowed, as is the network
    TableUpdate(const Communicator& comm, Network<R>& network, const GradientSum<R>& sum);

    [[nodiscard]] bool empty() const noexcept { return sides_.empty(); }

    /// Brings the rows that the batch names up to date. @collective
    void fetch(const Workspace<R>& ws);

    /// Sends the batch's gradients to the rows' owners, and sums them there.
    /// @param nodes  of blocks, as in ws.ends; one for each of the sum's nodes on this rank
    /// @collective
    void collect(const Workspace<R>& ws, std::span<const Range> nodes);

    /// Appends Σ g² of every row of every table that this rank updates in this step.
    void add_squares(std::vector<double>& terms) const;

    /// Updates the collected rows. @return whether all their gradients are finite
    [[nodiscard]] bool update(const Optimizer<R>& optimizer);

    /// Makes the arena's tables whole on every rank. @collective
    void gather();

    /// Adds the moments in global layout: "moments/first/embeddings/<name>", …
    void list(bool second, TensorList& state);

private:
    struct Table {
        Index layer = 0;
        MatrixView<R> values;    // the whole table, in the arena
        AlignedVector<R> first;  // moments of this rank's rows
        AlignedVector<R> second;
        std::string path;
    };
    /// The tables that one index or sparse input names.
    struct Side {
        Index input = 0;
        bool sparse = false;
        Index width = 0;  // of all its tables
        ShardLayout layout;
        std::vector<Table> tables;
        RowGroups<Naming<R>> named;  // rows of the batch
        std::unique_ptr<RowExchange> exchange;
        std::vector<R> sent;        // named rows x (nodes x width)
        std::vector<R> received;    // the owner's: requested rows x (nodes x width)
        RowGroups<Index> requests;  // own rows that ranks name: places in received
        std::vector<R> gradients;   // requested rows x width
    };

    void plan(Side& side, const Workspace<R>& ws);
    void sum_samples(Side& side, const Workspace<R>& ws, std::span<const Range> nodes) const;
    void sum_requests(Side& side);
    [[nodiscard]] Range own_rows(const Side& side) const {
        return side.layout.rank_rows(comm_->rank());
    }

    const Communicator* comm_;
    const Network<R>* network_;
    const GradientSum<R>* sum_;
    std::vector<Side> sides_;
};

extern template class TableUpdate<float>;
extern template class TableUpdate<double>;

}  // namespace rankfold
