// Scores of factors plus a network on index pairs.
#pragma once

#include <optional>

#include <rankfold/eval/scorer.hpp>
#include <rankfold/nn/network.hpp>

namespace rankfold::cli {

/// score(i, j) = that of the factors, if there are any, + h(i, j), for a network h with the index
/// inputs "row" and "column" and one output. Thread-safe; its bits depend neither on ranks nor on
/// the layout.
template <Real R>
class JointScorer {
public:
    /// Both are borrowed. @collective over the factors' communicator
    JointScorer(const Factors<R>& factors, Network<R>& network);
    /// The network alone, in even shards of its rows.
    JointScorer(const Communicator& comm, Network<R>& network);

    [[nodiscard]] Index rows() const { return layout_.rows(); }
    [[nodiscard]] Index cols() const { return network_->graph().inputs[1].width; }
    [[nodiscard]] const ShardLayout& layout() const { return layout_; }
    [[nodiscard]] double flops_per_score() const {
        return (factors_ ? factors_->flops_per_score() : 0.0) + network_->forward_flops(1);
    }
    void scores(Range rows, MatrixView<R> out) const;
    void entries(Range rows, CsrView<R> where, std::span<R> out) const;

private:
    /// Adds h(row, columns(0)), … to `out`.
    template <class Columns>
    void add_network(Workspace<R>& ws, Index row, Index count, Columns columns, R* out) const;

    std::optional<FactorScorer<R>> factors_;
    Network<R>* network_;
    ShardLayout layout_;
};

extern template class JointScorer<float>;
extern template class JointScorer<double>;

}  // namespace rankfold::cli
