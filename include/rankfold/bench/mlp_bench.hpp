// The speed of a training step.
#pragma once

#include <cstdint>

#include <rankfold/bench/bench_result.hpp>

namespace rankfold {

struct MlpBenchOptions {
    std::vector<Index> layers{784, 1024, 1024, 10};  ///< input, hidden layers, classes
    Index batch = 1024;                              ///< global
    Index micro_batches = 0;                         ///< 0: default_micro_batches(batch)
    Index steps = 20;                                ///< in one repeat
    Index repeats = 5;
    Index threads = 1;
    std::uint64_t seed = 1;
    bool owner_updates = true;
    bool reproducible = true;
};

/// Times training steps (ReLU, softmax cross-entropy, Adam) on random samples that are in memory.
///
/// The seconds are those of one step, the mean over a repeat's steps; a few steps go before the
/// first repeat. Flops are 6·weights·batch less the first layer's input gradient. Further figures:
///
/// - fast_gain: by how much the mode that is not reproducible is faster, measured in turns
/// - exposed_communication: share of the time in which a rank exchanges gradients and parameters
///   and computes nothing; modelled_communication: the same by 2 α + (last bucket's share of the
///   gradients + all parameters) (p − 1)/p / β, with α and β measured between the ranks
/// - optimizer_gb_per_s: seven numbers a parameter over the time of an Adam pass in arrays that no
///   cache holds, and its share of the triad
/// @collective over comm
/// @throws Error (Fault::input), on all ranks alike: fewer than two widths, or a batch smaller than
///         the micro-batches
template <Real R>
[[nodiscard]] BenchResult bench_mlp(const Communicator& comm, const MlpBenchOptions& options);

}  // namespace rankfold
