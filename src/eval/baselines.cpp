#include <rankfold/eval/baselines.hpp>

#include <algorithm>
#include <limits>
#include <numeric>

#include <rankfold/comm/reproducible_sum.hpp>

namespace rankfold {

namespace {

/// Mean and range of `rows` rows of values, given row by row, over all ranks.
template <class RowValues>
TrainingSummary value_summary(const Communicator& comm, Index rows, Index entries,
                              const RowValues& row_values) {
    std::vector<double> row_sums;
    double least = std::numeric_limits<double>::infinity();
    double greatest = -least;
    for (Index i = 0; i < rows; ++i) {
        double sum = 0.0;
        for (const auto value : row_values(i)) {
            sum += static_cast<double>(value);
            least = std::min(least, static_cast<double>(value));
            greatest = std::max(greatest, static_cast<double>(value));
        }
        row_sums.push_back(sum);
    }
    TrainingSummary summary;
    summary.least = comm.all_reduce(least, Reduce::min);
    summary.greatest = comm.all_reduce(greatest, Reduce::max);
    summary.mean = reproducible_sum(comm, row_sums) / static_cast<double>(entries);
    return summary;
}

}  // namespace

template <Real R>
TrainingSummary summarize(const BlockRowCsr<R>& train) {
    const CsrView<R> local = train.local().view();
    TrainingSummary summary = value_summary(train.comm(), local.rows, train.nnz(),
                                            [&](Index i) { return local.row_values(i); });
    summary.col_counts.assign(static_cast<std::size_t>(train.cols()), 0);
    for (Index i = 0; i < local.rows; ++i) {
        for (const ColIndex j : local.row_cols(i)) {
            ++summary.col_counts[static_cast<std::size_t>(j)];
        }
    }
    train.comm().all_reduce(std::span<Index>(summary.col_counts), Reduce::sum);
    return summary;
}

template <Real R>
TrainingSummary summarize(const BlockRows<R>& train) {
    TrainingSummary summary =
        value_summary(train.comm(), train.local().rows(), train.rows() * train.cols(),
                      [&](Index i) { return train.local().row(i); });
    summary.col_counts.assign(static_cast<std::size_t>(train.cols()), train.rows());
    return summary;
}

double Offsets::operator()(Index row, Index col) const {
    double value = mean;
    if (row >= 0 && !row_bias.empty()) value += row_bias[static_cast<std::size_t>(row)];
    if (col >= 0 && !col_bias.empty()) value += col_bias[static_cast<std::size_t>(col)];
    return value;
}

template <Real R>
Offsets offsets_of(const Factors<R>& factors) {
    const auto whole = [](const std::optional<BlockRows<R>>& bias) {
        std::vector<double> values;
        if (bias) {
            const DenseMatrix<R> all = gather_all(*bias);
            values.assign(all.data().begin(), all.data().end());
        }
        return values;
    };
    return {.mean = factors.global_mean,
            .row_bias = whole(factors.row_bias),
            .col_bias = whole(factors.col_bias)};
}

template <Real R>
void ColumnScorer<R>::scores(Range rows, MatrixView<R> out) const {
    for (Index t = 0; t < rows.size(); ++t) std::ranges::copy(scores_, out.row(t).begin());
}

template <Real R>
void ColumnScorer<R>::entries(Range rows, CsrView<R> where, std::span<R> out) const {
    auto to = out.begin();
    for (Index t = 0; t < rows.size(); ++t) {
        for (const ColIndex j : where.row_cols(t)) *to++ = scores_[static_cast<std::size_t>(j)];
    }
}

template <Real R>
ColumnScorer<R> popularity(const ShardLayout& layout, std::span<const Index> col_counts) {
    std::vector<std::size_t> order(col_counts.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::ranges::stable_sort(order, std::greater<>(), [&](std::size_t j) { return col_counts[j]; });
    // the place in this order, as a score: counts alone would leave ties
    std::vector<R> scores(col_counts.size());
    for (std::size_t place = 0; place < order.size(); ++place) {
        scores[order[place]] = -static_cast<R>(place);
    }
    return {layout, std::move(scores)};
}

template <Real R>
ColumnScorer<R> constant_scorer(const ShardLayout& layout, Index cols, double value) {
    return {layout, std::vector<R>(static_cast<std::size_t>(cols), static_cast<R>(value))};
}

#define RANKFOLD_INSTANTIATE(R)                                                      \
    template class ColumnScorer<R>;                                                  \
    template TrainingSummary summarize(const BlockRowCsr<R>&);                       \
    template TrainingSummary summarize(const BlockRows<R>&);                         \
    template Offsets offsets_of(const Factors<R>&);                                  \
    template ColumnScorer<R> popularity(const ShardLayout&, std::span<const Index>); \
    template ColumnScorer<R> constant_scorer(const ShardLayout&, Index, double);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
