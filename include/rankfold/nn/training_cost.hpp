// What a training step costs on any number of ranks.
#pragma once

#include <rankfold/core/cost.hpp>
#include <rankfold/core/types.hpp>

namespace rankfold {

/// A network in training as far as its cost is concerned.
struct TrainingSize {
    Index parameters = 0;     ///< whose gradients are summed, with what pads them
    double step_flops = 0.0;  ///< of a global batch, forward and backward
    Index blocks = 4;         ///< micro-batches
    std::size_t word = 4;     ///< bytes of a number
    bool clip = false;
};

/// One step of the rank with most blocks; bytes are the mean over the ranks:
///
///     flops   step_flops · (most blocks of a rank) / blocks
///     bytes   (parameters − own part) · (tree nodes of its blocks) + own part · (p − 1) words
[[nodiscard]] Cost training_step_cost(const TrainingSize& size, int ranks);

}  // namespace rankfold
