// The elementwise kernels of training, compiled for several instruction sets, chosen at run time.
#pragma once

#include <span>

#include <rankfold/linalg/views.hpp>

namespace rankfold {

/// The function f that a layer applies to every element of its linear part.
enum class Activation { identity, relu, tanh, sigmoid };

/// y ← y + x. @pre x.size() == y.size()
template <Real R>
void add_to(std::span<const R> x, std::span<R> y);

/// z ← f(z + bias), row by row. A NaN or an infinity in z gives a result that is not finite.
/// @pre bias.size() == z.cols
template <Real R>
void bias_activation(MatrixView<R> z, std::span<const R> bias, Activation f);

/// d ← d · f'(z), where f' is computed from a = f(z).
template <Real R>
void activation_gradient(MatrixView<const R> a, Activation f, MatrixView<R> d);

/// What shifted_exp() finds: max z, and Σ exp(z − max z), which is NaN if any z is not finite.
template <Real R>
struct ExpSum {
    R largest;
    R sum;
};

/// z ← exp(z − max z).
template <Real R>
ExpSum<R> shifted_exp(std::span<R> z);

/// z ← factor z.
template <Real R>
void scale(R factor, std::span<R> z);

/// What one Adam update needs besides vectors (Kingma and Ba, ICLR 2015).
struct AdamStep {
    double rate;  ///< learning rate / (1 − beta1^t)
    double beta1;
    double beta2;
    double correction;  ///< 1 / sqrt(1 − beta2^t)
    double epsilon;
};

/// In one pass: m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g², out ← w − rate m / (√v c + ε).
/// @pre all of one size, a multiple of 16; `out` may be `w`
/// @return whether every g is finite
template <Real R>
[[nodiscard]] bool adam_update(const AdamStep& step, std::span<const R> g, std::span<const R> w,
                               std::span<R> m, std::span<R> v, std::span<R> out);

/// In one pass: m ← momentum m + g, out ← w − rate m.
/// @pre all of one size, a multiple of 16; `out` may be `w`
/// @return whether every g is finite
template <Real R>
[[nodiscard]] bool momentum_update(double rate, double momentum, std::span<const R> g,
                                   std::span<const R> w, std::span<R> m, std::span<R> out);

}  // namespace rankfold
