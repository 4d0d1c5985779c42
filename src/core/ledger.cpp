#include <rankfold/core/ledger.hpp>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <tuple>

namespace rankfold {

void Beacon::show(std::string_view phase) {
    std::array<std::uint64_t, std::tuple_size_v<decltype(words_)>> text{};
    std::memcpy(text.data(), phase.data(), std::min(phase.size(), sizeof(text) - 1));
    for (std::size_t w = 0; w < text.size(); ++w) {
        words_[w].store(text[w], std::memory_order_relaxed);
    }
}

std::string Beacon::phase() const {
    std::array<std::uint64_t, std::tuple_size_v<decltype(words_)>> text{};
    for (std::size_t w = 0; w < text.size(); ++w) {
        text[w] = words_[w].load(std::memory_order_relaxed);
    }
    const auto* chars = reinterpret_cast<const char*>(text.data());
    return {chars, strnlen(chars, sizeof(text))};
}

double monotonic_seconds() {
    timespec now;  // and not std::chrono, which a simulated MPI cannot replace by its own time
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

Ledger::Ledger() {
    restart();
}

void Ledger::restart() {
    phases_.assign(1, {.name = "other", .calls = 1.0});
    enter(0);
    memory_predicted_ = 0.0;
    start_ = last_ = monotonic_seconds();
}

void Ledger::charge_time() {
    const double now = monotonic_seconds();
    current().seconds += now - last_;
    last_ = now;
}

Ledger::Scope Ledger::phase(std::string_view name) {
    charge_time();
    const std::size_t outer = current_;
    const auto known = std::ranges::find(phases_, name, &PhaseRecord::name);
    const auto inner = static_cast<std::size_t>(known - phases_.begin());
    if (known == phases_.end()) phases_.push_back({.name = std::string(name)});
    enter(inner);
    if (current_ != outer) current().calls += 1.0;
    return Scope(*this, outer);
}

Ledger::Scope::~Scope() {
    ledger_.charge_time();
    ledger_.enter(outer_);
}

const std::vector<PhaseRecord>& Ledger::phases() {
    charge_time();
    return phases_;
}

void Ledger::enter(std::size_t phase) {
    current_ = phase;
    if (beacon_ != nullptr) beacon_->show(phases_[phase].name);
}

void Ledger::show_on(Beacon* beacon) {
    beacon_ = beacon;
    enter(current_);
}

double Ledger::elapsed() const {
    return monotonic_seconds() - start_;
}

}  // namespace rankfold
