#include <rankfold/eval/ranking.hpp>

#include <cmath>
#include <limits>

#include "eval_problem.hpp"
#include "reference/naive_eval.hpp"

namespace rankfold::test {

namespace {

double value_of(const std::string& metric, std::vector<Index> places, Index candidates) {
    return row_metric(parse_metric(metric), places, candidates);
}

}  // namespace

TEST(RowMetric, HasTheValuesComputedByHand) {
    EXPECT_EQ(value_of("hr@3", {3}, 9), 1.0);
    EXPECT_EQ(value_of("hr@2", {3}, 9), 0.0);
    EXPECT_DOUBLE_EQ(value_of("ndcg@3", {3}, 9), 0.5);  // 1/log2(4) over 1/log2(2)
    EXPECT_DOUBLE_EQ(value_of("ndcg@2", {3}, 9), 0.0);
    EXPECT_DOUBLE_EQ(value_of("ndcg@10", {1, 3}, 9), 1.5 / (1.0 + 1.0 / std::log2(3.0)));
    EXPECT_DOUBLE_EQ(value_of("ndcg@1", {1, 2, 3}, 9), 1.0);
    EXPECT_DOUBLE_EQ(value_of("recall@2", {1, 4, 5}, 9), 1.0 / 3.0);
    EXPECT_DOUBLE_EQ(value_of("recall-min@2", {1, 4, 5}, 9), 0.5);
    EXPECT_DOUBLE_EQ(value_of("map@10", {1, 3}, 9), (1.0 + 2.0 / 3.0) / 2.0);
    EXPECT_DOUBLE_EQ(value_of("map@2", {1, 3, 4}, 9), 0.5);
    EXPECT_DOUBLE_EQ(value_of("auc", {1}, 5), 1.0);
    EXPECT_DOUBLE_EQ(value_of("auc", {5}, 5), 0.0);
    EXPECT_DOUBLE_EQ(value_of("auc", {1, 3}, 5), 5.0 / 6.0);  // one of 6 pairs is wrong
    EXPECT_DOUBLE_EQ(value_of("auc", {2, 2}, 2), 1.0);        // nothing to be compared with
}

TEST(RowMetric, TiesCountAgainstTheModel) {
    const std::vector<float> scores{1, 2, 2, 2, 0};
    const auto places = [&](std::vector<ColIndex> test, std::vector<ColIndex> excluded) {
        return places_among<float>(scores, test, excluded);
    };
    EXPECT_EQ(places({1}, {}), (std::vector<Index>{3}));
    EXPECT_EQ(places({1}, {2}), (std::vector<Index>{2}));
    EXPECT_EQ(places({1, 2}, {}), (std::vector<Index>{3, 3}));
    EXPECT_EQ(places({0, 4}, {1, 2, 3}), (std::vector<Index>{1, 2}));
}

TEST(RowMetric, ScoresThatAreNoNumbersCountAgainstTheModel) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const std::vector<double> scores{nan, 1.0, 2.0};
    EXPECT_EQ(places_among<double>(scores, std::vector<ColIndex>{0}, {}), (std::vector<Index>{3}));
    EXPECT_EQ(places_among<double>(scores, std::vector<ColIndex>{2}, {}), (std::vector<Index>{2}));
}

TEST(MetricNames, AreReadWithTheirCutAndOthersRefused) {
    EXPECT_EQ(parse_metric("ndcg@10").k, 10);
    EXPECT_EQ(parse_metric("recall-min@20").kind, MetricKind::recall_min);
    EXPECT_TRUE(parse_metric("macro-f1").classifies());
    for (const char* name : {"hr", "hr@0", "hr@x", "hr@1x", "rmse@2", "precision@5", ""}) {
        EXPECT_THROW((void)parse_metric(name), Error) << name;
    }
}

template <class R>
class Ranking : public MpiTest {
protected:
    static constexpr Index m = 61;
    static constexpr Index n = 23;
    ShardLayout layout = small_layout(comm, m);

