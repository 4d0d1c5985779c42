// Updates of owned slices of the parameters, in one pass over memory.
#pragma once

#include <string>
#include <vector>

#include <rankfold/nn/arena.hpp>
#include <rankfold/nn/kernels.hpp>

namespace rankfold {

enum class Method { adam, sgd };
enum class Schedule { constant, cosine };

struct OptimizerOptions {
    Method method = Method::adam;
    double learning_rate = 1e-3;
    Schedule schedule = Schedule::cosine;
    double momentum = 0.9;  ///< SGD's
    double beta1 = 0.9;     ///< Adam's
    double beta2 = 0.999;
    double epsilon = 1e-8;
};

/// The learning rate of step `step` of `steps` (from 0): constant, or falling to 0 as half a
/// cosine.
[[nodiscard]] double learning_rate(const OptimizerOptions& options, Index step, Index steps);

/// Adam (Kingma and Ba, 2015) or SGD with momentum on the slices of the arena that this rank owns.
///
/// The moments exist for those slices only, so the ranks share the state and the time between them.
template <Real R>
class Optimizer {
public:
    /// @param owned  this rank's slice of every bucket, in positions of the arena
    Optimizer(const OptimizerOptions& options, std::vector<Range> owned);

    /// Fixes the coefficients of step `step` of `steps`, from 0.
    void begin_step(Index step, Index steps);

    /// Updates `piece`, a part of this rank's slice of bucket b. Thread-safe on different pieces.
    /// @param gradient, weights, out  piece.size() elements; `out` may be `weights`
    /// @return whether the gradient is finite
    [[nodiscard]] bool update(Index b, Range piece, std::span<const R> gradient,
                              std::span<const R> weights, std::span<R> out);

    /// Adds the moments of every trained tensor to `state`, as vectors in global layout:
    /// "moments/first/<tensor>" and, with Adam, "moments/second/<tensor>".
    void list(const ParameterArena<R>& arena, TensorList& state);

private:
    [[nodiscard]] std::span<R> part(AlignedVector<R>& moments, Index b, Range piece);

    OptimizerOptions options_;
    std::vector<Range> owned_;
    std::vector<Index> begin_;  // of each owned slice in the arrays below
    AlignedVector<R> first_;
    AlignedVector<R> second_;  // Adam only
    double rate_ = 0.0;
    AdamStep adam_{};
};

extern template class Optimizer<float>;
extern template class Optimizer<double>;

}  // namespace rankfold
