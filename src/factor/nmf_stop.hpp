// When a loop of nonnegative factorization ends before its last sweep.
#pragma once

#include <rankfold/comm/communicator.hpp>
#include <rankfold/factor/nmf.hpp>

namespace rankfold {

/// The rules of NmfOptions, asked after every sweep.
class NmfStop {
public:
    /// Both are borrowed. @param objective  before the first sweep
    NmfStop(const Communicator& comm, const NmfOptions& options, double objective)
        : comm_{comm}, options_{options}, before_{objective} {}

    /// @param kkt  the relative KKT residual
    /// @collective over the communicator: the same answer on all ranks
    [[nodiscard]] bool enough(double objective, double kkt) {
        const bool slow = before_ - objective < options_.least_change * before_;
        before_ = objective;
        if (options_.tolerance > 0.0 && kkt <= options_.tolerance) return true;
        if (options_.least_change > 0.0 && slow) return true;
        if (options_.most_seconds <= 0.0) return false;
        return comm_.all_reduce(monotonic_seconds() - start_, Reduce::max) >= options_.most_seconds;
    }

private:
    const Communicator& comm_;
    const NmfOptions& options_;
    double before_;
    double start_ = monotonic_seconds();
};

}  // namespace rankfold
