#include <rankfold/nn/optimizer.hpp>

#include <algorithm>
#include <cmath>
#include <numbers>

#include <rankfold/core/subscript.hpp>

namespace rankfold {

double learning_rate(const OptimizerOptions& options, const Clock& clock) {
    const auto step = static_cast<double>(clock.step);
    const auto epoch = static_cast<double>(clock.steps_per_epoch);
    double rate = options.learning_rate;
    if (options.schedule == Schedule::cosine) {
        rate *= 0.5 * (1.0 + std::cos(std::numbers::pi * step / static_cast<double>(clock.steps)));
    } else if (options.schedule == Schedule::step) {
        rate *= std::pow(options.step_factor, std::floor(step / (options.step_epochs * epoch)));
    }
    const double warm = options.warm_up * epoch;
    return step < warm ? rate * (step + 1.0) / (warm + 1.0) : rate;
}

template <Real R>
Optimizer<R>::Optimizer(const OptimizerOptions& options, std::vector<Range> owned)
    : options_{options}, owned_{std::move(owned)} {
    Index total = 0;
    for (const Range& slice : owned_) {
        begin_.push_back(total);
        total += slice.size();
    }
    first_.assign(at(total), R{0});
    if (has_second()) second_.assign(at(total), R{0});
}

template <Real R>
void Optimizer<R>::begin_step(const Clock& clock, double clip) {
    const double t = static_cast<double>(clock.step + 1);
    const bool sgd = options_.method == Method::sgd;
    plain_ = {.rate = learning_rate(options_, clock),
              .clip = clip,
              .beta1 = sgd ? options_.momentum : options_.beta1,
              .beta2 = options_.beta2,
              .correction1 = 1.0 / (1.0 - std::pow(options_.beta1, t)),
              .correction2 = 1.0 / std::sqrt(1.0 - std::pow(options_.beta2, t)),
              .epsilon = options_.epsilon};
    decaying_ = plain_;
    if (options_.method == Method::adamw) {
        decaying_.keep = 1.0 - plain_.rate * options_.weight_decay;
    } else {
        decaying_.ridge = options_.weight_decay;
    }
}

template <Real R>
std::span<R> Optimizer<R>::part(AlignedVector<R>& moments, Index b, Range piece) {
    return std::span<R>(moments).subspan(at(begin_[at(b)] + piece.begin - owned_[at(b)].begin),
                                         at(piece.size()));
}

template <Real R>
bool Optimizer<R>::update(Index b, Range piece, std::span<const R> gradient, std::span<R> weights,
                          bool decays) {
    return update(gradient, weights, part(first_, b, piece),
                  has_second() ? part(second_, b, piece) : std::span<R>(), decays);
}

template <Real R>
bool Optimizer<R>::update(std::span<const R> gradient, std::span<R> weights, std::span<R> first,
                          std::span<R> second, bool decays) const {
    const UpdateStep& step = decays ? decaying_ : plain_;
    if (!has_second()) return momentum_update<R>(step, gradient, weights, first, weights);
    return adam_update<R>(step, gradient, weights, first, second, weights);
}

template <Real R>
void Optimizer<R>::list(const ParameterArena<R>& arena, bool replicated, TensorList& state) {
    const auto add = [&](const std::string& prefix, AlignedVector<R>& moments) {
        for (const ParameterTensor& tensor : arena.tensors()) {
            if (!tensor.summed()) continue;
            Range held{0, 0};
            std::span<R> data;
            for (std::size_t b = 0; b < owned_.size(); ++b) {
                const Range piece{std::max(owned_[b].begin, tensor.offset),
                                  std::min(owned_[b].end, tensor.offset + tensor.size())};
                if (piece.size() <= 0) continue;  // a tensor lies in one bucket
                held = {piece.begin - tensor.offset, piece.end - tensor.offset};
                data = part(moments, static_cast<Index>(b), piece);
            }
            if (replicated) {
                state.add_replicated(prefix + tensor.path, {tensor.size()}, data);
            } else {
                state.add_part(prefix + tensor.path, tensor.size(), held.begin, data);
            }
        }
    };
    add("moments/first/", first_);
    if (has_second()) add("moments/second/", second_);
}

template class Optimizer<float>;
template class Optimizer<double>;

}  // namespace rankfold
