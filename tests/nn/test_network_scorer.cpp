#include <rankfold/core/random.hpp>
#include <rankfold/nn/network_scorer.hpp>

#include "support/mpi_test.hpp"

namespace rankfold::test {

namespace {

constexpr Index m = 100;
constexpr Index width = 5;
constexpr Index tile = 16;

BlockRows<float> random_rows(const Communicator& comm, Index rows, Index cols, Index shards) {
    BlockRows<float> matrix(comm, ShardLayout::even(rows, shards, comm.size()), cols);
    const Philox random(8, Stream::synthetic_entry);
    for (Index i = 0; i < matrix.local().rows(); ++i) {
        for (Index j = 0; j < cols; ++j) {
            matrix.local()(i, j) = static_cast<float>(random.normal(matrix.first_row() + i, j));
        }
    }
    return matrix;
}

/// All scores, each row asked for as a range of its own, in global order.
DenseMatrix<float> all_scores(const NetworkScorer<float>& scorer, const Communicator& comm) {
    BlockRows<float> scores(comm, scorer.layout(), scorer.cols());
    const Range mine = scorer.layout().rank_rows(comm.rank());
    for (Index i = mine.begin; i < mine.end; ++i) {
        scorer.scores({i, i + 1},
                      scores.local().view().row_block({i - mine.begin, i - mine.begin + 1}));
    }
    return gather_all(scores);
}

}  // namespace

class NetworkScorerTest : public MpiTest {};

TEST_F(NetworkScorerTest, ARowHasTheSameBitsInAnyLayoutAndAnyRange) {
    const auto alone = comm.split(comm.rank());
    Network<float> network(dense_chain(width, {7}, 11, Activation::relu, 0.0));
    network.initialize(1);
    const auto scores_on = [&](const Communicator& on, Index shards) {
        const auto rows = random_rows(on, m, width, shards);
        const NetworkScorer<float> scorer(network, {rows, rows.layout(), 0.5}, tile);
        return all_scores(scorer, on);
    };
    const auto expected = scores_on(*alone, 1);
    const auto found = scores_on(comm, 7);
    EXPECT_TRUE(std::ranges::equal(found.data(), expected.data()));

    const auto rows = random_rows(*alone, m, width, 1);
    const NetworkScorer<float> scorer(network, {rows, rows.layout(), 0.5}, tile);
    DenseMatrix<float> whole(m, 11);
    scorer.scores({0, m}, whole.view());
    EXPECT_TRUE(std::ranges::equal(whole.data(), expected.data()));
}

TEST_F(NetworkScorerTest, GivenEntriesHaveTheScoresOfWholeRows) {
    constexpr Index n = 300;
    const auto alone = comm.split(comm.rank());
    Network<float> pairs(dense_chain(width + 3, {7}, 1, Activation::tanh, 0.0));
    pairs.initialize(1);
    Network<float> columns(dense_chain(width, {7}, n, Activation::tanh, 0.0));
    columns.initialize(2);
    const auto x = random_rows(comm, m, width, 7);
    const NetworkScorer<float> by_pairs(pairs, {x, x.layout(), 1.0},
                                        gather_all(random_rows(comm, n, 3, 2)));
    const NetworkScorer<float> by_columns(columns, {x, x.layout(), 1.0}, tile);
    const std::vector<Index> row_ptr{0, 3, 3, 4};
    const std::vector<ColIndex> cols{0, 128, 299, 7};
    const CsrView<float> where{3, n, row_ptr.data(), cols.data(), nullptr};
    const Range mine = x.layout().rank_rows(comm.rank());
    for (const auto* scorer : {&by_pairs, &by_columns}) {
        EXPECT_EQ(scorer->cols(), n);
        if (mine.size() < 3) continue;
        const Range rows{mine.begin, mine.begin + 3};
        DenseMatrix<float> whole(3, n);
        scorer->scores(rows, whole.view());
        std::vector<float> found(4);
        scorer->entries(rows, where, found);
        const std::vector<float> expected{whole(0, 0), whole(0, 128), whole(0, 299), whole(2, 7)};
        for (std::size_t e = 0; e < 4; ++e) EXPECT_NEAR(found[e], expected[e], 1e-6);
    }
}

}  // namespace rankfold::test
