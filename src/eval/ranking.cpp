#include <rankfold/eval/ranking.hpp>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "for_each_tile.hpp"

namespace rankfold {

namespace {

double gain(Index place) {
    return 1.0 / std::log2(static_cast<double>(place) + 1.0);
}

std::vector<ColIndex> merged(std::span<const ColIndex> a, std::span<const ColIndex> b) {
    std::vector<ColIndex> both;
    both.reserve(a.size() + b.size());
    std::ranges::set_union(a, b, std::back_inserter(both));
    return both;
}

/// The columns of `a` that are not in `b`.
std::vector<ColIndex> without(std::span<const ColIndex> a, std::span<const ColIndex> b) {
    std::vector<ColIndex> rest;
    std::ranges::set_difference(a, b, std::back_inserter(rest));
    return rest;
}

template <Real R>
std::span<const ColIndex> columns(const BlockRowCsr<R>* part, Index local_row) {
    if (part == nullptr) return {};
    return part->local().view().row_cols(local_row);
}

/// The candidates of some rows as a pattern: test entries and negatives.
template <Real R>
CsrMatrix<R> listed_candidates(const RankingTask<R>& task, Range local_rows) {
    CsrMatrix<R> list;
    list.cols = task.test.cols();
    for (Index i = local_rows.begin; i < local_rows.end; ++i) {
        const auto test = columns(&task.test, i);
        if (!test.empty()) {
            const auto row = merged(test, columns(task.negatives, i));
            list.col_idx.insert(list.col_idx.end(), row.begin(), row.end());
        }
        list.row_ptr.push_back(static_cast<Index>(list.col_idx.size()));
    }
    return list;
}

/// Ranks the rows of one tile and writes their metrics.
template <Real R>
class TileRanking {
public:
    TileRanking(ScorerRef<R> scorer, const RankingTask<R>& task, std::span<const Metric> wanted,
                std::span<double> values)
        : scorer_{scorer}, task_{task}, wanted_{wanted}, values_{values} {}

    void among_all(Range rows) const {
        const Index first = task_.test.first_row();
        if (task_.test.local().view().row_block({rows.begin - first, rows.end - first}).nnz() ==
            0) {
            return;
        }
        DenseMatrix<R> scores(rows.size(), scorer_.cols());
        scorer_.scores(rows, scores.view());
        for (Index i = rows.begin - first; i < rows.end - first; ++i) {
            const auto test = columns(&task_.test, i);
            if (test.empty()) continue;
            const auto excluded =
                without(merged(columns(task_.train, i), columns(task_.validation, i)), test);
            const std::span<const R> row = scores.row(i + first - rows.begin);
            write(i, places_among<R>(row, test, excluded),
                  scorer_.cols() - static_cast<Index>(excluded.size()));
        }
    }

    void among_listed(Range rows) const {
        const Index first = task_.test.first_row();
        const CsrMatrix<R> list = listed_candidates(task_, {rows.begin - first, rows.end - first});
        if (list.nnz() == 0) return;
        std::vector<R> scores(list.col_idx.size());
        const CsrView<R> where{list.rows(), list.cols, list.row_ptr.data(), list.col_idx.data(),
                               scores.data()};
        scorer_.entries(rows, where, scores);
        for (Index t = 0; t < where.rows; ++t) {
            if (where.row_nnz(t) == 0) continue;
            // test columns as positions in the row's list of candidates
            std::vector<ColIndex> positions;
            const auto candidates = where.row_cols(t);
            for (const ColIndex j : columns(&task_.test, rows.begin - first + t)) {
                positions.push_back(static_cast<ColIndex>(std::ranges::lower_bound(candidates, j) -
                                                          candidates.begin()));
            }
            write(rows.begin - first + t, places_among<R>(where.row_values(t), positions, {}),
                  where.row_nnz(t));
        }
    }

private:
    void write(Index local_row, std::span<const Index> places, Index candidates) const {
        for (std::size_t c = 0; c < wanted_.size(); ++c) {
            values_[static_cast<std::size_t>(local_row) * wanted_.size() + c] =
                row_metric(wanted_[c], places, candidates);
        }
    }

