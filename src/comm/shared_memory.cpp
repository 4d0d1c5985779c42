#include <rankfold/comm/shared_memory.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <map>
#include <string>

#include <rankfold/comm/session.hpp>

namespace rankfold {

static int pretended_ranks_a_host = 0;

void pretend_ranks_a_host(int ranks) {
    pretended_ranks_a_host = ranks;
}

std::unique_ptr<Communicator> ranks_of_host(const Communicator& comm) {
    if (pretended_ranks_a_host > 0) return comm.split(comm.rank() / pretended_ranks_a_host);
    std::map<std::string, int> numbers;  // in the order of the hosts' first ranks
    for (const auto& host : comm.all_gather(host_name())) {
        numbers.emplace(host, static_cast<int>(numbers.size()));
    }
    return comm.split(numbers.at(host_name()));
}

SharedMemory::SharedMemory(const Communicator& host, std::size_t bytes)
    : begin_{0}, size_{host.all_gather(bytes)} {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    for (const std::size_t size : size_) {
        begin_.push_back(begin_.back() + (size + page - 1) / page * page);
    }
    begin_.back() = std::max(begin_.back(), page);
#ifdef RANKFOLD_SIMULATED
    return;  // what is read there would cost no simulated time
#endif
    const auto now = std::chrono::system_clock::now().time_since_epoch().count();
    std::string name = concat("/rankfold-", getpid(), "-", now);
    host.broadcast(name);
    bool mapped = host.is_root() && map(name, O_CREAT | O_EXCL | O_RDWR, host.rank());
    host.barrier();
    if (!host.is_root()) mapped = map(name, O_RDWR, host.rank());
    const bool good = host.all_agree(mapped);
    if (host.is_root()) shm_unlink(name.c_str());
    if (!good && memory_ != nullptr) {
        munmap(memory_, begin_.back());
        memory_ = nullptr;
    }
}

SharedMemory::~SharedMemory() {
    if (memory_ != nullptr) munmap(memory_, begin_.back());
}

std::span<std::byte> SharedMemory::part(int rank) const {
    const auto q = static_cast<std::size_t>(rank);
    return {memory_ + begin_[q], size_[q]};
}

/// Maps all parts and takes the pages of this rank's own: pages that the system could not give when
/// they are first touched would end the process.
bool SharedMemory::map(const std::string& name, int flags, int rank) {
    const int file = shm_open(name.c_str(), flags, S_IRUSR | S_IWUSR);
    if (file < 0) return false;
    const auto q = static_cast<std::size_t>(rank);
    const auto length = [](std::size_t bytes) { return static_cast<off_t>(bytes); };
    const bool sized = (flags & O_CREAT) == 0 || ftruncate(file, length(begin_.back())) == 0;
    int trouble = 0;
    do {
        trouble = size_[q] == 0 ? 0 : posix_fallocate(file, length(begin_[q]), length(size_[q]));
    } while (trouble == EINTR);
    if (sized && trouble == 0) {
        void* memory = mmap(nullptr, begin_.back(), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (memory != MAP_FAILED) memory_ = static_cast<std::byte*>(memory);
    }
    close(file);
    return memory_ != nullptr;
}

}  // namespace rankfold
