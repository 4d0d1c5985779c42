// Ranking quality: the places of the test entries among their candidates.
#pragma once

#include <span>
#include <vector>

#include <rankfold/eval/metrics.hpp>

namespace rankfold {

/// The parts of a split matrix that a ranking needs, all in the scorer's row layout.
///
/// The candidates of a row are its test entries and, if `negatives` is given, its entries there;
/// else all columns in which it has no training or validation entry.
template <Real R>
struct RankingTask {
    const BlockRowCsr<R>& test;
    const BlockRowCsr<R>* train = nullptr;
    const BlockRowCsr<R>* validation = nullptr;
    const BlockRowCsr<R>* negatives = nullptr;
};

/// What a ranking gives, over the rows that have at least one test entry.
struct RankingQuality {
    std::vector<Estimate> metrics;  ///< means over rows, in the order asked for
    Index rows = 0;                 ///< that were counted
    Index rows_left_out = 0;        ///< without test entries
};

/// Evaluates a scorer on a ranking task.
///
/// The place of a test entry is 1 + the number of other candidates of its row whose score is not
/// lower: ties count against the model, and so do scores that are NaN.
///
/// @param wanted  metrics of places only
/// @collective over task.test.comm(); the same bits on any number of ranks and threads
/// @cost m n scores, or one a test entry and negative; memory: one score tile a thread
template <Real R>
[[nodiscard]] RankingQuality rank_quality(ScorerRef<R> scorer, const RankingTask<R>& task,
                                          std::span<const Metric> wanted, Index threads);

/// The value of a metric for one row.
///
///     hr@k          1 if a place is <= k, else 0
///     ndcg@k        Σ_{place <= k} 1/log2(place + 1)  over  Σ_{p=1}^{min(k, T)} 1/log2(p + 1)
///     recall@k      |{place <= k}| / T            recall-min@k   |{place <= k}| / min(k, T)
///     map@k         Σ_{place <= k} |{places <= place}| / place / min(k, T)
///     auc           share of the (test entry, other candidate) pairs in which the former scores
///                   higher; 1 if all candidates are test entries
///
/// @param places      of the row's T > 0 test entries, increasing
/// @param candidates  of the row, test entries among them
[[nodiscard]] double row_metric(const Metric& metric, std::span<const Index> places,
                                Index candidates);

/// The places of a row's test entries among all columns but the excluded ones, increasing.
/// @param test, excluded  columns, increasing; no column may be in both
template <Real R>
[[nodiscard]] std::vector<Index> places_among(std::span<const R> scores,
                                              std::span<const ColIndex> test,
                                              std::span<const ColIndex> excluded);

}  // namespace rankfold
