#include <rankfold/comm/shared_memory.hpp>

#include <algorithm>

#include "support/mpi_test.hpp"

namespace rankfold::test {

class SharedMemoryTest : public MpiTest {};

TEST_F(SharedMemoryTest, EveryRankReadsWhatTheOthersWrite) {
    const auto host = ranks_of_host(comm);
    ASSERT_EQ(host->size(), comm.size());
    const auto bytes = [](int rank) { return static_cast<std::size_t>(rank * 5000); };
    const SharedMemory shared(*host, bytes(host->rank()));
    ASSERT_TRUE(shared.good());
    const auto mine = shared.part(host->rank());
    EXPECT_TRUE(std::ranges::all_of(mine, [](std::byte b) { return b == std::byte{0}; }));
    std::ranges::fill(mine, static_cast<std::byte>(host->rank() + 1));
    host->barrier();
    for (int q = 0; q < host->size(); ++q) {
        const auto part = shared.part(q);
        EXPECT_EQ(part.size(), bytes(q));
        EXPECT_EQ(std::ranges::count(part, static_cast<std::byte>(q + 1)), std::ssize(part));
    }
    host->barrier();
}

TEST_F(SharedMemoryTest, AllKnowIfThereIsNotEnough) {
    const auto host = ranks_of_host(comm);
    const bool last = host->rank() + 1 == host->size();
    const SharedMemory shared(*host, last ? std::size_t{1} << 50 : 64);
    EXPECT_FALSE(shared.good());
}

TEST_F(SharedMemoryTest, ABarrierEndsWhenAllHaveStartedIt) {
    const auto other = comm.split(0);
    for (int turn = 0; turn < 3; ++turn) {
        PendingExchange barrier;
        if (comm.rank() > 0 || comm.size() == 1) barrier = comm.start_barrier();
        if (comm.size() > 1) {
            EXPECT_EQ(barrier.test(), comm.is_root());  // root has not started: nothing is pending
            other->barrier();
            if (comm.is_root()) barrier = comm.start_barrier();
        }
        barrier.wait();
        EXPECT_TRUE(barrier.test());
    }
}

TEST_F(SharedMemoryTest, HostsCanBePretended) {
    pretend_ranks_a_host(2);
    const auto host = ranks_of_host(comm);
    pretend_ranks_a_host(0);
    EXPECT_EQ(host->size(), std::min(2, comm.size() - comm.rank() / 2 * 2));
    EXPECT_EQ(host->rank(), comm.rank() % 2);
}

}  // namespace rankfold::test
