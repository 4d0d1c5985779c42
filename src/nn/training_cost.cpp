#include <rankfold/nn/training_cost.hpp>

#include <algorithm>

#include <rankfold/core/sum_tree.hpp>

namespace rankfold {

Cost training_step_cost(const TrainingSize& size, int ranks) {
    const double p = ranks;
    const auto n = static_cast<double>(size.parameters);
    double bytes = 0.0;
    Index most = 0;
    for (int r = 0; r < ranks; ++r) {
        const Range blocks = even_part(size.blocks, ranks, r);
        most = std::max(most, blocks.size());
        const auto nodes = static_cast<double>(tree_nodes(size.blocks, blocks).size());
        bytes += ((n - n / p) * nodes + n / p * (p - 1.0)) * static_cast<double>(size.word);
    }
    // the agreement that all losses are finite, and the norm of the gradient
    const double small = 2.0 * (p - 1.0) / p * (sizeof(Index) + (size.clip ? 32.0 : 0.0));
    return {
        .messages = ranks > 1 ? 4.0 * (p - 1.0) : 0.0,
        .bytes = ranks > 1 ? bytes / p + small : 0.0,
        .flops = size.step_flops * static_cast<double>(most) / static_cast<double>(size.blocks)};
}

}  // namespace rankfold
