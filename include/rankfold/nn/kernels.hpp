// The elementwise kernels of training, compiled for several instruction sets, chosen at run time.
#pragma once

#include <span>

#include <rankfold/linalg/views.hpp>

namespace rankfold {

/// The function f that a layer applies to its linear part: to every element, but softmax to a row.
///
/// gelu(z) = z/2 (1 + tanh(√(2/π) (z + 0.044715 z³))) (Hendrycks and Gimpel, 2016).
enum class Activation { identity, relu, tanh, sigmoid, gelu, softmax };

/// z ← x + y. @pre all of one size; z may be x or y
template <Real R>
void add(std::span<const R> x, std::span<const R> y, std::span<R> z);

/// y ← x + y. @pre x.size() == y.size()
template <Real R>
void add_to(std::span<const R> x, std::span<R> y) {
    add<R>(x, y, y);
}

/// y ← y + a x. @pre x.size() == y.size()
template <Real R>
void add_scaled(R a, std::span<const R> x, std::span<R> y);

/// z ← z x, element by element. @pre x.size() == z.size()
template <Real R>
void multiply_to(std::span<const R> x, std::span<R> z);

/// z ← f(z + bias), row by row. A NaN or an infinity in z gives a result that is not finite.
/// @pre bias.size() == z.cols; f is not softmax
template <Real R>
void bias_activation(MatrixView<R> z, std::span<const R> bias, Activation f);

/// d ← d · f'(z), where f' is computed from a = f(z); for gelu, whose derivative a does not tell,
/// from a = z. @pre f is not softmax
template <Real R>
void activation_gradient(MatrixView<const R> a, Activation f, MatrixView<R> d);

/// z(i, 0) ← x(i, ·) · w, or z(i, 0) + x(i, ·) · w; the bits of a row do not depend on other rows.
/// @pre w.size() == x.cols; z has one column and as many rows as x
template <Real R>
void row_dots(MatrixView<const R> x, std::span<const R> w, bool add, MatrixView<R> z);

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

/// What one update needs besides vectors. The gradient is g' = clip · g + ridge · w.
struct UpdateStep {
    double rate = 0.0;
    double clip = 1.0;   ///< shrinks the gradient to the largest norm allowed
    double ridge = 0.0;  ///< weight decay by the gradient
    double keep = 1.0;   ///< AdamW's decay: w is multiplied by 1 − rate · decay first
    double beta1 = 0.9;  ///< Adam's; for SGD: the momentum
    double beta2 = 0.999;
    double correction1 = 1.0;  ///< 1 / (1 − beta1^t)
    double correction2 = 1.0;  ///< 1 / sqrt(1 − beta2^t)
    double epsilon = 1e-8;
};

/// In one pass: m ← β₁ m + (1 − β₁) g', v ← β₂ v + (1 − β₂) g'²,
/// out ← keep w − rate c₁ m / (√v c₂ + ε) (Kingma and Ba, ICLR 2015; Loshchilov and Hutter, 2019).
/// @pre all of one size; `out` may be `w`
/// @return whether every g is finite
template <Real R>
[[nodiscard]] bool adam_update(const UpdateStep& step, std::span<const R> g, std::span<const R> w,
                               std::span<R> m, std::span<R> v, std::span<R> out);

/// In one pass: m ← β₁ m + g', out ← w − rate m.
/// @pre all of one size; `out` may be `w`
/// @return whether every g is finite
template <Real R>
[[nodiscard]] bool momentum_update(const UpdateStep& step, std::span<const R> g,
                                   std::span<const R> w, std::span<R> m, std::span<R> out);

}  // namespace rankfold