    ScorerRef<R> scorer_;
    const RankingTask<R>& task_;
    std::span<const Metric> wanted_;
    std::span<double> values_;
};

}  // namespace

double row_metric(const Metric& metric, std::span<const Index> places, Index candidates) {
    const auto total = static_cast<Index>(places.size());
    const Index least = std::min(metric.k, total);
    const Index hits = std::ranges::upper_bound(places, metric.k) - places.begin();
    // of equal places all have as many test entries at or before them
    const auto at_or_before = [&](Index place) {
        return static_cast<double>(std::ranges::upper_bound(places, place) - places.begin());
    };
    double sum = 0.0;
    switch (metric.kind) {
        case MetricKind::hr:
            return hits > 0 ? 1.0 : 0.0;
        case MetricKind::ndcg: {
            double ideal = 0.0;
            for (Index p = 1; p <= least; ++p) ideal += gain(p);
            for (Index t = 0; t < hits; ++t) sum += gain(places[static_cast<std::size_t>(t)]);
            return sum / ideal;
        }
        case MetricKind::recall:
            return static_cast<double>(hits) / static_cast<double>(total);
        case MetricKind::recall_min:
            return static_cast<double>(hits) / static_cast<double>(least);
        case MetricKind::map:
            for (const Index place : places.first(static_cast<std::size_t>(hits))) {
                sum += at_or_before(place) / static_cast<double>(place);
            }
            return sum / static_cast<double>(least);
        case MetricKind::auc: {
            const double others = static_cast<double>(candidates - total);
            if (others == 0.0) return 1.0;
            for (const Index place : places)
                sum += static_cast<double>(place) - at_or_before(place);
            return 1.0 - sum / (static_cast<double>(total) * others);
        }
        default:
            break;
    }
    throw Error(Fault::bug, metric.name + " is not a metric of places");
}

template <Real R>
std::vector<Index> places_among(std::span<const R> scores, std::span<const ColIndex> test,
                                std::span<const ColIndex> excluded) {
    std::vector<Index> places;
    for (const ColIndex t : test) {
        const R own = scores[static_cast<std::size_t>(t)];
        std::int32_t not_lower = 0;  // as narrow as the scores, so that the loop fills vectors
        for (const R score : scores) not_lower += !(score < own);
        for (const ColIndex j : excluded) not_lower -= !(scores[static_cast<std::size_t>(j)] < own);
        places.push_back(not_lower);  // it counts itself, hence no 1 +
    }
    std::ranges::sort(places);
    return places;
}

template <Real R>
RankingQuality rank_quality(ScorerRef<R> scorer, const RankingTask<R>& task,
                            std::span<const Metric> wanted, Index threads) {
    for (const auto* part : {&task.test, task.train, task.validation, task.negatives}) {
        RANKFOLD_EXPECT(part == nullptr ||
                        (part->layout() == scorer.layout() && part->cols() == scorer.cols()));
    }
    const Communicator& comm = task.test.comm();
    const auto phase = comm.ledger().phase("ranking");
    const CsrView<R> test = task.test.local().view();
    const auto tiles = score_tiles(scorer.layout(), comm.rank(), scorer.cols());
    std::vector<double> values(static_cast<std::size_t>(test.rows) * wanted.size(), 0.0);
    const TileRanking<R> ranking(scorer, task, wanted, values);
    for_each_tile(std::ssize(tiles), threads, [&](Index t) {
        const Range rows = tiles[static_cast<std::size_t>(t)];
        if (task.negatives == nullptr) {
            ranking.among_all(rows);
        } else {
            ranking.among_listed(rows);
        }
    });

    std::vector<double> counted;  // the values of the rows with test entries
    Index with_test = 0;
    Index listed = test.nnz();
    for (Index i = 0; i < test.rows; ++i) {
        if (test.row_nnz(i) == 0) continue;
        ++with_test;
        listed += std::ssize(columns(task.negatives, i));
        const auto from = values.begin() + i * std::ssize(wanted);
        counted.insert(counted.end(), from, from + std::ssize(wanted));
    }
    comm.ledger().add_flops(
        scorer.flops_per_score() *
        static_cast<double>(task.negatives == nullptr ? with_test * scorer.cols() : listed));
    RankingQuality quality;
    quality.rows = comm.all_reduce(with_test, Reduce::sum);
    quality.rows_left_out = scorer.rows() - quality.rows;
    quality.metrics = mean_estimates(comm, counted, wanted.size());
    return quality;
}

#define RANKFOLD_INSTANTIATE(R)                                                             \
    template std::vector<Index> places_among(std::span<const R>, std::span<const ColIndex>, \
                                             std::span<const ColIndex>);                    \
    template RankingQuality rank_quality(ScorerRef<R>, const RankingTask<R>&,               \
                                         std::span<const Metric>, Index);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
