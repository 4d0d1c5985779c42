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

}  // namespace rankfold::test
