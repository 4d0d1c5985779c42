#include <rankfold/core/exact_sum.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

#include <rankfold/core/error.hpp>

namespace rankfold {

namespace {

/// The nearest integer to a number below 2^62, ties to even: std::nearbyint, but without a call on
/// processors of which no more than SSE2 is assumed.
std::int64_t nearest(double x) {
    const double shift = std::copysign(0x1p52, x);  // beyond it doubles are integers
    return static_cast<std::int64_t>(std::abs(x) < 0x1p52 ? (x + shift) - shift : x);
}

}  // namespace

ExactSum::ExactSum(std::size_t size, double bound) : sums_(size + 1, 0) {
    RANKFOLD_EXPECT(!(bound < 0.0));
    if (!std::isfinite(bound)) {
        sums_.back() = 1;
    } else if (bound > 0.0) {
        int exponent = 0;  // bound < 2^exponent
        std::frexp(bound, &exponent);
        exponent = std::max(exponent, -900);  // keeps 2^(60 - exponent) finite
        scale_ = std::ldexp(1.0, 60 - exponent);
        unscale_ = std::ldexp(1.0, exponent - 60);
    }
}

void ExactSum::add(std::span<const double> terms) {
    RANKFOLD_EXPECT(terms.size() == size());
    for (std::size_t i = 0; i < terms.size(); ++i) {
        const double scaled = terms[i] * scale_;
        if (std::abs(scaled) <= 0x1p61) {
            sums_[i] += nearest(scaled);
        } else {
            ++sums_.back();  // not finite, or beyond the promised bound
        }
    }
}

void ExactSum::result(std::span<double> out) const {
    RANKFOLD_EXPECT(out.size() == size());
    const bool finite = sums_.back() == 0;
    for (std::size_t i = 0; i < out.size(); ++i) {
        out[i] = finite ? static_cast<double>(sums_[i]) * unscale_
                        : std::numeric_limits<double>::quiet_NaN();
    }
}

}  // namespace rankfold
