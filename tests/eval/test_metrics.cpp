#include <rankfold/eval/metrics.hpp>

#include <cmath>

#include "eval_problem.hpp"
#include "reference/naive_eval.hpp"

namespace rankfold::test {

class RatingErrorsOf : public MpiTest {
protected:
    static constexpr Index m = 30;
    static constexpr Index n = 8;
    ShardLayout layout = small_layout(comm, m);
    TableScorer<double> scorer{layout, n,
                               [](Index i, Index j) { return 0.3 * double(i) - 0.7 * double(j); }};
    BlockRowCsr<double> test = sparse_of<double>(comm, layout, n, [](Index i, Index j) {
        return (i + j) % 4 == 0 ? 1.0 + double((i * j) % 5) : 0.0;
    });

    /// Expects RMSE and MAE, and their errors by the definition, from all (prediction, rating).
    static void compare(const RatingErrors& errors,
                        const std::vector<std::pair<double, double>>& all) {
        std::vector<double> squares;
        std::vector<double> sizes;
        for (const auto& [predicted, rating] : all) {
            squares.push_back((predicted - rating) * (predicted - rating));
            sizes.push_back(std::abs(predicted - rating));
        }
        const auto [mse, mse_error] = naive_estimate(squares);
        const auto [mae, mae_error] = naive_estimate(sizes);
        EXPECT_EQ(errors.entries, static_cast<Index>(all.size()));
        EXPECT_NEAR(errors.rmse.value, std::sqrt(mse), 1e-12);
        EXPECT_NEAR(errors.rmse.standard_error, mse_error / 2.0 / std::sqrt(mse), 1e-12);
        EXPECT_NEAR(errors.mae.value, mae, 1e-12);
        EXPECT_NEAR(errors.mae.standard_error, mae_error, 1e-12);
    }
};

TEST_F(RatingErrorsOf, SparseAndDenseTestPartsMatchTheDefinition) {
    std::vector<std::pair<double, double>> entries;
    std::vector<std::pair<double, double>> elements;
    for (Index i = 0; i < m; ++i) {
        for (Index j = 0; j < n; ++j) {
            const double rating = 1.0 + double((i * j) % 5);
            elements.emplace_back(scorer.score(i, j), rating);
            if ((i + j) % 4 == 0) entries.push_back(elements.back());
        }
    }
    compare(rating_errors<double>(scorer, test, {}, RatingRule<double>{}, 2), entries);
    const auto dense = dense_of<double>(comm, layout, n,
                                        [](Index i, Index j) { return 1.0 + double((i * j) % 5); });
    compare(rating_errors<double>(scorer, dense, RatingRule<double>{}, 2), elements);
}

TEST_F(RatingErrorsOf, UnseenRowsColumnsAndStrangersArePredictedByOffsetsAndClipped) {
    // no training entries in row 4 nor in column 3
    const auto train = sparse_of<double>(comm, layout, n, [](Index i, Index j) {
        return i != 4 && j != 3 && (i + j) % 3 == 0 ? 2.0 : 0.0;
    });
    const TrainingSummary summary = summarize(train);
    RatingRule<double> rule{.train = &train, .summary = &summary, .clip = {{1.0, 3.0}}};
    rule.offsets.mean = 2.5;
    for (Index i = 0; i < m; ++i) rule.offsets.row_bias.push_back(0.1 * double(i % 3));
    for (Index j = 0; j < n; ++j) rule.offsets.col_bias.push_back(-0.1 * double(j));
    std::vector<Triplet<double>> strangers;
    if (comm.rank() == comm.size() - 1) {
        strangers = {{-1, 2, 4.0}, {5, -1, 1.0}, {-1, -1, 2.0}};
    }
    std::vector<std::pair<double, double>> all{{2.5 - 0.2, 4.0}, {2.5 + 0.2, 1.0}, {2.5, 2.0}};
    Index absent = 3;
    for (Index i = 0; i < m; ++i) {
        for (Index j = 0; j < n; ++j) {
            if ((i + j) % 4 != 0) continue;
            const bool unseen = i == 4 || j == 3;
            absent += unseen ? 1 : 0;
            const double predicted =
                unseen ? 2.5 + 0.1 * double(i % 3) - 0.1 * double(j) : scorer.score(i, j);
            all.emplace_back(std::clamp(predicted, 1.0, 3.0), 1.0 + double((i * j) % 5));
        }
    }
    const auto errors = rating_errors<double>(scorer, test, strangers, rule, 1);
    compare(errors, all);
    EXPECT_EQ(errors.absent, absent);
}

class Classification : public MpiTest {};

TEST_F(Classification, CountsLabelsAgainstTheGreatestScore) {
    const auto layout = small_layout(comm, 12);
    const TableScorer<float> scorer{layout, 3, [](Index i, Index j) {
                                        return i == 0 ? 1.0 : (i + j) % 3 == 0 ? 2.0 : 1.0;
                                    }};
    // predicted: row 0 a tie, so 0; else (3 − i % 3) % 3
    const auto labels = [&] {
        BlockRows<Index> made(comm, layout, 1);
        for (Index i = 0; i < made.local().rows(); ++i) {
            const Index row = made.first_row() + i;
            made.local()(i, 0) = row == 11 ? 7 : row % 3;  // 7: a class that the model lacks
        }
        return made;
    }();
    const auto counts = confusion<float>(scorer, labels, 2);
    const std::vector<Index> expected{4, 0, 0, 0, 0, 4, 0, 3, 0};
    EXPECT_TRUE(std::ranges::equal(counts.data(), expected));
}

TEST_F(Classification, QualityHasTheValuesComputedByHand) {
    DenseMatrix<Index> counts(4, 4);  // class 3 never occurs
    counts(0, 0) = 5;
    counts(0, 1) = 1;
    counts(1, 1) = 2;
    counts(2, 0) = 2;
    const auto quality = classification_quality(counts);
    EXPECT_EQ(quality.samples, 10);
    EXPECT_DOUBLE_EQ(quality.accuracy.value, 0.7);
    EXPECT_DOUBLE_EQ(quality.accuracy.standard_error, std::sqrt(0.7 * 0.3 / 9.0));
    const double f0 = 10.0 / 13.0;  // 2·5 / (2·5 + 2 + 1)
    const double f1 = 4.0 / 5.0;
    EXPECT_DOUBLE_EQ(quality.macro_f1.value, (f0 + f1 + 0.0) / 3.0);
}

TEST_F(Classification, TheErrorOfMacroF1MatchesItsSpreadOverResamples) {
    const std::vector<double> shares{0.30, 0.05, 0.05, 0.04, 0.25, 0.06, 0.02, 0.03, 0.20};
    const Index samples = 400;
    DenseMatrix<Index> expected(3, 3);
    for (std::size_t c = 0; c < 9; ++c) {
        expected.data()[c] = static_cast<Index>(std::lround(shares[c] * double(samples)));
    }
    std::vector<double> values;
    const Philox random(11, Stream::split);
    for (Index repeat = 0; repeat < 2000; ++repeat) {
        DenseMatrix<Index> counts(3, 3);
        for (Index s = 0; s < samples; ++s) {
            double u = random.uniform(repeat, s);
            std::size_t c = 0;
            while (c < 8 && u >= shares[c]) u -= shares[c++];
            ++counts.data()[c];
        }
        values.push_back(classification_quality(counts).macro_f1.value);
    }
    const auto [mean, error_of_mean] = naive_estimate(values);
    const double spread = error_of_mean * std::sqrt(double(values.size()));
    EXPECT_NEAR(classification_quality(expected).macro_f1.standard_error, spread, 0.06 * spread);
}

}  // namespace rankfold::test
