#include <rankfold/eval/scorer.hpp>

#include <cmath>

#include <rankfold/eval/baselines.hpp>

#include "eval_problem.hpp"

namespace rankfold::test {

class ScorerOfFactors : public MpiTest {};

TEST_F(ScorerOfFactors, AddsMeanBiasesColumnMeanAndScaledProducts) {
    const Index m = 23;
    const Index n = 9;
    const Index k = 4;
    const auto layout = small_layout(comm, m);
    const auto f = random_factors<double>(comm, layout, n, k);
    const FactorScorer<double> scorer(f);
    const auto y = gather_all(f.cols);
    const auto col_bias = gather_all(*f.col_bias);
    const auto col_mean = gather_all(*f.column_mean);
    const Range mine = layout.rank_rows(comm.rank());
    DenseMatrix<double> scores(mine.size(), n);
    scorer.scores(mine, scores.view());
    for (Index i = 0; i < mine.size(); ++i) {
        for (Index j = 0; j < n; ++j) {
            double expected = 3.5 + f.row_bias->local()(i, 0) + col_bias(j, 0) + col_mean(j, 0);
            for (Index t = 0; t < k; ++t) {
                expected += f.rows.local()(i, t) * static_cast<double>(k - t) * y(j, t);
            }
            EXPECT_NEAR(scores(i, j), expected, 1e-13) << i << " " << j;
        }
    }
}

TEST_F(ScorerOfFactors, GivesARowTheSameBitsInAnyRangeAndLayout) {
    const Index m = 150;
    const Index n = 37;
    const auto coarse = ShardLayout::even(m, 4, comm.size());
    const auto fine = ShardLayout::even(m, 31, comm.size());
    const auto a = random_factors<float>(comm, coarse, n, 11);
    const auto b = random_factors<float>(comm, fine, n, 11);
    const auto whole = [&](const Factors<float>& f, bool by_tiles) {
        const FactorScorer<float> scorer(f);
        BlockRows<float> all(comm, f.rows.layout(), n);
        const Index first = all.first_row();
        if (by_tiles) {
            for (const Range t : score_tiles(scorer.layout(), comm.rank(), n)) {
                scorer.scores(t, all.local().view().row_block({t.begin - first, t.end - first}));
            }
        } else {
            for (Index i = 0; i < all.local().rows(); ++i) {
                scorer.scores({first + i, first + i + 1}, all.local().view().row_block({i, i + 1}));
            }
        }
        return gather_all(all);
    };
    const auto tiles = whole(a, true);
    EXPECT_TRUE(std::ranges::equal(tiles.data(), whole(a, false).data()));
    EXPECT_TRUE(std::ranges::equal(tiles.data(), whole(b, true).data()));
}

TEST_F(ScorerOfFactors, ScoresEntriesLikeRows) {
    const Index n = 12;
    const auto layout = small_layout(comm, 20);
    const auto f = random_factors<double>(comm, layout, n, 3);
    const FactorScorer<double> scorer(f);
    const auto pattern = sparse_of<double>(
        comm, layout, n, [](Index i, Index j) { return (i + 2 * j) % 3 == 0 ? 1.0 : 0.0; });
    const Range mine = layout.rank_rows(comm.rank());
    DenseMatrix<double> scores(mine.size(), n);
    scorer.scores(mine, scores.view());
    std::vector<double> entries(static_cast<std::size_t>(pattern.local().nnz()));
    ScorerRef<double>(scorer).entries(mine, pattern.local().view(), entries);
    std::size_t e = 0;
    for (Index i = 0; i < mine.size(); ++i) {
        for (const ColIndex j : pattern.local().view().row_cols(i)) {
            EXPECT_NEAR(entries[e++], scores(i, j), 1e-13);
        }
    }
}

TEST_F(ScorerOfFactors, AScorerOfRowsAloneCanBeAskedForEntries) {
    const auto layout = small_layout(comm, 10);
    const TableScorer<float> table{layout, 5, [](Index i, Index j) { return double(10 * i + j); }};
    const auto pattern =
        sparse_of<float>(comm, layout, 5, [](Index i, Index j) { return i % 2 == j % 2 ? 1 : 0; });
    const Range mine = layout.rank_rows(comm.rank());
    std::vector<float> entries(static_cast<std::size_t>(pattern.local().nnz()));
    ScorerRef<float>(table).entries(mine, pattern.local().view(), entries);
    std::size_t e = 0;
    for (Index i = 0; i < mine.size(); ++i) {
        for (const ColIndex j : pattern.local().view().row_cols(i)) {
            EXPECT_EQ(entries[e++], static_cast<float>(10 * (mine.begin + i) + j));
        }
    }
}

TEST_F(ScorerOfFactors, TilesCoverTheRanksRowsOnceAndDoNotDependOnTheRanks) {
    const auto layout = ShardLayout::even(1000, 9, comm.size());
    const auto tiles = score_tiles(layout, comm.rank(), 100);
    Index next = layout.rank_rows(comm.rank()).begin;
    for (const Range t : tiles) {
        EXPECT_EQ(t.begin, next);
        EXPECT_LE(t.size(), tile_rows(100));
        next = t.end;
    }
    EXPECT_EQ(next, layout.rank_rows(comm.rank()).end);
    const auto of_all = comm.all_gather(std::span<const Range>(tiles));
    EXPECT_EQ(of_all, score_tiles(ShardLayout::even(1000, 9, 1), 0, 100));
    EXPECT_EQ(tile_rows(Index{1} << 30), 1);
}

class Popularity : public MpiTest {};

TEST_F(Popularity, OrdersColumnsByCountThenIndex) {
    const auto layout = small_layout(comm, 4);
    // column counts 2, 3, 2, 0
    const auto train = sparse_of<float>(comm, layout, 4, [](Index i, Index j) {
        return (j == 1 && i < 3) || (j == 0 && i < 2) || (j == 2 && i > 1) ? 1.0 + double(i) : 0.0;
    });
    const TrainingSummary summary = summarize(train);
    EXPECT_EQ(summary.col_counts, (std::vector<Index>{2, 3, 2, 0}));
    EXPECT_EQ(summary.least, 1.0);
    EXPECT_EQ(summary.greatest, 4.0);
    EXPECT_DOUBLE_EQ(summary.mean, (1.0 + 2.0 + 1.0 + 2.0 + 3.0 + 3.0 + 4.0) / 7.0);
    const auto scorer = popularity<float>(layout, summary.col_counts);
    DenseMatrix<float> scores(1, 4);
    scorer.scores({0, 1}, scores.view());
    EXPECT_GT(scores(0, 1), scores(0, 0));
    EXPECT_GT(scores(0, 0), scores(0, 2));
    EXPECT_GT(scores(0, 2), scores(0, 3));
}

TEST_F(Popularity, ADenseTrainingPartHasAllEntriesOfEveryColumn) {
    const auto train = dense_of<double>(comm, small_layout(comm, 10), 3,
                                        [](Index i, Index j) { return double(i - 2 * j); });
    const TrainingSummary summary = summarize(train);
    EXPECT_EQ(summary.col_counts, (std::vector<Index>{10, 10, 10}));
    EXPECT_DOUBLE_EQ(summary.mean, 2.5);
    EXPECT_EQ(summary.least, -4.0);
    EXPECT_EQ(summary.greatest, 9.0);
}

}  // namespace rankfold::test
