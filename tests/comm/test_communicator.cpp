#include <rankfold/comm/communicator.hpp>

#include <climits>
#include <cmath>
#include <numeric>

#include <rankfold/comm/reproducible_sum.hpp>
#include <rankfold/core/random.hpp>

#include "support/mpi_test.hpp"

namespace rankfold::test {

/// Runs every collective with messages cut at a few elements, and with the real limit.
class Collectives : public MpiTest, public ::testing::WithParamInterface<Index> {
protected:
    void SetUp() override { Communicator::set_count_limit(GetParam()); }
    void TearDown() override {
        MpiTest::TearDown();
        Communicator::set_count_limit(INT_MAX);
    }
};
INSTANTIATE_TEST_SUITE_P(CountLimits, Collectives, ::testing::Values(3, 64, INT_MAX));

TEST_P(Collectives, AllReduceAddsAndCompares) {
    std::vector<std::int64_t> data(100);
    std::iota(data.begin(), data.end(), comm.rank());
    comm.all_reduce(std::span<std::int64_t>(data), Reduce::sum);
    const std::int64_t p = comm.size();
    for (std::int64_t i = 0; i < 100; ++i) {
        EXPECT_EQ(data[static_cast<std::size_t>(i)], p * i + p * (p - 1) / 2);
    }
    EXPECT_EQ(comm.all_reduce(double(comm.rank()), Reduce::max), comm.size() - 1.0);
    EXPECT_EQ(comm.all_reduce(comm.rank(), Reduce::min), 0);
}

TEST_P(Collectives, BroadcastCopiesTexts) {
    const int root = comm.size() - 1;
    const std::string expected(1000, 'x');
    std::string text = comm.rank() == root ? expected : "other";
    comm.broadcast(text, root);
    EXPECT_EQ(text, expected);
}

TEST_P(Collectives, AllGatherConcatenatesUnequalParts) {
    const std::vector<double> mine(static_cast<std::size_t>(comm.rank() * 7), comm.rank());
    std::vector<Index> counts;
    const auto all = comm.all_gather(std::span<const double>(mine), &counts);
    std::size_t at = 0;
    for (int q = 0; q < comm.size(); ++q) {
        EXPECT_EQ(counts[static_cast<std::size_t>(q)], q * 7);
        for (int i = 0; i < q * 7; ++i) EXPECT_EQ(all[at++], q);
    }
    EXPECT_EQ(all.size(), at);
    const auto names = comm.all_gather("rank" + std::to_string(comm.rank()));
    for (int q = 0; q < comm.size(); ++q) {
        EXPECT_EQ(names[static_cast<std::size_t>(q)], "rank" + std::to_string(q));
    }
}

TEST_P(Collectives, AllToAllSendsEachPartToItsRank) {
    // rank r sends q + 1 elements of value 100 r + q to rank q
    std::vector<Index> counts;
    std::vector<int> send;
    for (int q = 0; q < comm.size(); ++q) {
        counts.push_back(q + 1);
        send.insert(send.end(), static_cast<std::size_t>(q + 1), 100 * comm.rank() + q);
    }
    std::vector<Index> received_counts;
    const auto received = comm.all_to_all(std::span<const int>(send), counts, &received_counts);
    std::size_t at = 0;
    for (int q = 0; q < comm.size(); ++q) {
        EXPECT_EQ(received_counts[static_cast<std::size_t>(q)], comm.rank() + 1);
        for (int i = 0; i <= comm.rank(); ++i) EXPECT_EQ(received[at++], 100 * q + comm.rank());
    }
}

TEST_P(Collectives, ExchangesThatOverlapKeepTheirMessagesApart) {
    const std::vector<Index> ones(static_cast<std::size_t>(comm.size()), 50);
    std::vector<float> a(ones.size() * 50, float(comm.rank()));
    std::vector<float> b(ones.size() * 50, float(comm.rank() + 1000));
    std::vector<float> from_a(a.size());
    std::vector<float> from_b(b.size());
    auto first =
        comm.start_all_to_all(std::span<const float>(a), ones, std::span<float>(from_a), ones);
    auto second =
        comm.start_all_to_all(std::span<const float>(b), ones, std::span<float>(from_b), ones);
    second.wait();
    while (!first.test()) {
    }
    for (std::size_t i = 0; i < a.size(); ++i) {
        EXPECT_EQ(from_a[i], float(i / 50));
        EXPECT_EQ(from_b[i], float(i / 50 + 1000));
    }
}

class Agreement : public MpiTest {};

TEST_F(Agreement, ThrowsTheErrorOfTheLowestFailingRankOnAllRanks) {
    const std::string message = expect_error(Fault::input, [&] {
        comm.agree([&] {
            if (comm.rank() >= comm.size() / 2) {
                throw input_error("bad line on rank ", comm.rank());
            }
        });
    });
    EXPECT_EQ(message, "bad line on rank " + std::to_string(comm.size() / 2));
    try {
        comm.agree([] { throw Error(Fault::system, "disk"); });
    } catch (const Error& error) {
        EXPECT_TRUE(error.agreed());
    }
    comm.agree([] {});  // nobody fails: nobody throws
    EXPECT_FALSE(comm.all_agree(comm.rank() != 0));
    EXPECT_TRUE(comm.all_agree(true));
}

TEST_F(Agreement, TurnsAFailedAllocationOfOneRankIntoOneError) {
    const std::string message = expect_error(Fault::system, [&] {
        comm.agree([&] {
            if (comm.rank() == 0) throw std::bad_alloc();
        });
    });
    EXPECT_NE(message.find("rank 0"), std::string::npos);
}

class Ranks : public MpiTest {};

TEST_F(Ranks, SplitKeepsTheOrderInsideEachPart) {
    const auto part = comm.split(comm.rank() % 2);
    EXPECT_EQ(part->rank(), comm.rank() / 2);
    EXPECT_EQ(part->size(), (comm.size() + 1 - comm.rank() % 2) / 2);
    EXPECT_EQ(comm.exclusive_scan(comm.rank() + 1), comm.rank() * (comm.rank() + 1) / 2);
}

TEST_F(Ranks, TheLedgerCountsWhatIsSentToOthers) {
    {
        const auto phase = ledger.phase("gather");
        const std::vector<double> mine(10);
        const std::vector<Index> counts(static_cast<std::size_t>(comm.size()), 10);
        std::vector<double> all(counts.size() * 10);
        comm.all_gather(std::span<const double>(mine), counts, std::span<double>(all));
    }
    const auto& phases = ledger.phases();
    EXPECT_EQ(phases.back().name, "gather");
    EXPECT_EQ(phases.back().bytes_sent, 80.0 * (comm.size() - 1));
}

class ReproducibleSum : public MpiTest {};

TEST_F(ReproducibleSum, HasTheSameBitsHoweverTheTermsAreDealtToTheRanks) {
    const Philox random(5, Stream::weights);
    const auto term = [&](Index i) { return std::exp(10.0 * random.normal(i)); };
    const auto deal = [&](auto owner) {
        std::vector<double> mine;
        for (Index i = 0; i < 500; ++i) {
            if (owner(i) == comm.rank()) {
                mine.push_back(term(i));
                mine.push_back(-term(i + 1000));
            }
        }
        std::vector<double> sums(2);
        reproducible_sum(comm, mine, sums);
        return sums;
    };
    const auto all_on_root = deal([](Index) { return 0; });
    const auto cyclic = deal([&](Index i) { return static_cast<int>(i % comm.size()); });
    const auto blocks = deal([&](Index i) { return static_cast<int>(i * comm.size() / 500); });
    EXPECT_EQ(all_on_root, cyclic);
    EXPECT_EQ(all_on_root, blocks);
    double plain = 0.0;
    for (Index i = 0; i < 500; ++i) plain += term(i);
    EXPECT_NEAR(cyclic[0], plain, 1e-12 * plain);
}

TEST_F(ReproducibleSum, IsNanOnAllRanksWhenOneTermIsNotFinite) {
    const std::vector<double> mine{comm.rank() == comm.size() - 1 ? std::nan("") : 1.0};
    EXPECT_TRUE(std::isnan(reproducible_sum(comm, mine)));
}

TEST_F(ReproducibleSum, OfNoTermsIsZero) {
    EXPECT_EQ(reproducible_sum(comm, std::vector<double>()), 0.0);
}

}  // namespace rankfold::test
