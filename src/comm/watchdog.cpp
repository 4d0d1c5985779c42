#include <rankfold/comm/watchdog.hpp>

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <spawn.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <new>
#include <set>
#include <sstream>
#include <thread>

#include <rankfold/comm/session.hpp>
#include <rankfold/comm/shared_memory.hpp>

namespace rankfold {

namespace {

/// What one rank shows the others of its host.
struct alignas(64) Place {
    std::atomic<std::uint64_t> beats;
    std::atomic<bool> left;  ///< it has ended in good order and counts no more
    Beacon beacon;
};

/// A Place for each rank of a host, and a flag.
class SharedPage {
public:
    explicit SharedPage(const Communicator& host)
        : places_{static_cast<std::size_t>(host.size())},
          memory_(host, host.is_root() ? (places_ + 1) * sizeof(Place) : 0) {}

    [[nodiscard]] bool good() const { return memory_.good(); }
    [[nodiscard]] std::size_t size() const { return places_; }
    [[nodiscard]] Place& place(std::size_t i) const {  // zeros are what its members begin with
        return reinterpret_cast<Place*>(memory_.part(0).data())[i];
    }
    /// True once somebody ends the job: `left` of a Place behind all others.
    [[nodiscard]] std::atomic<bool>& doomed() const { return place(places_).left; }

private:
    std::size_t places_;
    SharedMemory memory_;
};

/// Datagrams from and to the neighbours in a ring of hosts.
class HostRing {
public:
    /// @param ranks  those of this host
    /// @collective over `heads`, the first ranks of all hosts
    HostRing(const Communicator& heads, const std::vector<int>& ranks) {
        if (heads.size() < 2) return;
        socket_ = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        sockaddr_in own{};
        own.sin_family = AF_INET;
        own.sin_addr.s_addr = htonl(INADDR_ANY);
        socklen_t length = sizeof(own);
        if (bind(socket_, reinterpret_cast<sockaddr*>(&own), length) == 0) {
            getsockname(socket_, reinterpret_cast<sockaddr*>(&own), &length);
        }
        std::string mine;
        for (const in_addr& address : addresses()) {
            mine += concat(" ", address.s_addr, " ", own.sin_port);
        }
        const auto all = heads.all_gather(mine);
        const auto names = heads.all_gather(description(ranks));
        const auto p = static_cast<std::size_t>(heads.size());
        const auto at = static_cast<std::size_t>(heads.rank());
        std::istringstream next(all[(at + 1) % p]);
        sockaddr_in to{};
        to.sin_family = AF_INET;
        while (next >> to.sin_addr.s_addr >> to.sin_port) targets_.push_back(to);
        watched_ = names[(at + p - 1) % p];
    }
    ~HostRing() {
        if (socket_ >= 0) close(socket_);
    }
    HostRing(const HostRing&) = delete;
    HostRing& operator=(const HostRing&) = delete;

    /// The host before this one in the ring, and its ranks; empty if there is none.
    [[nodiscard]] const std::string& watched() const { return watched_; }
    /// The phase that the first rank of the watched host was last heard in.
    [[nodiscard]] const std::string& phase() const { return phase_; }

    /// Says that this host lives, and in which phase; true if the watched one has said so since
    /// the last call, or never has: then the network does not carry datagrams, and their absence
    /// tells nothing.
    bool beat(const std::string& phase) {
        const std::string signal = concat("b", phase);
        for (const sockaddr_in& to : targets_) {
            static_cast<void>(sendto(socket_, signal.data(), signal.size(), 0,
                                     reinterpret_cast<const sockaddr*>(&to), sizeof(to)));
        }
        bool any = false;
        char buffer[128];
        for (ssize_t n = 0; (n = recv(socket_, buffer, sizeof(buffer), 0)) > 0; any = true) {
            phase_.assign(buffer + 1, static_cast<std::size_t>(n - 1));
        }
        heard_ = heard_ || any;
        return any || !heard_;
    }

private:
    /// "host b (rank 2)", "host b (ranks 2 to 3)"; ranks need not follow each other.
    static std::string description(const std::vector<int>& ranks) {
        std::string text = concat("host ", host_name(), " (rank");
        if (ranks.size() == 1) return concat(text, " ", ranks.front(), ")");
        const bool row = ranks.back() - ranks.front() + 1 == std::ssize(ranks);
        if (row) return concat(text, "s ", ranks.front(), " to ", ranks.back(), ")");
        return concat(text, " ", ranks.front(), " and ", ranks.size() - 1, " more)");
    }

    static std::vector<in_addr> addresses() {
        std::vector<in_addr> found;
        ifaddrs* list = nullptr;
        if (getifaddrs(&list) != 0) return found;
        for (const ifaddrs* i = list; i != nullptr; i = i->ifa_next) {
            const bool up = i->ifa_addr != nullptr && i->ifa_addr->sa_family == AF_INET &&
                            (i->ifa_flags & IFF_UP) != 0 && (i->ifa_flags & IFF_LOOPBACK) == 0;
            if (up) found.push_back(reinterpret_cast<const sockaddr_in*>(i->ifa_addr)->sin_addr);
        }
        freeifaddrs(list);
        return found;
    }

