// Metrics: their names, means with standard errors, errors of ratings, quality of classifications.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include <rankfold/eval/baselines.hpp>
#include <rankfold/eval/scorer.hpp>

namespace rankfold {

enum class MetricKind { hr, ndcg, recall, recall_min, map, auc, rmse, mae, accuracy, macro_f1 };

/// A metric that was asked for, e.g. hr@10.
struct Metric {
    MetricKind kind{};
    Index k = 0;  ///< the cut of the list, for those that have one
    std::string name;

    /// True for the metrics of places (see ranking.hpp).
    [[nodiscard]] bool ranks() const { return kind <= MetricKind::auc; }
    [[nodiscard]] bool rates() const { return kind == MetricKind::rmse || kind == MetricKind::mae; }
    [[nodiscard]] bool classifies() const { return kind >= MetricKind::accuracy; }
};

/// The metric called `name`: hr@K, ndcg@K, recall@K, recall-min@K, map@K, auc, rmse, mae, accuracy
/// or macro-f1. @throws Error (Fault::input) naming the known ones
[[nodiscard]] Metric parse_metric(const std::string& name);

/// A value and its standard error.
struct Estimate {
    double value = 0.0;
    double standard_error = 0.0;
};

/// The mean of each column of all ranks' `terms` (rows of `width` terms, one a sample), with the
/// standard error of the mean, s / √N. NaN without samples; the error is 0 for one sample.
/// @collective over comm; the same bits however the samples are spread over ranks
[[nodiscard]] std::vector<Estimate> mean_estimates(const Communicator& comm,
                                                   std::span<const double> terms,
                                                   std::size_t width);

/// How ratings are predicted where the scorer alone does not say.
template <Real R>
struct RatingRule {
    /// If set, in the scorer's row layout: entries whose row or column has no entry here are
    /// predicted as if absent, by the offsets instead of the scorer.
    const BlockRowCsr<R>* train = nullptr;
    const TrainingSummary* summary = nullptr;  ///< of `train`; set if and only if train is
    Offsets offsets{};
    std::optional<std::pair<double, double>> clip{};  ///< least and greatest prediction
};

/// What ratings cost. Standard errors are over entries; that of the RMSE by the delta method.
struct RatingErrors {
    Estimate rmse;
    Estimate mae;
    Index entries = 0;
    Index absent = 0;  ///< of these, predicted by the offsets
};

/// Compares the scorer's predictions with the entries of `test`.
///
/// @param test       in the scorer's row layout
/// @param strangers  entries of rows or columns (−1) that the model does not know, on any ranks
/// @collective over test.comm(); the same bits on any number of ranks
template <Real R>
[[nodiscard]] RatingErrors rating_errors(ScorerRef<R> scorer, const BlockRowCsr<R>& test,
                                         std::span<const Triplet<R>> strangers,
                                         const RatingRule<R>& rule, Index threads);

/// The same for a dense matrix: every element is an entry, and no row or column is absent.
template <Real R>
[[nodiscard]] RatingErrors rating_errors(ScorerRef<R> scorer, const BlockRows<R>& test,
                                         const RatingRule<R>& rule, Index threads);

/// How often class i (row) was predicted as class j (column), over all ranks.
///
/// The prediction is the column of the greatest score, the lowest of equal ones.
/// @param labels  m x 1, in the scorer's row layout; rows with a label outside 0 … cols − 1 (a
///                class that the model does not know) are left out
/// @collective over labels.comm()
template <Real R>
[[nodiscard]] DenseMatrix<Index> confusion(ScorerRef<R> scorer, const BlockRows<Index>& labels,
                                           Index threads);

/// What a confusion matrix says.
struct ClassificationQuality {
    Estimate accuracy;
    /// Mean of F1 = 2 TP / (2 TP + FP + FN) over the classes that occur as label or prediction;
    /// its standard error by the delta method.
    Estimate macro_f1;
    Index samples = 0;
};
[[nodiscard]] ClassificationQuality classification_quality(const DenseMatrix<Index>& confusion);

}  // namespace rankfold
