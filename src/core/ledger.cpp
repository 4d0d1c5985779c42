#include <rankfold/core/ledger.hpp>

#include <algorithm>
#include <chrono>

namespace rankfold {

double monotonic_seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

Ledger::Ledger() {
    restart();
}

void Ledger::restart() {
    phases_.assign(1, {.name = "other", .calls = 1.0});
    current_ = 0;
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
    current_ = static_cast<std::size_t>(known - phases_.begin());
    if (known == phases_.end()) phases_.push_back({.name = std::string(name)});
    if (current_ != outer) current().calls += 1.0;
    return Scope(*this, outer);
}

Ledger::Scope::~Scope() {
    ledger_.charge_time();
    ledger_.current_ = outer_;
}

const std::vector<PhaseRecord>& Ledger::phases() {
    charge_time();
    return phases_;
}

double Ledger::elapsed() const {
    return monotonic_seconds() - start_;
}

}  // namespace rankfold
