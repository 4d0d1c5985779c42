// Updates of owned slices of the parameters, in one pass over memory.
#pragma once

#include <string>
#include <vector>

#include <rankfold/nn/arena.hpp>
#include <rankfold/nn/kernels.hpp>

namespace rankfold {

enum class Method { adam, adamw, sgd };
enum class Schedule { constant, cosine, step };

struct OptimizerOptions {
    Method method = Method::adam;
    double learning_rate = 1e-3;
    Schedule schedule = Schedule::cosine;
    double warm_up = 0.0;      ///< epochs in which the rate grows from 0 to learning_rate
    double step_epochs = 5.0;  ///< Schedule::step: the rate is multiplied by step_factor so often
    double step_factor = 0.5;
    double weight_decay = 0.0;  ///< of weights and tables, not of biases and gains
    double clip = 0.0;          ///< largest norm of the whole gradient; 0: no limit
    double momentum = 0.9;      ///< SGD's
    double beta1 = 0.9;         ///< Adam's
    double beta2 = 0.999;
    double epsilon = 1e-8;
};

/// Where training stands: steps done of all steps.
struct Clock {
    Index step = 0;
    Index steps = 1;
    Index steps_per_epoch = 1;
};

/// The learning rate of the step that follows: constant, falling to 0 as half a cosine, or falling
/// in steps; in the warm-up times the share of it that is over.
[[nodiscard]] double learning_rate(const OptimizerOptions& options, const Clock& clock);

/// Adam (Kingma and Ba, 2015), AdamW (Loshchilov and Hutter, 2019: weights decay apart from the
/// gradient) or SGD with momentum on the slices of the arena that this rank updates. Weight decay
/// of Adam and SGD adds to the gradient.
///
/// The moments exist for those slices only, so owners share the state and the time between them.
template <Real R>
class Optimizer {
public:
    /// @param owned  this rank's slice of every bucket, in positions of the arena
    Optimizer(const OptimizerOptions& options, std::vector<Range> owned);

    [[nodiscard]] const OptimizerOptions& options() const noexcept { return options_; }
    /// True if there are second moments.
    [[nodiscard]] bool has_second() const noexcept { return options_.method != Method::sgd; }

    /// Fixes the coefficients of a step.
    /// @param clip  what the gradient is multiplied by
    void begin_step(const Clock& clock, double clip);

    /// Updates `piece`, a part of this rank's slice of bucket b. Thread-safe on different pieces.
    /// @param weights  piece.size() elements, before and after
    /// @param decays   whether weight decay applies
    /// @return whether the gradient is finite
    [[nodiscard]] bool update(Index b, Range piece, std::span<const R> gradient,
                              std::span<R> weights, bool decays);

    /// Updates weights whose moments somebody else holds; `second` is not used by SGD.
    [[nodiscard]] bool update(std::span<const R> gradient, std::span<R> weights, std::span<R> first,
                              std::span<R> second, bool decays) const;

    /// Adds the moments of every summed tensor to `state`, as vectors in global layout:
    /// "moments/first/<tensor>" and, with Adam, "moments/second/<tensor>".
    /// @param replicated  every rank updates everything
    void list(const ParameterArena<R>& arena, bool replicated, TensorList& state);

private:
    [[nodiscard]] std::span<R> part(AlignedVector<R>& moments, Index b, Range piece);

    OptimizerOptions options_;
    std::vector<Range> owned_;
    std::vector<Index> begin_;  // of each owned slice in the arrays below
    AlignedVector<R> first_;
    AlignedVector<R> second_;  // not of SGD
    UpdateStep plain_{};       // the coefficients without weight decay, and with it
    UpdateStep decaying_{};
};

extern template class Optimizer<float>;
extern template class Optimizer<double>;

}  // namespace rankfold
