// Memory that the ranks of one host share.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <rankfold/comm/communicator.hpp>

namespace rankfold {

/// The ranks of this rank's host, in the order of their ranks. @collective over comm
[[nodiscard]] std::unique_ptr<Communicator> ranks_of_host(const Communicator& comm);

/// Takes so many consecutive ranks for a host of their own, to test several hosts; 0: no longer.
/// Not collective.
void pretend_ranks_a_host(int ranks);

/// A part for each rank of a host, which all of them may read and write: POSIX shared memory, zero
/// at first. Each rank takes the pages of its own part, so that they are near its processor.
///
/// Whoever writes says so by a message or a barrier before another reads.
class SharedMemory {
public:
    /// @param host   the ranks of one host, see ranks_of_host()
    /// @param bytes  of this rank's part
    /// @collective over host
    SharedMemory(const Communicator& host, std::size_t bytes);
    ~SharedMemory();
    SharedMemory(const SharedMemory&) = delete;
    SharedMemory& operator=(const SharedMemory&) = delete;

    /// False, on all ranks of the host alike, if the system gives no such memory, or not so much.
    [[nodiscard]] bool good() const noexcept { return memory_ != nullptr; }
    /// The part of a rank of the host, aligned to pages. @pre good()
    [[nodiscard]] std::span<std::byte> part(int rank) const;

private:
    [[nodiscard]] bool map(const std::string& name, int flags, int rank);

    std::vector<std::size_t> begin_;  // of every rank's part, and the end
    std::vector<std::size_t> size_;
    std::byte* memory_ = nullptr;
};

}  // namespace rankfold
