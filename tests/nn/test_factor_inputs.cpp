#include <cmath>

#include <rankfold/core/random.hpp>
#include <rankfold/nn/factor_inputs.hpp>

#include "support/mpi_test.hpp"

namespace rankfold::test {

namespace {

BlockRows<double> random_rows(const Communicator& comm, Index rows, Index cols, Index shards,
                              Index stream) {
    BlockRows<double> matrix(comm, ShardLayout::even(rows, shards, comm.size()), cols);
    const Philox random(8, Stream::synthetic_entry);
    for (Index i = 0; i < matrix.local().rows(); ++i) {
        for (Index j = 0; j < cols; ++j) {
            matrix.local()(i, j) = random.normal(stream, (matrix.first_row() + i) * cols + j);
        }
    }
    return matrix;
}

constexpr Index m = 17;
constexpr Index n = 9;
constexpr Index k = 3;

Factors<double> factors_with_everything(const Communicator& comm) {
    Factors<double> factors;
    factors.rows = random_rows(comm, m, k, 5, 1);
    factors.cols = random_rows(comm, n, k, 4, 2);
    factors.singular_values = {3.0, 2.0, 0.5};
    factors.row_bias = random_rows(comm, m, 1, 2, 3);  // in a layout of its own
    factors.col_bias = random_rows(comm, n, 1, 3, 4);
    factors.column_mean = random_rows(comm, n, 1, 1, 5);
    factors.global_mean = 3.25;
    return factors;
}

}  // namespace

class FactorInputs : public MpiTest {};

TEST_F(FactorInputs, TheScoreProductIsTheScore) {
    for (const bool plain : {false, true}) {
        Factors<double> factors = factors_with_everything(comm);
        if (plain) {
            factors.row_bias.reset();
            factors.col_bias.reset();
            factors.column_mean.reset();
            factors.global_mean = 0.0;
            factors.singular_values.clear();
        }
        const ScoreProduct<double> product = score_product(factors);
        EXPECT_EQ(product.rows.cols(), plain ? k : k + 2);
        const auto a = gather_all(product.rows);
        const auto b = gather_all(product.cols);
        const auto x = gather_all(factors.rows);
        const auto y = gather_all(factors.cols);
        const auto whole = [](const std::optional<BlockRows<double>>& bias, Index rows) {
            return bias ? gather_all(*bias) : DenseMatrix<double>(rows, 1);
        };
        const auto row_bias = whole(factors.row_bias, m);
        const auto col_bias = whole(factors.col_bias, n);
        const auto mean = whole(factors.column_mean, n);
        double squares = 0.0;
        for (Index i = 0; i < m; ++i) {
            for (Index j = 0; j < n; ++j) {
                double score = factors.global_mean + row_bias(i, 0) + col_bias(j, 0) + mean(j, 0);
                for (Index f = 0; f < k; ++f) {
                    const double s =
                        plain ? 1.0 : factors.singular_values[static_cast<std::size_t>(f)];
                    score += x(i, f) * s * y(j, f);
                }
                double found = 0.0;
                for (Index f = 0; f < a.cols(); ++f) found += a(i, f) * b(j, f);
                EXPECT_NEAR(found, score, 1e-12);
                squares += score * score;
            }
        }
        const double rms = std::sqrt(squares / static_cast<double>(m * n));
        const double scaled = rms * unit_scale(product);
        EXPECT_GE(scaled, std::sqrt(0.5) - 1e-9);
        EXPECT_LE(scaled, std::sqrt(2.0) + 1e-9);
    }
}

TEST_F(FactorInputs, FeaturesAreFactorsWithTheirBiases) {
    const Factors<double> factors = factors_with_everything(comm);
    const auto rows = gather_all(row_features(factors));
    const auto x = gather_all(factors.rows);
    const auto bias = gather_all(*factors.row_bias);
    EXPECT_EQ(rows.cols(), k + 1);
    EXPECT_EQ(rows(5, 1), x(5, 1) * 2.0);
    EXPECT_EQ(rows(16, k), bias(16, 0));
    const auto cols = gather_all(col_features(factors));
    const auto offsets = gather_all(*factors.col_bias);
    const auto mean = gather_all(*factors.column_mean);
    EXPECT_EQ(cols.cols(), k + 1);
    EXPECT_EQ(cols(8, k), offsets(8, 0) + mean(8, 0));
}

TEST_F(FactorInputs, RowsAreTakenFromAnywhereAlsoTwice) {
    const auto a = random_rows(comm, m, k, 5, 1);
    const auto whole = gather_all(a);
    const auto layout = ShardLayout::even(6, 3, comm.size());
    const std::vector<Index> wanted{16, 0, 3, 3, 9, 16};
    const Range mine = layout.rank_rows(comm.rank());
    const std::vector<Index> own(wanted.begin() + mine.begin, wanted.begin() + mine.end);
    const auto taken = gather_all(take_rows(a, layout, own));
    for (Index t = 0; t < 6; ++t) {
        EXPECT_TRUE(
            std::ranges::equal(taken.row(t), whole.row(wanted[static_cast<std::size_t>(t)])));
    }
}

TEST_F(FactorInputs, AllZeroFactorsKeepTheirScale) {
    const BlockRows<double> zeros(comm, ShardLayout::even(m, 2, comm.size()), k);
    EXPECT_EQ(unit_scale(zeros), 1.0);
}

}  // namespace rankfold::test
