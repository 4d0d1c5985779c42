// Samples that are rows of matrices, and samples that are entries.
#pragma once

#include <optional>
#include <variant>
#include <vector>

#include <rankfold/dist/row_exchange.hpp>
#include <rankfold/nn/samples.hpp>

namespace rankfold {

/// Rows that a network reads, dense or sparse, times a scale; each rank holds its own.
template <Real R>
class InputRows {
public:
    /// The rows of `matrix`, brought into `layout`. @collective over matrix.comm()
    InputRows(const BlockRows<R>& matrix, const ShardLayout& layout, double scale);
    InputRows(const BlockRowCsr<R>& matrix, const ShardLayout& layout, double scale);

    /// From now on every row is (row − mean) / deviation, column by column.
    void standardise(std::vector<R> mean, const std::vector<R>& deviation);

    [[nodiscard]] Index width() const;
    [[nodiscard]] const ShardLayout& layout() const noexcept { return layout_; }

    /// Writes a global row that this rank holds to `out` (width() elements).
    void copy_row(Index row, std::span<R> out) const;

private:
    ShardLayout layout_;
    Index first_row_;
    std::variant<DenseMatrix<R>, CsrMatrix<R>> rows_;
    std::vector<R> mean_;    // empty, or one a column
    std::vector<R> shrink_;  // 1 / deviation
};

/// Mean and deviation of every column.
template <Real R>
struct ColumnScale {
    std::vector<R> mean;
    std::vector<R> deviation;  ///< 1 for a column that is constant
};

/// Over the rows of all ranks; entries that a sparse matrix does not have are 0.
/// @collective over the matrix's communicator; the same bits on any number of ranks
template <Real R>
[[nodiscard]] ColumnScale<R> column_scale(const BlockRows<R>& matrix);
template <Real R>
[[nodiscard]] ColumnScale<R> column_scale(const BlockRowCsr<R>& matrix);

/// Samples that are rows: with a label each, or with a distribution over columns.
template <Real R>
class RowSamples {
public:
    /// Every row is a sample with its label.
    /// @param rows    BlockRows<R> or BlockRowCsr<R>, m x width
    /// @param labels  m x 1, in 0 … classes − 1
    /// @param blocks  micro-batches
    /// @collective over rows.comm()
    /// @throws Error (Fault::input), agreed: no rows, or a label out of range
    template <class Rows>
    RowSamples(const Rows& rows, double scale, const BlockRows<Index>& labels, Index classes,
               Index blocks);

    /// Loss::distribution: every row of `targets` (m x n) with a positive sum is a sample, whose
    /// target distribution is the row over its sum. Loss::masked, Loss::logistic_columns: every row
    /// with an entry, as it is.
    /// @collective over rows.comm()
    /// @throws Error (Fault::input), agreed: a negative target of a distribution, or no sample
    template <class Rows>
    RowSamples(const Rows& rows, double scale, const BlockRowCsr<R>& targets, Index blocks,
               Loss loss = Loss::distribution);

    [[nodiscard]] const Communicator& comm() const { return *comm_; }
    [[nodiscard]] Index samples() const { return samples_; }
    [[nodiscard]] Index blocks() const { return blocks_; }
    void fill(MicroBatch<R>& batch) const;

    void standardise(const ColumnScale<R>& scale) {
        input_->standardise(scale.mean, scale.deviation);
    }
    /// Gives every sample the weight of its class. @pre samples have labels
    void set_class_weights(std::vector<R> weights) { class_weights_ = std::move(weights); }
    /// Samples of every class (or with an entry in every column), over all ranks.
    [[nodiscard]] const std::vector<Index>& counts() const noexcept { return counts_; }

    /// log((targets of column j + 1) / (all targets + columns)): the output bias with which an
    /// untrained network predicts how often each column (or class) occurs.
    [[nodiscard]] const std::vector<R>& log_frequencies() const noexcept { return frequencies_; }

private:
    [[nodiscard]] ShardLayout deal(const ShardLayout& rows, const std::vector<Index>& chosen);
    void count_targets(std::vector<Index> counts);

    const Communicator* comm_;
    Index blocks_;
    Index samples_ = 0;
    Index first_sample_ = 0;          // of this rank
    std::vector<Index> sample_rows_;  // global row of each sample of this rank
    std::optional<InputRows<R>> input_;
    std::vector<Index> labels_;   // of this rank's samples
    CsrMatrix<R> distributions_;  // of this rank's rows
    Index first_row_ = 0;
    std::vector<Index> counts_;
    std::vector<R> frequencies_;
    std::vector<R> class_weights_;
};

/// Samples that are the entries (i, j) of a matrix: input [x_i, y_j], target the value.
template <Real R>
class PairSamples {
public:
    /// @param entries  m x n
    /// @param x, y     m x a and n x b; y is gathered whole on every rank, x where it is needed
    /// @collective over entries.comm()
    /// @throws Error (Fault::input), agreed: there are no entries
    PairSamples(const BlockRowCsr<R>& entries, const BlockRows<R>& x, const BlockRows<R>& y,
                Index blocks);

    [[nodiscard]] const Communicator& comm() const { return *comm_; }
    [[nodiscard]] Index samples() const { return samples_; }
    [[nodiscard]] Index blocks() const { return blocks_; }
    void fill(MicroBatch<R>& batch) const;

    /// The mean of all targets. @collective over comm()
    [[nodiscard]] double mean() const;

private:
    const Communicator* comm_;
    Index blocks_;
    Index samples_;
    Index first_sample_ = 0;
    DenseMatrix<Index> pairs_;  // this rank's samples x (row in x_, column)
    DenseMatrix<R> values_;     // this rank's samples x 1
    DenseMatrix<R> x_;          // the rows of X that this rank's samples need
    DenseMatrix<R> y_;          // n x b
};

extern template class InputRows<float>;
extern template class InputRows<double>;
extern template class RowSamples<float>;
extern template class RowSamples<double>;
extern template class PairSamples<float>;
extern template class PairSamples<double>;

}  // namespace rankfold
