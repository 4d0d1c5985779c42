#include <rankfold/eval/top_k.hpp>

#include <algorithm>
#include <limits>
#include <numeric>

#include "eval_problem.hpp"

namespace rankfold::test {

class TopColumnsOf : public MpiTest {
protected:
    static constexpr Index m = 90;
    static constexpr Index n = 17;
    ShardLayout layout = small_layout(comm, m);
    Range mine = layout.rank_rows(comm.rank());
    static double score(Index i, Index j) { return double((3 * i + 11 * j) % 6); }  // many ties
    static bool is_seen(Index i, Index j) { return i == 8 ? j != 4 : (i + j) % 3 == 0; }
    TableScorer<float> scorer{layout, n, score};
    BlockRowCsr<float> seen = sparse_of<float>(
        comm, layout, n, [](Index i, Index j) { return is_seen(i, j) ? 1.0 : 0.0; });
};

TEST_F(TopColumnsOf, AreTheBestUnseenOnesTiesByLowerIndex) {
    std::vector<Index> rows;
    for (Index i = mine.begin; i < mine.end; i += 2) rows.push_back(i);
    for (const Index threads : {1, 2}) {
        const auto top = top_columns<float>(scorer, &seen, rows, 5, comm.rank(), threads);
        EXPECT_EQ(top.rows, rows);
        for (std::size_t t = 0; t < rows.size(); ++t) {
            std::vector<Index> expected(n);
            std::iota(expected.begin(), expected.end(), 0);
            std::erase_if(expected, [&](Index j) { return is_seen(rows[t], j); });
            std::ranges::stable_sort(expected, std::greater<>(),
                                     [&](Index j) { return score(rows[t], j); });
            expected.resize(5, -1);
            EXPECT_TRUE(std::ranges::equal(top.cols.row(static_cast<Index>(t)), expected))
                << "row " << rows[t];
        }
    }
}

TEST_F(TopColumnsOf, ARowWithFewUnseenColumnsHasGapsAtTheEnd) {
    if (mine.contains(8)) {
        const auto top =
            top_columns<float>(scorer, &seen, std::vector<Index>{8}, 3, comm.rank(), 1);
        EXPECT_EQ(top.cols(0, 0), 4);
        EXPECT_EQ(top.scores(0, 0), static_cast<float>(score(8, 4)));
        EXPECT_EQ(top.cols(0, 1), -1);
        EXPECT_EQ(top.cols(0, 2), -1);
    }
}

TEST_F(TopColumnsOf, NoNumberComesLast) {
    const TableScorer<float> broken{layout, 3, [](Index, Index j) {
                                        return j == 0 ? std::numeric_limits<double>::quiet_NaN()
                                                      : double(j);
                                    }};
    if (mine.size() > 0) {
        const auto top =
            top_columns<float>(broken, nullptr, std::vector<Index>{mine.begin}, 3, comm.rank(), 1);
        EXPECT_TRUE(std::ranges::equal(top.cols.row(0), std::vector<Index>{2, 1, 0}));
    }
}

/// The best unseen columns by the scores that a scorer writes down.
std::vector<Index> naive_best(std::span<const float> scores, std::span<const ColIndex> seen,
                              std::size_t top) {
    std::vector<Index> columns(scores.size());
    std::iota(columns.begin(), columns.end(), 0);
    std::erase_if(columns, [&](Index j) { return std::ranges::binary_search(seen, j); });
    std::ranges::stable_sort(columns, std::greater<>(),
                             [&](Index j) { return scores[static_cast<std::size_t>(j)]; });
    columns.resize(top, -1);
    return columns;
}

TEST_F(TopColumnsOf, FactorsAreThoseOfTheirScores) {
    // whole numbers: sums are exact, so ties are ties in any order of summation
    constexpr Index columns = 900;
    const auto whole = [](std::uint64_t seed, Index choices) {
        return [random = Philox(seed, Stream::row_factors), choices](Index i, Index j) {
            return double(random.below(choices, i, j)) - double(choices / 2);
        };
    };
    for (const Index choices : {2, 7, 1000}) {
        Factors<float> factors;
        factors.rows = dense_of<float>(comm, layout, 5, whole(1, choices));
        factors.cols = dense_of<float>(comm, small_layout(comm, columns), 5, whole(2, choices));
        factors.col_bias = dense_of<float>(comm, small_layout(comm, columns), 1, whole(3, 3));
        const FactorScorer<float> product(factors);
        const auto hidden = sparse_of<float>(comm, layout, columns, [](Index i, Index j) {
            return (i * 7 + j * 3) % 11 == 0 || (i == 40 && j != 5) ? 1.0 : 0.0;
        });
        std::vector<Index> rows;
        for (Index i = mine.begin; i < mine.end; ++i) rows.push_back(i);
        DenseMatrix<float> scores(mine.size(), columns);
        for (const Range tile : score_tiles(layout, comm.rank(), columns)) {
            product.scores(
                tile, scores.view().row_block({tile.begin - mine.begin, tile.end - mine.begin}));
        }
        for (const Index top : {1, 30, 1200}) {
            const auto found = top_columns<float>(product, &hidden, rows, top, comm.rank(), 2);
            for (std::size_t t = 0; t < rows.size(); ++t) {
                const auto line = static_cast<Index>(t);
                const auto expected =
                    naive_best(std::as_const(scores).row(line),
                               hidden.local().view().row_cols(line), std::size_t(top));
                EXPECT_TRUE(std::ranges::equal(found.cols.row(line), expected))
                    << "row " << rows[t] << ", top " << top << ", " << choices;
                EXPECT_EQ(found.scores(line, 0),
                          expected[0] < 0 ? 0.0F : scores(line, expected[0]));
            }
        }
    }
}

}  // namespace rankfold::test
