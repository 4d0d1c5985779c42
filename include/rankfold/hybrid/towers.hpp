// Towers: networks that map what is known of a row (or column) to its factors.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <rankfold/nn/trainer.hpp>

namespace rankfold {

/// The shape of a tower: its inputs side by side are x, and its output
///
///     f(x) = W x + b + V h(x),   h: hidden ReLU layers (without them f is linear).
///
/// Free embeddings, entries and features enter x through a table each, of `embedding` columns:
/// a row of the table, or the sum of the rows of the entries' columns times their values, which is
/// a sparse first layer.
struct TowerShape {
    Index k = 32;                 ///< outputs
    Index embedding = 32;         ///< columns of the tables
    std::vector<Index> hidden{};  ///< widths of the hidden layers
    double dropout = 0.0;         ///< of the hidden layers
};

/// What one tower reads of every row of its side (rows of A for f, columns of A for g); borrowed.
/// At least one is given.
template <Real R>
struct TowerInputs {
    bool embeddings = false;                   ///< a free embedding of every row, learnt
    const BlockRowCsr<R>* entries = nullptr;   ///< the rows of A (or Aᵀ), brought to unit length
    const BlockRowCsr<R>* features = nullptr;  ///< side features, brought to unit length
    const BlockRows<R>* factors = nullptr;     ///< given factors, which stay as they are
};

/// How wide each of the inputs is; 0: not read.
struct TowerWidths {
    Index embeddings = 0;  ///< rows of the side
    Index entries = 0;
    Index features = 0;
    Index factors = 0;

    [[nodiscard]] Index inputs() const {
        return (embeddings > 0 ? 1 : 0) + (entries > 0 ? 1 : 0) + (features > 0 ? 1 : 0) +
               (factors > 0 ? 1 : 0);
    }
};

template <Real R>
[[nodiscard]] TowerWidths widths_of(const TowerInputs<R>& inputs, Index rows);

/// One tower, with inputs and layers called SIDE_…; the last layer is SIDE_tower.
/// @param side  "row" or "column"
[[nodiscard]] Graph tower_graph(const std::string& side, const TowerWidths& widths,
                                const TowerShape& shape);

/// Both towers side by side, with the output [f, g].
[[nodiscard]] Graph both_towers(const Graph& row, const Graph& column);

/// One tower of such a graph, also of one in which layers became factored.
[[nodiscard]] Graph one_tower(const Graph& towers, const std::string& side);

/// What the tower of this side in such a graph reads.
/// @throws Error (Fault::input), on all ranks alike: the graph is not one of both_towers()
[[nodiscard]] TowerWidths widths_in(const Graph& towers, const std::string& side);

/// Copies the parameters that two networks both have, by their paths.
template <Real R>
void copy_parameters(const Network<R>& from, Network<R>& to);

/// Makes a tower begin as these factors: they become the embeddings (or, if the tower reads them,
/// stay where they are), W the identity on them and 0 elsewhere, V = 0. Factors beyond k are left
/// out.
/// @param factors  of all rows, the same on all ranks
/// @param scale    what factors that are read were multiplied by
/// @param logits   true if f·g are logits: then W is √8 times that, and, if there are more outputs
///                 than factors, b makes of them 8 x·y − 4, a logit of scores between 0 and 1
template <Real R>
void begin_with(const DenseMatrix<R>& factors, double scale, const std::string& side, bool logits,
                Network<R>& tower);

/// The rows that a tower reads, in a layout of their own.
template <Real R>
class TowerRows {
public:
    /// @collective over comm
    TowerRows(const Communicator& comm, const ShardLayout& layout, const TowerInputs<R>& inputs);

    [[nodiscard]] const ShardLayout& layout() const noexcept { return layout_; }
    [[nodiscard]] const TowerWidths& widths() const noexcept { return widths_; }
    /// Power of two that the factors were multiplied by.
    [[nodiscard]] double factor_scale() const noexcept { return factor_scale_; }

    /// From now on read() leaves out this share of the entries, others in each epoch, and makes up
    /// for it in the rest (as dropout does). Drawn by counters: the same on any number of ranks.
    void leave_out(double share, std::uint64_t seed, Index epoch);
    void leave_out_nothing() { thinned_.reset(); }

    /// How often every row of the tower's tables is read by an epoch, one list for each table.
    /// @collective over comm
    [[nodiscard]] std::vector<std::vector<double>> visits(const Communicator& comm) const;

    /// Writes what the tower reads of a row that this rank holds to place `t` of the batch.
    /// @param first  place of the tower's first input in the graph
    void read(Index row, Index first, Index t, MicroBatch<R>& batch) const;

private:
    ShardLayout layout_;
    Index first_row_;
    TowerWidths widths_;
    std::optional<CsrMatrix<R>> entries_;
    std::optional<CsrMatrix<R>> thinned_;
    std::optional<CsrMatrix<R>> features_;
    DenseMatrix<R> factors_;
    double factor_scale_ = 1.0;
};

/// Writes f of every row of `out` that this rank holds, a tile at a time; its bits depend on that
/// row alone.
/// @param network  one tower, or both: then `column` says which
/// @param out      k columns, in the layout of `rows`
template <Real R>
void tower_outputs(Network<R>& network, const TowerRows<R>& rows, bool column, Index threads,
                   BlockRows<R>& out);

extern template class TowerRows<float>;
extern template class TowerRows<double>;

}  // namespace rankfold
