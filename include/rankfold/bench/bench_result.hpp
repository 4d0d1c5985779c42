// What a benchmark measures, and the yardstick it is held against.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <rankfold/comm/communicator.hpp>

namespace rankfold {

/// Times of one benchmark. Flops are counted by the formula of the algorithm, over all ranks.
struct BenchResult {
    std::string bench;
    std::vector<std::pair<std::string, double>> problem;  ///< sizes and options
    std::vector<double> seconds;                          ///< one a repeat: the slowest rank's
    double flops = 0.0;                                   ///< of one repeat
    double gemm_gflops = 0.0;  ///< of all ranks at once in the same run: the best of before, after
    std::vector<std::pair<std::string, double>> extra{};  ///< further figures of this benchmark

    [[nodiscard]] double median() const;
    [[nodiscard]] double gflops() const { return flops / median() * 1e-9; }
};

/// Flop rate in GF/s of 2048³ products on all ranks at once: the sum over ranks of each rank's
/// best of 3. @collective over comm
template <Real R>
[[nodiscard]] double all_ranks_gemm_gflops(const Communicator& comm);

/// Memory bandwidth in GB/s of a triad a ← b + s c on all ranks at once, in arrays of 64 MiB: three
/// words an element count. The sum over ranks of each rank's best of 5. @collective over comm
[[nodiscard]] double all_ranks_triad_gbytes(const Communicator& comm);

}  // namespace rankfold
