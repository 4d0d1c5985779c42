#include <rankfold/nn/optimizer.hpp>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace rankfold {

namespace {

std::size_t at(Index i) {
    return static_cast<std::size_t>(i);
}

}  // namespace

double learning_rate(const OptimizerOptions& options, Index step, Index steps) {
    if (options.schedule == Schedule::constant) return options.learning_rate;
    const double done = static_cast<double>(step) / static_cast<double>(steps);
    return options.learning_rate * 0.5 * (1.0 + std::cos(std::numbers::pi * done));
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
    if (options_.method == Method::adam) second_.assign(at(total), R{0});
}

template <Real R>
void Optimizer<R>::begin_step(Index step, Index steps) {
    rate_ = learning_rate(options_, step, steps);
    const double t = static_cast<double>(step + 1);
    adam_ = {.rate = rate_ / (1.0 - std::pow(options_.beta1, t)),
             .beta1 = options_.beta1,
             .beta2 = options_.beta2,
             .correction = 1.0 / std::sqrt(1.0 - std::pow(options_.beta2, t)),
             .epsilon = options_.epsilon};
}

template <Real R>
std::span<R> Optimizer<R>::part(AlignedVector<R>& moments, Index b, Range piece) {
    return std::span<R>(moments).subspan(at(begin_[at(b)] + piece.begin - owned_[at(b)].begin),
                                         at(piece.size()));
}

template <Real R>
bool Optimizer<R>::update(Index b, Range piece, std::span<const R> gradient,
                          std::span<const R> weights, std::span<R> out) {
    if (options_.method == Method::sgd) {
        return momentum_update<R>(rate_, options_.momentum, gradient, weights,
                                  part(first_, b, piece), out);
    }
    return adam_update<R>(adam_, gradient, weights, part(first_, b, piece), part(second_, b, piece),
                          out);
}

template <Real R>
void Optimizer<R>::list(const ParameterArena<R>& arena, TensorList& state) {
    const auto add = [&](const std::string& prefix, AlignedVector<R>& moments) {
        for (const ParameterTensor& tensor : arena.tensors()) {
            if (!tensor.trained) continue;
            Range held{0, 0};
            std::span<R> data;
            for (std::size_t b = 0; b < owned_.size(); ++b) {
                const Range piece{std::max(owned_[b].begin, tensor.offset),
                                  std::min(owned_[b].end, tensor.offset + tensor.size())};
                if (piece.size() <= 0) continue;  // a tensor lies in one bucket
                held = {piece.begin - tensor.offset, piece.end - tensor.offset};
                data = part(moments, static_cast<Index>(b), piece);
            }
            state.add_part(prefix + tensor.path, tensor.size(), held.begin, data);
        }
    };
    add("moments/first/", first_);
    if (options_.method == Method::adam) add("moments/second/", second_);
}

template class Optimizer<float>;
template class Optimizer<double>;

}  // namespace rankfold
