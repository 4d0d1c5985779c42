#include <rankfold/comm/calibrate.hpp>

#include <algorithm>

namespace rankfold {

namespace {

/// Seconds of an exchange of `bytes` from every rank to every other: the best of 20.
double exchange_seconds(const Communicator& comm, Index bytes) {
    const std::vector<char> send(static_cast<std::size_t>(bytes * comm.size()));
    std::vector<char> recv(send.size());
    const std::vector<Index> counts(static_cast<std::size_t>(comm.size()), bytes);
    double best = 1e9;
    for (int repeat = 0; repeat < 20; ++repeat) {
        comm.barrier();
        const double start = monotonic_seconds();
        comm.all_to_all(std::span<const char>(send), counts, std::span<char>(recv), counts);
        best = std::min(best, monotonic_seconds() - start);
    }
    return comm.all_reduce(best, Reduce::max);
}

}  // namespace

MachineSpeed measure_exchange(const Communicator& comm) {
    MachineSpeed speed;
    if (comm.size() == 1) return {0.0, 0.0, speed.seconds_per_flop};
    const double others = comm.size() - 1;
    constexpr Index large = Index{1} << 21;
    speed.seconds_per_message = exchange_seconds(comm, 8) / others;
    speed.seconds_per_byte = exchange_seconds(comm, large) / (static_cast<double>(large) * others);
    return speed;
}

}  // namespace rankfold
