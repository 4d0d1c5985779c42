#include <rankfold/core/random.hpp>
#include <rankfold/nn/gradient_sum.hpp>

#include "support/mpi_test.hpp"

namespace rankfold::test {

namespace {

constexpr Index size = 16 * 9;

float element(Index block, Index i) {
    return static_cast<float>(Philox(1, Stream::synthetic_entry).normal(block, i));
}

/// The tree's sum of one element over the blocks of a node, one block at a time.
float tree_sum(Range node, Index i) {
    if (node.size() == 1) return element(node.begin, i);
    const auto [left, right] = tree_halves(node);
    return tree_sum(left, i) + tree_sum(right, i);
}

}  // namespace

/// On one host, and as if every two ranks, or every one, were on a host of their own.
class GradientSumTest : public MpiTest, public ::testing::WithParamInterface<int> {
protected:
    void SetUp() override { pretend_ranks_a_host(GetParam()); }
    void TearDown() override {
        MpiTest::TearDown();
        pretend_ranks_a_host(0);
    }
};
INSTANTIATE_TEST_SUITE_P(RanksAHost, GradientSumTest, ::testing::Values(0, 2, 1));

TEST(SumTree, CutsAtPowersOfTwo) {
    EXPECT_EQ(tree_halves({0, 8}), (std::pair<Range, Range>{{0, 4}, {4, 8}}));
    EXPECT_EQ(tree_halves({0, 6}), (std::pair<Range, Range>{{0, 4}, {4, 6}}));
    EXPECT_EQ(tree_halves({4, 7}), (std::pair<Range, Range>{{4, 6}, {6, 7}}));
    EXPECT_EQ(tree_nodes(8, {0, 8}), (std::vector<Range>{{0, 8}}));
    EXPECT_EQ(tree_nodes(8, {2, 5}), (std::vector<Range>{{2, 4}, {4, 5}}));
    EXPECT_EQ(tree_nodes(6, {4, 6}), (std::vector<Range>{{4, 6}}));
    EXPECT_EQ(tree_nodes(8, {3, 3}), (std::vector<Range>{}));
}

/// Two turns, with other values in the second: nobody's partial may be written while it is read.
void expect_tree_sums(const Communicator& comm, Index blocks, const std::vector<Index>& ends,
                      const SumOptions& options) {
    GradientSum<float> sum(comm, blocks, ends, options);
    for (const float factor : {1.0F, 2.0F}) {
        Index node_number = 0;
        for (const Range node : sum.nodes()) {
            const auto partial = sum.partial(node_number++);
            for (Index i = 0; i < size; ++i) {
                partial[static_cast<std::size_t>(i)] = factor * tree_sum(node, i);
            }
        }
        for (Index b = 0; b < sum.buckets(); ++b) sum.start(b);
        sum.progress();
        Index owned = 0;
        for (Index b = 0; b < sum.buckets(); ++b) {
            sum.finish(b);
            const Range slice = sum.owned(b, comm.rank());
            for (Index first = slice.begin; first < slice.end; first += 16) {
                std::vector<float> room(first % 32 == 0 ? 16 : 0);
                const auto found = sum.sum(b, {first, first + 16}, std::span(room));
                for (Index i = 0; i < 16; ++i) {
                    EXPECT_EQ(found[static_cast<std::size_t>(i)],
                              factor * tree_sum({0, blocks}, first + i));
                }
            }
            owned += slice.size();
        }
        EXPECT_EQ(comm.all_reduce(owned, Reduce::sum), options.owner ? size : size * comm.size());
    }
}

TEST_P(GradientSumTest, GivesTheBitsOfTheSerialTreeForAnyNumberOfBlocksAndBuckets) {
    for (const Index blocks : {1, 2, 3, 4, 6, 8, 13}) {
        for (const auto& ends : {std::vector<Index>{size}, std::vector<Index>{16, 80, size}}) {
            for (const bool owner : {true, false}) {
                for (const bool by_block : {true, false}) {
                    SCOPED_TRACE(concat(blocks, " blocks, ", ends.size(), " buckets, owner ", owner,
                                        ", by block ", by_block));
                    expect_tree_sums(comm, blocks, ends, {.owner = owner, .by_block = by_block});
                }
            }
        }
    }
}

TEST_P(GradientSumTest, SendsTheBytesThatItPredicts) {
    GradientSum<double> sum(comm, 8, {size});
    {
        auto phase = ledger.phase("sum");
        sum.start(0);
        sum.finish(0);
    }
    const auto& record = ledger.phases().back();
    EXPECT_EQ(record.bytes_sent, record.bytes_predicted);
    EXPECT_EQ(comm.size() > 1, record.bytes_sent > 0.0);
}

}  // namespace rankfold::test
