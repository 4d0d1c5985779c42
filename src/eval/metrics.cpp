#include <rankfold/eval/metrics.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <numeric>

#include <rankfold/comm/reproducible_sum.hpp>

#include "for_each_tile.hpp"

namespace rankfold {

namespace {

struct KnownMetric {
    const char* name;
    MetricKind kind;
    bool has_cut;
};
constexpr KnownMetric known_metrics[] = {
    {"hr", MetricKind::hr, true},
    {"ndcg", MetricKind::ndcg, true},
    {"recall", MetricKind::recall, true},
    {"recall-min", MetricKind::recall_min, true},
    {"map", MetricKind::map, true},
    {"auc", MetricKind::auc, false},
    {"rmse", MetricKind::rmse, false},
    {"mae", MetricKind::mae, false},
    {"accuracy", MetricKind::accuracy, false},
    {"macro-f1", MetricKind::macro_f1, false},
};

/// Σ e², Σ |e| and Σ e⁴ over entries, gathered row by row.
constexpr std::size_t error_sums = 3;

void add_error(double predicted, double rating, const auto& clip, double* sums) {
    if (clip) predicted = std::clamp(predicted, clip->first, clip->second);
    const double square = (predicted - rating) * (predicted - rating);
    sums[0] += square;
    sums[1] += std::abs(predicted - rating);
    sums[2] += square * square;
}

RatingErrors errors_from(const Communicator& comm, std::span<const double> row_sums,
                         Index entries) {
    double sums[error_sums];
    reproducible_sum(comm, row_sums, sums);
    const double n = static_cast<double>(entries);
    const auto error_of_mean = [n](double mean, double mean_square) {
        return n > 1.0 ? std::sqrt(std::max(0.0, mean_square - mean * mean) / (n - 1.0)) : 0.0;
    };
    const double mse = sums[0] / n;
    const double mae = sums[1] / n;
    const double rmse = std::sqrt(mse);
    return {.rmse = {rmse, rmse > 0.0 ? error_of_mean(mse, sums[2] / n) / (2.0 * rmse) : 0.0},
            .mae = {mae, error_of_mean(mae, mse)},
            .entries = entries};
}

}  // namespace

Metric parse_metric(const std::string& name) {
    const std::size_t at = name.find('@');
    for (const KnownMetric& known : known_metrics) {
        if (name.substr(0, at) != known.name) continue;
        if (!known.has_cut && at == std::string::npos) return {known.kind, 0, name};
        if (!known.has_cut) throw input_error("the metric ", known.name, " has no cut: not ", name);
        Index k = 0;
        const std::string cut = at == std::string::npos ? "" : name.substr(at + 1);
        const auto [end, failure] = std::from_chars(cut.data(), cut.data() + cut.size(), k);
        if (failure != std::errc{} || end != cut.data() + cut.size() || k < 1) {
            throw input_error("the metric ", name, " needs the length of the list, as in ",
                              known.name, "@10");
        }
        return {known.kind, k, name};
    }
    throw input_error("unknown metric ", name,
                      ": known are hr@K, ndcg@K, recall@K, recall-min@K, map@K, auc, rmse, mae, "
                      "accuracy and macro-f1");
}

std::vector<Estimate> mean_estimates(const Communicator& comm, std::span<const double> terms,
                                     std::size_t width) {
    const auto n =
        static_cast<double>(comm.all_reduce(static_cast<Index>(terms.size() / width), Reduce::sum));
    std::vector<double> means(width);
    reproducible_sum(comm, terms, means);
    for (double& mean : means) mean /= n;
    std::vector<double> squares(terms.size());
    for (std::size_t e = 0; e < terms.size(); ++e) {
        squares[e] = (terms[e] - means[e % width]) * (terms[e] - means[e % width]);
    }
    std::vector<double> sums(width);
    reproducible_sum(comm, squares, sums);
    std::vector<Estimate> estimates;
    for (std::size_t c = 0; c < width; ++c) {
        estimates.push_back({means[c], n > 1.0 ? std::sqrt(sums[c] / (n - 1.0) / n) : 0.0});
    }
    return estimates;
}

template <Real R>
RatingErrors rating_errors(ScorerRef<R> scorer, const BlockRowCsr<R>& test,
                           std::span<const Triplet<R>> strangers, const RatingRule<R>& rule,
                           Index threads) {
    RANKFOLD_EXPECT(test.layout() == scorer.layout() && test.cols() == scorer.cols());
    RANKFOLD_EXPECT((rule.train == nullptr) == (rule.summary == nullptr));
    RANKFOLD_EXPECT(rule.train == nullptr || rule.train->layout() == scorer.layout());
    const Communicator& comm = test.comm();
    const auto phase = comm.ledger().phase("rating errors");
    const CsrView<R> local = test.local().view();
    const Index first = test.first_row();
    const auto tiles = score_tiles(scorer.layout(), comm.rank(), scorer.cols());
    std::vector<double> sums(static_cast<std::size_t>(local.rows) * error_sums, 0.0);
    std::vector<Index> absent(static_cast<std::size_t>(local.rows), 0);
    for_each_tile(std::ssize(tiles), threads, [&](Index t) {
        const Range rows = tiles[static_cast<std::size_t>(t)];
        const CsrView<R> where = local.row_block({rows.begin - first, rows.end - first});
        if (where.nnz() == 0) return;
        std::vector<R> scores(static_cast<std::size_t>(where.nnz()));
        scorer.entries(rows, where, scores);
        auto score = scores.begin();
        for (Index i = rows.begin - first; i < rows.end - first; ++i) {
            const bool known_row =
                rule.train == nullptr || rule.train->local().view().row_nnz(i) > 0;
            for (Index e = local.row_ptr[i]; e < local.row_ptr[i + 1]; ++e, ++score) {
                const Index j = local.col_idx[e];
                const bool known =
                    known_row && (rule.train == nullptr ||
                                  rule.summary->col_counts[static_cast<std::size_t>(j)] > 0);
                if (!known) ++absent[static_cast<std::size_t>(i)];
                add_error(known ? static_cast<double>(*score) : rule.offsets(first + i, j),
                          static_cast<double>(local.values[e]), rule.clip,
                          &sums[static_cast<std::size_t>(i) * error_sums]);
            }
        }
    });
    comm.ledger().add_flops(scorer.flops_per_score() * static_cast<double>(local.nnz()));
    for (const Triplet<R>& entry : strangers) {
        double one[error_sums] = {};
        add_error(rule.offsets(entry.row, entry.col), static_cast<double>(entry.value), rule.clip,
                  one);
        sums.insert(sums.end(), std::begin(one), std::end(one));
    }
    const auto foreign = static_cast<Index>(strangers.size());
    RatingErrors errors =
        errors_from(comm, sums, comm.all_reduce(local.nnz() + foreign, Reduce::sum));
    errors.absent =
        comm.all_reduce(std::accumulate(absent.begin(), absent.end(), foreign), Reduce::sum);
    return errors;
}

template <Real R>
RatingErrors rating_errors(ScorerRef<R> scorer, const BlockRows<R>& test, const RatingRule<R>& rule,
                           Index threads) {
    RANKFOLD_EXPECT(test.layout() == scorer.layout() && test.cols() == scorer.cols());
    const Communicator& comm = test.comm();
    const auto phase = comm.ledger().phase("rating errors");
    const Index first = test.first_row();
    const auto tiles = score_tiles(scorer.layout(), comm.rank(), scorer.cols());
    std::vector<double> sums(static_cast<std::size_t>(test.local().rows()) * error_sums, 0.0);
    for_each_tile(std::ssize(tiles), threads, [&](Index t) {
        const Range rows = tiles[static_cast<std::size_t>(t)];
        DenseMatrix<R> scores(rows.size(), scorer.cols());
        scorer.scores(rows, scores.view());
        for (Index i = rows.begin; i < rows.end; ++i) {
            for (Index j = 0; j < scorer.cols(); ++j) {
                add_error(static_cast<double>(scores(i - rows.begin, j)),
                          static_cast<double>(test.local()(i - first, j)), rule.clip,
                          &sums[static_cast<std::size_t>(i - first) * error_sums]);
            }
        }
    });
    comm.ledger().add_flops(scorer.flops_per_score() *
                            static_cast<double>(test.local().rows() * test.cols()));
    return errors_from(comm, sums, test.rows() * test.cols());
}

template <Real R>
DenseMatrix<Index> confusion(ScorerRef<R> scorer, const BlockRows<Index>& labels, Index threads) {
    RANKFOLD_EXPECT(labels.layout() == scorer.layout());
    const Communicator& comm = labels.comm();
    const auto phase = comm.ledger().phase("classification");
    const Index classes = scorer.cols();
    const Index first = labels.first_row();
    const auto tiles = score_tiles(scorer.layout(), comm.rank(), classes);
    std::vector<Index> predicted(static_cast<std::size_t>(labels.local().rows()), 0);
    for_each_tile(std::ssize(tiles), threads, [&](Index t) {
        const Range rows = tiles[static_cast<std::size_t>(t)];
        DenseMatrix<R> scores(rows.size(), classes);
        scorer.scores(rows, scores.view());
        for (Index i = 0; i < rows.size(); ++i) {
            const auto row = scores.row(i);
            predicted[static_cast<std::size_t>(rows.begin - first + i)] =
                std::ranges::max_element(row) - row.begin();
        }
    });
    comm.ledger().add_flops(scorer.flops_per_score() *
                            static_cast<double>(labels.local().rows() * classes));
    DenseMatrix<Index> counts(classes, classes);
    for (Index i = 0; i < labels.local().rows(); ++i) {
        const Index label = labels.local()(i, 0);
        if (label < 0 || label >= classes) continue;
        ++counts(label, predicted[static_cast<std::size_t>(i)]);
    }
    comm.all_reduce(counts.data(), Reduce::sum);
    return counts;
}

ClassificationQuality classification_quality(const DenseMatrix<Index>& confusion) {
    const Index classes = confusion.rows();
    std::vector<double> labelled(static_cast<std::size_t>(classes), 0.0);
    std::vector<double> predicted(labelled);
    double right = 0.0;
    for (Index i = 0; i < classes; ++i) {
        for (Index j = 0; j < classes; ++j) {
            labelled[static_cast<std::size_t>(i)] += static_cast<double>(confusion(i, j));
            predicted[static_cast<std::size_t>(j)] += static_cast<double>(confusion(i, j));
        }
        right += static_cast<double>(confusion(i, i));
    }
    const double n = std::accumulate(labelled.begin(), labelled.end(), 0.0);
    ClassificationQuality quality;
    quality.samples = static_cast<Index>(n);
    const double p = right / n;
    quality.accuracy = {p, n > 1.0 ? std::sqrt(p * (1.0 - p) / (n - 1.0)) : 0.0};

    // F1_c = 2 a_c / b_c with a_c, b_c means over samples; its derivative gives each sample's
    // influence, which depends on (label, prediction) only
    std::vector<double> f1(labelled.size(), 0.0);
    double occurring = 0.0;
    for (std::size_t c = 0; c < f1.size(); ++c) {
        const double b = labelled[c] + predicted[c];
        if (b == 0.0) continue;
        occurring += 1.0;
        f1[c] =
            2.0 * static_cast<double>(confusion(static_cast<Index>(c), static_cast<Index>(c))) / b;
    }
    double variance = 0.0;
    for (Index i = 0; i < classes; ++i) {
        for (Index j = 0; j < classes; ++j) {
            const auto influence = [&](Index c) {
                const auto at = static_cast<std::size_t>(c);
                const double b = (labelled[at] + predicted[at]) / n;
                const double in_a = i == c && j == c ? 2.0 : 0.0;
                const double in_b = (i == c ? 1.0 : 0.0) + (j == c ? 1.0 : 0.0);
                return (in_a - f1[at] * in_b) / b;
            };
            if (confusion(i, j) == 0) continue;
            const double total = (influence(i) + (i == j ? 0.0 : influence(j))) / occurring;
            variance += static_cast<double>(confusion(i, j)) * total * total;
        }
    }
    quality.macro_f1 = {std::accumulate(f1.begin(), f1.end(), 0.0) / occurring,
                        std::sqrt(variance) / n};
    return quality;
}

#define RANKFOLD_INSTANTIATE(R)                                                                    \
    template RatingErrors rating_errors(ScorerRef<R>, const BlockRowCsr<R>&,                       \
                                        std::span<const Triplet<R>>, const RatingRule<R>&, Index); \
    template RatingErrors rating_errors(ScorerRef<R>, const BlockRows<R>&, const RatingRule<R>&,   \
                                        Index);                                                    \
    template DenseMatrix<Index> confusion(ScorerRef<R>, const BlockRows<Index>&, Index);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