    // few different scores, so that there are many ties
    static double score(Index i, Index j) { return double((7 * i + 5 * j + i * j) % 9); }
    static double part(Index i, Index j) {  // 1 train, 2 validation, 3 test, 4 negative, else 0
        if (i % 6 == 0 && j > 4) return 0.0;
        return double(Philox(3, Stream::split).below(6, i, j));
    }
    BlockRowCsr<R> matrix(double wanted) {
        return sparse_of<R>(comm, layout, n, [&](Index i, Index j) {
            const bool no_test = wanted == 3.0 && i % 5 == 0;
            return part(i, j) == wanted && !no_test ? 1.0 : 0.0;
        });
    }
    static NaiveRanking naive(bool with_negatives) {
        NaiveRanking r;
        for (Index i = 0; i < m; ++i) {
            r.scores.emplace_back();
            r.test.emplace_back();
            r.excluded.emplace_back();
            if (with_negatives) r.negatives.emplace_back();
            for (Index j = 0; j < n; ++j) {
                const double p = part(i, j);
                const int col = static_cast<int>(j);
                r.scores.back().push_back(score(i, j));
                if (p == 1.0 || p == 2.0) r.excluded.back().insert(col);
                if (p == 3.0 && i % 5 != 0) r.test.back().insert(col);
                if (p == 4.0 && with_negatives) r.negatives.back().insert(col);
            }
        }
        return r;
    }
    void compare(const RankingQuality& quality, const std::vector<Metric>& wanted,
                 const NaiveRanking& r) {
        std::map<std::string, std::vector<double>> values;
        Index rows = 0;
        for (std::size_t i = 0; i < r.test.size(); ++i) {
            if (r.test[i].empty()) continue;
            ++rows;
            for (const auto& [name, value] : naive_row(r, i, 4)) values[name].push_back(value);
        }
        EXPECT_EQ(quality.rows, rows);
        EXPECT_EQ(quality.rows_left_out, m - rows);
        for (std::size_t c = 0; c < wanted.size(); ++c) {
            const auto [mean, error] = naive_estimate(values.at(wanted[c].name));
            EXPECT_NEAR(quality.metrics[c].value, mean, 1e-14) << wanted[c].name;
            EXPECT_NEAR(quality.metrics[c].standard_error, error, 1e-14) << wanted[c].name;
        }
    }
    std::vector<Metric> all_metrics() {
        std::vector<Metric> wanted;
        for (const char* name : {"hr@4", "ndcg@4", "recall@4", "recall-min@4", "map@4", "auc"}) {
            wanted.push_back(parse_metric(name));
        }
        return wanted;
    }
};
using Precisions = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Ranking, Precisions);

TYPED_TEST(Ranking, AmongAllUnseenColumnsMatchesTheDefinition) {
    const auto train = this->matrix(1);
    const auto validation = this->matrix(2);
    const auto test = this->matrix(3);
    const auto wanted = this->all_metrics();
    const TableScorer<TypeParam> scorer{this->layout, this->n, this->score};
    for (const Index threads : {1, 3}) {
        const auto quality = rank_quality<TypeParam>(
            scorer, {.test = test, .train = &train, .validation = &validation}, wanted, threads);
        this->compare(quality, wanted, this->naive(false));
    }
}

TYPED_TEST(Ranking, AmongGivenNegativesMatchesTheDefinition) {
    const auto test = this->matrix(3);
    const auto negatives = this->matrix(4);
    const auto wanted = this->all_metrics();
    const TableScorer<TypeParam> scorer{this->layout, this->n, this->score};
    const auto quality =
        rank_quality<TypeParam>(scorer, {.test = test, .negatives = &negatives}, wanted, 2);
    this->compare(quality, wanted, this->naive(true));
}

TYPED_TEST(Ranking, HasTheSameBitsOnAnyRankCount) {
    const auto alone = this->comm.split(this->comm.rank());
    const auto run = [&](const Communicator& on) {
        const auto rows = small_layout(on, 200);
        const auto f = random_factors<TypeParam>(on, rows, 50, 5);
        const auto test = sparse_of<TypeParam>(on, rows, 50, [](Index i, Index j) {
            return Philox(1, Stream::split).uniform(i, j) < 0.1 ? 1.0 : 0.0;
        });
        const FactorScorer<TypeParam> scorer(f);
        std::vector<double> numbers;
        for (const Estimate& e :
             rank_quality<TypeParam>(scorer, {.test = test}, this->all_metrics(), 1).metrics) {
            numbers.push_back(e.value);
            numbers.push_back(e.standard_error);
        }
        const auto errors = rating_errors<TypeParam>(scorer, test, {}, RatingRule<TypeParam>{}, 1);
        for (const Estimate& e : {errors.rmse, errors.mae}) {
            numbers.push_back(e.value);
            numbers.push_back(e.standard_error);
        }
        return numbers;
    };
    EXPECT_EQ(run(this->comm), run(*alone));
}

}  // namespace rankfold::test
