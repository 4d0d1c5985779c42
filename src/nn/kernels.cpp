#include <rankfold/nn/kernels.hpp>

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels.cpp"
// clang-format off
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>
#include <hwy/contrib/math/math-inl.h>
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace rankfold::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class R>
using Tag = hn::CappedTag<R, 64 / sizeof(R)>;
template <class R>
using Vector = hn::Vec<Tag<R>>;

/// z[i] ← f(x[i], y[i]); z may be x or y.
template <class R, class Function>
HWY_INLINE void map(const R* x, const R* y, R* z, Index n, Function f) {
    const Tag<R> d;
    const auto lanes = static_cast<Index>(hn::Lanes(d));
    Index i = 0;
    for (; i + lanes <= n; i += lanes) {
        hn::StoreU(f(hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, z + i);
    }
    if (i == n) return;
    const auto rest = hn::FirstN(d, static_cast<std::size_t>(n - i));
    const auto result = f(hn::MaskedLoad(rest, d, x + i), hn::MaskedLoad(rest, d, y + i));
    hn::BlendedStore(result, rest, d, z + i);
}

/// y[i] ← f(x[i], y[i]).
template <class R, class Function>
HWY_INLINE void map(const R* x, R* y, Index n, Function f) {
    map(x, y, y, n, f);
}

/// z(i, j) ← f(x(i, j), z(i, j)), where the rows of x stand ld elements apart: 0 for one row that
/// serves all.
template <class R, class Function>
HWY_INLINE void map_rows(const R* x, Index ld, MatrixView<R> z, Function f) {
    if (z.cols != 1 || z.ld != 1) {
        for (Index i = 0; i < z.rows; ++i) map(x + i * ld, z.data + i * z.ld, z.cols, f);
    } else if (ld == 1) {  // one column is a vector of its own
        map(x, z.data, z.rows, f);
    } else {
        const auto all = hn::Set(Tag<R>(), *x);
        map(z.data, z.data, z.rows, [all, f](auto, auto v) HWY_ATTR { return f(all, v); });
    }
}

template <class R>
void add_impl(const R* x, const R* y, R* z, Index n) {
    map(x, y, z, n, [](auto a, auto b) HWY_ATTR { return hn::Add(a, b); });
}

template <class R>
void add_scaled_impl(R a, const R* x, R* y, Index n) {
    const auto by = hn::Set(Tag<R>(), a);
    map(x, y, n, [by](auto u, auto v) HWY_ATTR { return hn::MulAdd(by, u, v); });
}

template <class R>
void multiply_impl(const R* x, R* z, Index n) {
    map(x, z, n, [](auto a, auto b) HWY_ATTR { return hn::Mul(a, b); });
}

template <class R>
void scale_impl(R factor, R* z, Index n) {
    const auto by = hn::Set(Tag<R>(), factor);
    map(z, z, n, [by](auto a, auto) HWY_ATTR { return hn::Mul(a, by); });
}

/// z[i] ← x(i, ·) · w, or z[i] + that: each row in one vector of sums, several rows at once.
template <class R>
void row_dots_impl(MatrixView<const R> x, const R* w, bool add, R* z, Index ld) {
    constexpr Index block = 4;
    const Tag<R> d;
    const auto lanes = static_cast<Index>(hn::Lanes(d));
    const Index whole = x.cols / lanes * lanes;
    const auto rest = hn::FirstN(d, static_cast<std::size_t>(x.cols - whole));
    const auto rows = [&]<Index ROWS>(Index i) HWY_ATTR {
        Vector<R> sum[ROWS];
        for (Index r = 0; r < ROWS; ++r) sum[r] = hn::Zero(d);
        for (Index j = 0; j < whole; j += lanes) {
            const auto right = hn::LoadU(d, w + j);
            for (Index r = 0; r < ROWS; ++r) {
                sum[r] = hn::MulAdd(hn::LoadU(d, x.data + (i + r) * x.ld + j), right, sum[r]);
            }
        }
        if (whole < x.cols) {
            const auto right = hn::MaskedLoad(rest, d, w + whole);
            for (Index r = 0; r < ROWS; ++r) {
                const R* left = x.data + (i + r) * x.ld + whole;
                sum[r] = hn::MulAdd(hn::MaskedLoad(rest, d, left), right, sum[r]);
            }
        }
        for (Index r = 0; r < ROWS; ++r) {
            const R dot = hn::GetLane(hn::SumOfLanes(d, sum[r]));
            R& to = z[(i + r) * ld];
            to = add ? to + dot : dot;
        }
    };
    Index i = 0;
    for (; i + block <= x.rows; i += block) rows.template operator()<block>(i);
    for (; i < x.rows; ++i) rows.template operator()<1>(i);
}

/// The vector functions turn NaN into a number; adding x · 0 brings it back.
template <class R>
HWY_INLINE Vector<R> keep_nan(Vector<R> x, Vector<R> value) {
    return hn::MulAdd(x, hn::Zero(Tag<R>()), value);
}

template <class R>
HWY_INLINE Vector<R> sigmoid(Vector<R> x) {
    const Tag<R> d;
    const auto one = hn::Set(d, R{1});
    const auto e = hn::Exp(d, hn::Min(hn::Neg(x), hn::Set(d, R{80})));
    return keep_nan<R>(x, hn::Div(one, hn::Add(one, e)));
}

/// tanh(√(2/π) (x + 0.044715 x³))
template <class R>
HWY_INLINE Vector<R> gelu_tanh(Vector<R> x) {
    const Tag<R> d;
    const auto cubic = hn::Mul(hn::Set(d, static_cast<R>(0.044715)), hn::Mul(x, x));
    const auto inside = hn::Mul(x, hn::Add(hn::Set(d, R{1}), cubic));
    return hn::Tanh(d, hn::Mul(hn::Set(d, static_cast<R>(0.7978845608028654)), inside));
}

template <class R>
HWY_INLINE Vector<R> gelu(Vector<R> x) {
    const Tag<R> d;
    const auto half = hn::Mul(hn::Set(d, static_cast<R>(0.5)), x);
    return keep_nan<R>(x, hn::MulAdd(half, gelu_tanh<R>(x), half));
}

/// g'(x) = (1 + t)/2 + x/2 (1 − t²) √(2/π) (1 + 3 · 0.044715 x²)
template <class R>
HWY_INLINE Vector<R> gelu_derivative(Vector<R> x) {
    const Tag<R> d;
    const auto one = hn::Set(d, R{1});
    const auto half = hn::Set(d, static_cast<R>(0.5));
    const auto t = gelu_tanh<R>(x);
    const auto slope =
        hn::Mul(hn::Set(d, static_cast<R>(0.7978845608028654)),
                hn::MulAdd(hn::Set(d, static_cast<R>(0.134145)), hn::Mul(x, x), one));
    const auto bend = hn::Mul(hn::Mul(x, hn::NegMulAdd(t, t, one)), slope);
    return hn::Mul(half, hn::Add(hn::Add(one, t), bend));
}

template <class R>
void bias_impl(const R* bias, MatrixView<R> z, Activation f) {
    switch (f) {
        case Activation::identity:
            return map_rows(bias, 0, z, [](auto b, auto x) HWY_ATTR { return hn::Add(b, x); });
        case Activation::relu:
            return map_rows(bias, 0, z, [](auto b, auto x) HWY_ATTR {
                const auto sum = hn::Add(b, x);
                return hn::IfThenZeroElse(hn::Lt(sum, hn::Zero(Tag<R>())), sum);
            });
        case Activation::tanh:
            return map_rows(bias, 0, z, [](auto b, auto x) HWY_ATTR {
                const auto sum = hn::Add(b, x);
                return keep_nan<R>(sum, hn::Tanh(Tag<R>(), sum));
            });
        case Activation::sigmoid:
            return map_rows(bias, 0, z,
                            [](auto b, auto x) HWY_ATTR { return sigmoid<R>(hn::Add(b, x)); });
        case Activation::gelu:
            return map_rows(bias, 0, z,
                            [](auto b, auto x) HWY_ATTR { return gelu<R>(hn::Add(b, x)); });
        case Activation::softmax:
            return;
    }
}

template <class R>
void derivative_impl(MatrixView<const R> a, MatrixView<R> d, Activation f) {
    const Tag<R> tag;
    const auto one = hn::Set(tag, R{1});
    switch (f) {
        case Activation::identity:
            return;
        case Activation::relu:
            return map_rows(a.data, a.ld, d, [tag](auto y, auto x) HWY_ATTR {
                return hn::IfThenElseZero(hn::Gt(y, hn::Zero(tag)), x);
            });
        case Activation::tanh:
            return map_rows(a.data, a.ld, d, [one](auto y, auto x) HWY_ATTR {
                return hn::Mul(x, hn::NegMulAdd(y, y, one));
            });
        case Activation::sigmoid:
            return map_rows(a.data, a.ld, d, [one](auto y, auto x) HWY_ATTR {
                return hn::Mul(x, hn::Mul(y, hn::Sub(one, y)));
            });
        case Activation::gelu:
            return map_rows(a.data, a.ld, d, [](auto y, auto x) HWY_ATTR {
                return hn::Mul(x, gelu_derivative<R>(y));
            });
        case Activation::softmax:
            return;
    }
}

template <class R>
void shifted_exp_impl(R* z, Index n, R* result) {
    const Tag<R> d;
    const auto lanes = static_cast<Index>(hn::Lanes(d));
    auto most = hn::Set(d, z[0]);
    Index i = 0;
    for (; i + lanes <= n; i += lanes) most = hn::Max(most, hn::LoadU(d, z + i));
    R largest = hn::GetLane(hn::MaxOfLanes(d, most));
    for (; i < n; ++i) largest = std::max(largest, z[i]);

    const auto shift = hn::Set(d, largest);
    auto sum = hn::Zero(d);
    for (i = 0; i + lanes <= n; i += lanes) {
        const auto x = hn::Sub(hn::LoadU(d, z + i), shift);
        const auto e = keep_nan<R>(x, hn::Exp(d, x));
        hn::StoreU(e, d, z + i);
        sum = hn::Add(sum, e);
    }
    R total = hn::GetLane(hn::SumOfLanes(d, sum));
    for (; i < n; ++i) {
        HWY_ALIGN R one[HWY_MAX_BYTES / sizeof(R)];
        const auto x = hn::Set(d, z[i] - largest);
        hn::Store(keep_nan<R>(x, hn::Exp(d, x)), d, one);
        z[i] = one[0];
        total += one[0];
    }
    result[0] = largest;
    result[1] = total;
}

/// out ← step(g, w, m, v) for each element; it also updates its arguments m and, if there is one,
/// v.
template <class R, class Step>
HWY_INLINE bool update_all(const R* g, const R* w, R* m, R* v, R* out, Index n, Step step) {
    const Tag<R> d;
    const auto lanes = static_cast<Index>(hn::Lanes(d));
    auto check = hn::Zero(d);
    Index i = 0;
    for (; i + lanes <= n; i += lanes) {
        const auto gradient = hn::LoadU(d, g + i);
        auto first = hn::LoadU(d, m + i);
        auto second = v != nullptr ? hn::LoadU(d, v + i) : hn::Zero(d);
        hn::StoreU(step(gradient, hn::LoadU(d, w + i), first, second), d, out + i);
        hn::StoreU(first, d, m + i);
        if (v != nullptr) hn::StoreU(second, d, v + i);
        check = hn::MulAdd(gradient, hn::Zero(d), check);
    }
    if (i < n) {
        const auto rest = hn::FirstN(d, static_cast<std::size_t>(n - i));
        const auto gradient = hn::MaskedLoad(rest, d, g + i);
        auto first = hn::MaskedLoad(rest, d, m + i);
        auto second = v != nullptr ? hn::MaskedLoad(rest, d, v + i) : hn::Zero(d);
        const auto result = step(gradient, hn::MaskedLoad(rest, d, w + i), first, second);
        hn::BlendedStore(result, rest, d, out + i);
        hn::BlendedStore(first, rest, d, m + i);
        if (v != nullptr) hn::BlendedStore(second, rest, d, v + i);
        check = hn::MulAdd(gradient, hn::Zero(d), check);
    }
    return hn::AllTrue(d, hn::Eq(check, check));
}

template <class R>
bool adam_impl(const UpdateStep& step, const R* g, const R* w, R* m, R* v, R* out, Index n) {
    const Tag<R> d;
    using V = Vector<R>;
    const auto set = [d](double x) HWY_ATTR { return hn::Set(d, static_cast<R>(x)); };
    const auto clip = set(step.clip);
    const auto ridge = set(step.ridge);
    const auto keep = set(step.keep);
    const auto beta1 = set(step.beta1);
    const auto rest1 = set(1.0 - step.beta1);
    const auto beta2 = set(step.beta2);
    const auto rest2 = set(1.0 - step.beta2);
    const auto rate = set(step.rate * step.correction1);
    const auto correction = set(step.correction2);
    const auto epsilon = set(step.epsilon);
    return update_all(g, w, m, v, out, n, [=](V g1, V weight, V& first, V& second) HWY_ATTR {
        const auto gradient = hn::MulAdd(ridge, weight, hn::Mul(clip, g1));
        first = hn::MulAdd(beta1, first, hn::Mul(rest1, gradient));
        second = hn::MulAdd(beta2, second, hn::Mul(rest2, hn::Mul(gradient, gradient)));
        const auto root = hn::MulAdd(hn::Sqrt(second), correction, epsilon);
        return hn::NegMulAdd(rate, hn::Div(first, root), hn::Mul(keep, weight));
    });
}

template <class R>
bool momentum_impl(const UpdateStep& step, const R* g, const R* w, R* m, R* out, Index n) {
    const Tag<R> d;
    using V = Vector<R>;
    const auto rate = hn::Set(d, static_cast<R>(step.rate));
    const auto momentum = hn::Set(d, static_cast<R>(step.beta1));
    const auto clip = hn::Set(d, static_cast<R>(step.clip));
    const auto ridge = hn::Set(d, static_cast<R>(step.ridge));
    R* const none = nullptr;
    return update_all(g, w, m, none, out, n, [=](V g1, V weight, V& velocity, V&) HWY_ATTR {
        const auto gradient = hn::MulAdd(ridge, weight, hn::Mul(clip, g1));
        velocity = hn::MulAdd(momentum, velocity, gradient);
        return hn::NegMulAdd(rate, velocity, weight);
    });
}

#define RANKFOLD_KERNELS(R, suffix)                                                                \
    void add_##suffix(const R* x, const R* y, R* z, Index n) {                                     \
        add_impl<R>(x, y, z, n);                                                                   \
    }                                                                                              \
    void add_scaled_##suffix(R a, const R* x, R* y, Index n) {                                     \
        add_scaled_impl<R>(a, x, y, n);                                                            \
    }                                                                                              \
    void multiply_##suffix(const R* x, R* z, Index n) {                                            \
        multiply_impl<R>(x, z, n);                                                                 \
    }                                                                                              \
    void scale_##suffix(R factor, R* z, Index n) {                                                 \
        scale_impl<R>(factor, z, n);                                                               \
    }                                                                                              \
    void bias_##suffix(const R* b, MatrixView<R> z, Activation f) {                                \
        bias_impl<R>(b, z, f);                                                                     \
    }                                                                                              \
    void derivative_##suffix(MatrixView<const R> a, MatrixView<R> d, Activation f) {               \
        derivative_impl<R>(a, d, f);                                                               \
    }                                                                                              \
    void row_dots_##suffix(MatrixView<const R> x, const R* w, bool add, R* z, Index ld) {          \
        row_dots_impl<R>(x, w, add, z, ld);                                                        \
    }                                                                                              \
    void shifted_exp_##suffix(R* z, Index n, R* result) {                                          \
        shifted_exp_impl<R>(z, n, result);                                                         \
    }                                                                                              \
    bool adam_##suffix(const UpdateStep& s, const R* g, const R* w, R* m, R* v, R* out, Index n) { \
        return adam_impl<R>(s, g, w, m, v, out, n);                                                \
    }                                                                                              \
    bool momentum_##suffix(const UpdateStep& s, const R* g, const R* w, R* m, R* out, Index n) {   \
        return momentum_impl<R>(s, g, w, m, out, n);                                               \
    }
