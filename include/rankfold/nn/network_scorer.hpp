// A trained network as a scorer of rows (see eval/scorer.hpp for what that is).
#pragma once

#include <optional>

#include <rankfold/nn/network.hpp>
#include <rankfold/nn/row_samples.hpp>

namespace rankfold {

/// Scores of rows by a network: its outputs for a row (logits of classes or columns), or its one
/// output for every pair of a row and a column.
///
/// Thread-safe and without communication. A row's bits depend on its global index alone, not on the
/// layout: it is always computed at its place in a tile of fixed size.
template <Real R>
class NetworkScorer {
public:
    /// Scores row i by the network's outputs for input row i.
    /// @param network  borrowed; its parameters must not change afterwards
    /// @param tile     rows computed at once; callers ask for no rows on both sides of a multiple
    NetworkScorer(Network<R>& network, InputRows<R> rows, Index tile);

    /// Scores (i, j) by the network's output for the input [x_i, y_j].
    /// @param y  one row a column, on every rank
    NetworkScorer(Network<R>& network, InputRows<R> x, DenseMatrix<R> y);

    [[nodiscard]] Index rows() const { return rows_.layout().rows(); }
    [[nodiscard]] Index cols() const { return y_ ? y_->rows() : network_->outputs(); }
    [[nodiscard]] const ShardLayout& layout() const { return rows_.layout(); }
    [[nodiscard]] double flops_per_score() const;

    void scores(Range rows, MatrixView<R> out) const;
    void entries(Range rows, CsrView<R> where, std::span<R> out) const;

private:
    /// Scores of row `row` and the columns columns(0), …, columns(count − 1).
    template <class Columns>
    void score_pairs(Workspace<R>& ws, Index row, Index count, Columns columns, R* out) const;

    Network<R>* network_;
    InputRows<R> rows_;
    std::optional<DenseMatrix<R>> y_;
    Index tile_;
};

extern template class NetworkScorer<float>;
extern template class NetworkScorer<double>;

}  // namespace rankfold
