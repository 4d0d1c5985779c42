// What a run did and when: seconds, flops, bytes and messages per phase, on this rank.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

/// Where a rank says what it is doing, for others to read at any time, also from another process
/// that shares the memory.
class Beacon {
public:
    /// Shows the name of a phase, as far as it fits.
    void show(std::string_view phase);
    [[nodiscard]] std::string phase() const;

private:
    std::array<std::atomic<std::uint64_t>, 5> words_{};
};

/// What one phase cost this rank.
struct PhaseRecord {
    std::string name;
    double calls = 0.0;
    double seconds = 0.0;          ///< wall time, without that of phases opened inside it
    double flops = 0.0;            ///< by the formula of the algorithm, not what was wasted
    double bytes_sent = 0.0;       ///< sent to other ranks
    double bytes_predicted = 0.0;  ///< what the cost formulas said that bytes_sent would be
    double messages = 0.0;
};

/// The account of one rank's run. Phases nest; each second and byte is charged to the innermost.
///
/// Used by the main thread only. Every Communicator charges its traffic here.
class Ledger {
public:
    Ledger();

    /// Closes its phase when it goes out of scope.
    class Scope {
    public:
        Scope(const Scope&) = delete;
        Scope& operator=(const Scope&) = delete;
        ~Scope();

    private:
        friend class Ledger;
        Scope(Ledger& ledger, std::size_t outer) : ledger_{ledger}, outer_{outer} {}
        Ledger& ledger_;
        std::size_t outer_;
    };

    /// Opens the phase `name` until the returned object dies. Opened within itself it goes on: that
    /// is not another call.
    [[nodiscard]] Scope phase(std::string_view name);

    void add_flops(double flops) { current().flops += flops; }
    void add_bytes(double bytes, double messages) {
        current().bytes_sent += bytes;
        current().messages += messages;
    }
    void predict_bytes(double bytes) { current().bytes_predicted += bytes; }
    /// So much will be held at once, says an algorithm before it begins; the most of several.
    void predict_memory(double bytes) { memory_predicted_ = std::max(memory_predicted_, bytes); }
    [[nodiscard]] double memory_predicted() const noexcept { return memory_predicted_; }

    /// All phases in the order of their first opening; the first is "other".
    /// @pre no phase is open
    [[nodiscard]] const std::vector<PhaseRecord>& phases();

    /// Forgets all phases and starts the clock anew, for the next stage of a job.
    /// @pre no phase is open
    void restart();

    /// Seconds since the ledger was made or restarted.
    [[nodiscard]] double elapsed() const;

    /// From now on `beacon` (borrowed; null: none) shows the current phase.
    void show_on(Beacon* beacon);

private:
    [[nodiscard]] PhaseRecord& current() { return phases_[current_]; }
    void charge_time();  // gives the time since the last change of phase to the current one
    void enter(std::size_t phase);

    std::vector<PhaseRecord> phases_;
    std::size_t current_ = 0;
    double memory_predicted_ = 0.0;
    double start_ = 0.0;
    double last_ = 0.0;
    Beacon* beacon_ = nullptr;
};

/// Seconds on a clock that never steps.
[[nodiscard]] double monotonic_seconds();

}  // namespace rankfold
