// What a part of an algorithm costs one rank, and how long a machine takes for it.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace rankfold {

/// Bytes that a rank holds, by what they are for.
using MemoryParts = std::vector<std::pair<std::string, double>>;

[[nodiscard]] inline double sum_of(const MemoryParts& parts) {
    double bytes = 0.0;
    for (const auto& part : parts) bytes += part.second;
    return bytes;
}

/// Speed of one rank and its network: the usual latency, bandwidth and arithmetic terms.
struct MachineSpeed {
    double seconds_per_message = 2e-6;
    double seconds_per_byte = 2e-10;
    double seconds_per_flop = 2e-11;
};

/// Messages, bytes and flops of the rank that has most of each.
struct Cost {
    double messages = 0.0;
    double bytes = 0.0;  ///< sent
    double flops = 0.0;

    [[nodiscard]] double seconds(const MachineSpeed& speed) const {
        return messages * speed.seconds_per_message + bytes * speed.seconds_per_byte +
               flops * speed.seconds_per_flop;
    }
};

}  // namespace rankfold