RANKFOLD_KERNELS(float, f)
RANKFOLD_KERNELS(double, d)
#undef RANKFOLD_KERNELS

}  // namespace rankfold::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rankfold {

namespace {

Index length(std::size_t n) {
    return static_cast<Index>(n);
}

}  // namespace

#define RANKFOLD_EXPORT(R, suffix)                                                               \
    HWY_EXPORT(add_##suffix);                                                                    \
    HWY_EXPORT(add_scaled_##suffix);                                                             \
    HWY_EXPORT(multiply_##suffix);                                                               \
    HWY_EXPORT(scale_##suffix);                                                                  \
    HWY_EXPORT(bias_##suffix);                                                                   \
    HWY_EXPORT(derivative_##suffix);                                                             \
    HWY_EXPORT(row_dots_##suffix);                                                               \
    HWY_EXPORT(shifted_exp_##suffix);                                                            \
    HWY_EXPORT(adam_##suffix);                                                                   \
    HWY_EXPORT(momentum_##suffix);                                                               \
    template <>                                                                                  \
    void add(std::span<const R> x, std::span<const R> y, std::span<R> z) {                       \
        RANKFOLD_EXPECT(x.size() == y.size() && x.size() == z.size());                           \
        HWY_DYNAMIC_DISPATCH(add_##suffix)(x.data(), y.data(), z.data(), length(x.size()));      \
    }                                                                                            \
    template <>                                                                                  \
    void add_scaled(R a, std::span<const R> x, std::span<R> y) {                                 \
        RANKFOLD_EXPECT(x.size() == y.size());                                                   \
        HWY_DYNAMIC_DISPATCH(add_scaled_##suffix)(a, x.data(), y.data(), length(x.size()));      \
    }                                                                                            \
    template <>                                                                                  \
    void multiply_to(std::span<const R> x, std::span<R> z) {                                     \
        RANKFOLD_EXPECT(x.size() == z.size());                                                   \
        HWY_DYNAMIC_DISPATCH(multiply_##suffix)(x.data(), z.data(), length(x.size()));           \
    }                                                                                            \
    template <>                                                                                  \
    void scale(R factor, std::span<R> z) {                                                       \
        HWY_DYNAMIC_DISPATCH(scale_##suffix)(factor, z.data(), length(z.size()));                \
    }                                                                                            \
    template <>                                                                                  \
    void bias_activation(MatrixView<R> z, std::span<const R> bias, Activation f) {               \
        RANKFOLD_EXPECT(length(bias.size()) == z.cols);                                          \
        HWY_DYNAMIC_DISPATCH(bias_##suffix)(bias.data(), z, f);                                  \
    }                                                                                            \
    template <>                                                                                  \
    void activation_gradient(MatrixView<const R> a, Activation f, MatrixView<R> d) {             \
        RANKFOLD_EXPECT(a.rows == d.rows && a.cols == d.cols);                                   \
        HWY_DYNAMIC_DISPATCH(derivative_##suffix)(a, d, f);                                      \
    }                                                                                            \
    template <>                                                                                  \
    void row_dots(MatrixView<const R> x, std::span<const R> w, bool add, MatrixView<R> z) {      \
        RANKFOLD_EXPECT(z.cols == 1 && z.rows == x.rows && length(w.size()) == x.cols);          \
        HWY_DYNAMIC_DISPATCH(row_dots_##suffix)(x, w.data(), add, z.data, z.ld);                 \
    }                                                                                            \
    template <>                                                                                  \
    ExpSum<R> shifted_exp(std::span<R> z) {                                                      \
        R result[2] = {0, 0};                                                                    \
        if (!z.empty()) {                                                                        \
            HWY_DYNAMIC_DISPATCH(shifted_exp_##suffix)(z.data(), length(z.size()), result);      \
        }                                                                                        \
        return {result[0], result[1]};                                                           \
    }                                                                                            \
    template <>                                                                                  \
    bool adam_update(const UpdateStep& step, std::span<const R> g, std::span<const R> w,         \
                     std::span<R> m, std::span<R> v, std::span<R> out) {                         \
        RANKFOLD_EXPECT(w.size() == g.size() && m.size() == g.size());                           \
        RANKFOLD_EXPECT(v.size() == g.size() && out.size() == g.size());                         \
        return HWY_DYNAMIC_DISPATCH(adam_##suffix)(step, g.data(), w.data(), m.data(), v.data(), \
                                                   out.data(), length(g.size()));                \
    }                                                                                            \
    template <>                                                                                  \
    bool momentum_update(const UpdateStep& step, std::span<const R> g, std::span<const R> w,     \
                         std::span<R> m, std::span<R> out) {                                     \
        RANKFOLD_EXPECT(w.size() == g.size() && m.size() == g.size());                           \
        RANKFOLD_EXPECT(out.size() == g.size());                                                 \
        return HWY_DYNAMIC_DISPATCH(momentum_##suffix)(step, g.data(), w.data(), m.data(),       \
                                                       out.data(), length(g.size()));            \
    }
RANKFOLD_EXPORT(float, f)
RANKFOLD_EXPORT(double, d)
#undef RANKFOLD_EXPORT

}  // namespace rankfold
#endif  // HWY_ONCE
