// What every model is compared with: popularity and the global mean.
#pragma once

#include <span>
#include <vector>

#include <rankfold/eval/scorer.hpp>

namespace rankfold {

/// What the baselines and the treatment of unseen rows and columns need of the training part.
struct TrainingSummary {
    double mean = 0.0;  ///< of the stored values
    double least = 0.0;
    double greatest = 0.0;
    std::vector<Index> col_counts;  ///< entries of each column; the same on all ranks
};

/// @collective over train.comm(); the same bits on any number of ranks
template <Real R>
[[nodiscard]] TrainingSummary summarize(const BlockRowCsr<R>& train);
/// The same for a dense matrix, all of whose elements are entries.
template <Real R>
[[nodiscard]] TrainingSummary summarize(const BlockRows<R>& train);

/// What is left of a prediction when the row or column is unknown: mean + row bias + column bias.
struct Offsets {
    double mean = 0.0;
    std::vector<double> row_bias;  ///< m, or empty for none
    std::vector<double> col_bias;  ///< n, or empty for none

    /// @param row, col  −1 for one that the model does not know
    [[nodiscard]] double operator()(Index row, Index col) const;
};

/// The offsets of factors. @collective over the factors' communicator (the biases are gathered)
template <Real R>
[[nodiscard]] Offsets offsets_of(const Factors<R>& factors);

/// Scores each column the same for all rows.
template <Real R>
class ColumnScorer {
public:
    /// @param layout  of the rows to be scored
    ColumnScorer(ShardLayout layout, std::vector<R> scores)
        : layout_{std::move(layout)}, scores_{std::move(scores)} {}

    [[nodiscard]] Index rows() const { return layout_.rows(); }
    [[nodiscard]] Index cols() const { return static_cast<Index>(scores_.size()); }
    [[nodiscard]] const ShardLayout& layout() const { return layout_; }
    void scores(Range rows, MatrixView<R> out) const;
    void entries(Range rows, CsrView<R> where, std::span<R> out) const;

private:
    ShardLayout layout_;
    std::vector<R> scores_;
};

/// Scores columns by the number of their training entries; of equal ones the lower index wins.
template <Real R>
[[nodiscard]] ColumnScorer<R> popularity(const ShardLayout& layout,
                                         std::span<const Index> col_counts);

/// Predicts the same value everywhere.
template <Real R>
[[nodiscard]] ColumnScorer<R> constant_scorer(const ShardLayout& layout, Index cols, double value);

extern template class ColumnScorer<float>;
extern template class ColumnScorer<double>;

}  // namespace rankfold