    int socket_ = -1;
    std::vector<sockaddr_in> targets_;
    std::string watched_;
    std::string phase_;
    bool heard_ = false;
};

/// Ends this process's mpirun in a few seconds, with what it started, if it still stands then: it
/// waits for ever for the daemons of a host that cannot be reached. What others started, as Slurm's
/// steps, they end themselves.
void end_launcher_later() {
    const std::set<std::string> launchers{"mpirun", "mpiexec",       "orterun",
                                          "orted",  "prte",          "prterun",
                                          "prted",  "mpiexec.hydra", "hydra_pmi_proxy"};
    const auto read = [](const std::filesystem::path& file) {
        std::ifstream in(file);
        std::string text;
        std::getline(in, text);
        return text;
    };
    const std::string launcher = std::to_string(getppid());
    if (!launchers.contains(read(concat("/proc/", launcher, "/comm")))) return;
    std::string script = concat("sleep 5; kill -KILL ", launcher);
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
        const std::string stat = read(entry.path() / "stat");  // "12 (name) S 1 …": its parent
        std::istringstream rest(stat.substr(std::min(stat.rfind(')'), stat.size() - 1) + 1));
        std::string state;
        std::string parent;
        rest >> state >> parent;
        if (parent == launcher) script += concat(" ", entry.path().filename().string());
    }
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    posix_spawn_file_actions_t files;  // mpirun waits for the end of what it reads from us
    posix_spawn_file_actions_init(&files);
    for (const int file : {0, 1, 2}) {
        posix_spawn_file_actions_addopen(&files, file, "/dev/null", O_RDWR, 0);
    }
    char shell[] = "sh";
    char option[] = "-c";
    char* const arguments[] = {shell, option, script.data(), nullptr};
    pid_t child = 0;
    posix_spawn(&child, "/bin/sh", &files, &attributes, arguments, environ);
}

}  // namespace

struct Watchdog::Impl {
    Impl(const Communicator& whole, double limit)
        : comm{whole},
          limit_s{limit},
          host{ranks_of_host(whole)},
          heads{whole.split(host->is_root() ? 0 : 1)},
          page(*host),
          ranks{host->all_gather(whole.rank())} {
        if (host->is_root()) ring.emplace(*heads, ranks);
    }

    Place& own() const { return page.place(static_cast<std::size_t>(host->rank())); }

    void watch() {
        const std::chrono::duration<double> interval(std::min(0.5, limit_s / 8.0));
        std::vector<std::uint64_t> last(page.size(), 0);
        std::vector<double> silent_s(page.size() + 1, 0.0);  // and of the watched host
        std::unique_lock lock(mutex);
        while (!wake.wait_for(lock, interval, [this] { return done; })) {
            own().beats.fetch_add(1, std::memory_order_relaxed);
            if (page.doomed().load()) _exit(static_cast<int>(Fault::silent));
            for (std::size_t q = 0; q < page.size(); ++q) {
                const auto beats = page.place(q).beats.load(std::memory_order_relaxed);
                const bool lives = beats != last[q] || page.place(q).left.load();
                silent_s[q] = lives ? 0.0 : silent_s[q] + interval.count();
                last[q] = beats;
                if (silent_s[q] >= limit_s) end_for_rank(q);
            }
            if (!ring || ring->watched().empty()) continue;
            const bool heard = ring->beat(own().beacon.phase());
            silent_s.back() = heard ? 0.0 : silent_s.back() + interval.count();
            // later than the ranks of that host, which know more of their own
            if (silent_s.back() >= limit_s + 2.0 * interval.count()) end_for_host();
        }
    }

    [[nodiscard]] std::string seconds() const { return concat(limit_s, " s"); }

    [[noreturn]] void end_for_rank(std::size_t q) const {
        const std::string phase = page.place(q).beacon.phase();
        end(concat("rank ", ranks[q], " on ", host_name(), " has stood still for ", seconds(),
                   " in the phase \"", phase, "\""));
    }

    [[noreturn]] void end_for_host() const {
        end_launcher_later();
        end(concat(ring->watched(), " has not been heard of for ", seconds(),
                   ", last in the phase \"", ring->phase(), "\""));
    }

    /// Ends all ranks of this host; the first that notices says why.
    [[noreturn]] void end(const std::string& why) const {
        if (!page.doomed().exchange(true)) {
            const std::string line =
                concat("rankfold: ", why, "; rank ", comm.rank(),
                       " ends the job (submit it again, with --resume if it has checkpoints; "
                       "--watchdog sets the limit)\n");
            static_cast<void>(!write(STDERR_FILENO, line.data(), line.size()));
        }
        _exit(static_cast<int>(Fault::silent));
    }

    const Communicator& comm;
    double limit_s;
    std::unique_ptr<Communicator> host;   // the ranks of this host
    std::unique_ptr<Communicator> heads;  // the first ranks of all hosts; and all others
    SharedPage page;
    std::vector<int> ranks;  // of the places
    std::optional<HostRing> ring;
    std::mutex mutex;
    std::condition_variable wake;
    bool done = false;
    std::thread thread;
    int uncaught_at_start = std::uncaught_exceptions();
};

Watchdog::Watchdog(const Communicator& comm, double limit_s) {
    RANKFOLD_EXPECT(limit_s >= 1.0);
    if (comm.size() == 1) return;
    impl_ = std::make_unique<Impl>(comm, limit_s);
    if (!comm.all_agree(impl_->page.good())) {
        throw Error(Fault::system,
                    "no shared memory for the watchdog (/dev/shm); free some, or pass --watchdog 0",
                    true);
    }
    comm.ledger().show_on(&impl_->own().beacon);
    impl_->thread = std::thread([impl = impl_.get()] { impl->watch(); });
}

Watchdog::~Watchdog() {
    if (!impl_) return;
    if (std::uncaught_exceptions() == impl_->uncaught_at_start) impl_->comm.barrier();
    {
        const std::lock_guard lock(impl_->mutex);
        impl_->done = true;
    }
    impl_->wake.notify_one();
    if (impl_->thread.joinable()) impl_->thread.join();
    if (impl_->page.good()) impl_->own().left.store(true);
    impl_->comm.ledger().show_on(nullptr);
}

}  // namespace rankfold
