#include <cmath>
#include <limits>

#include <rankfold/core/random.hpp>
#include <rankfold/linalg/dense.hpp>

#include "reference/naive_mlp.hpp"
#include "support/mpi_test.hpp"

namespace rankfold::test {

template <class R>
class NnKernels : public MpiTest {
protected:
    static AlignedVector<R> numbers(std::size_t n, double size, Index stream) {
        const Philox random(3, Stream::synthetic_entry);
        AlignedVector<R> x(n);
        for (std::size_t i = 0; i < n; ++i) {
            x[i] = static_cast<R>(size * random.normal(stream, static_cast<Index>(i)));
        }
        return x;
    }
    static constexpr double eps = std::numeric_limits<R>::epsilon();
};
using Scalars = ::testing::Types<float, double>;
TYPED_TEST_SUITE(NnKernels, Scalars);

TYPED_TEST(NnKernels, ActivationsAndTheirGradientsMatchTheirFormulasAtAnyLength) {
    using R = TypeParam;
    for (const Index n : {1, 7, 16, 37}) {
        for (const auto f :
             {Activation::identity, Activation::relu, Activation::tanh, Activation::sigmoid}) {
            auto z = this->numbers(static_cast<std::size_t>(2 * n), 3.0, 1);
            const auto bias = this->numbers(static_cast<std::size_t>(n), 1.0, 2);
            auto d = this->numbers(static_cast<std::size_t>(2 * n), 1.0, 3);
            const auto z0 = z;
            const auto d0 = d;
            bias_activation<R>({z.data(), 2, n}, bias, f);
            activation_gradient<R>({z.data(), 2, n}, f, {d.data(), 2, n});
            for (std::size_t i = 0; i < z.size(); ++i) {
                const double sum = static_cast<double>(z0[i]) +
                                   static_cast<double>(bias[i % static_cast<std::size_t>(n)]);
                EXPECT_NEAR(static_cast<double>(z[i]), naive_activation(f, sum),
                            20 * this->eps * 8);
                EXPECT_NEAR(static_cast<double>(d[i]),
                            static_cast<double>(d0[i]) * naive_derivative(f, sum), 100 * this->eps);
            }
        }
    }
}

TYPED_TEST(NnKernels, ANumberThatIsNotFiniteStaysVisible) {
    using R = TypeParam;
    for (const auto f :
         {Activation::identity, Activation::relu, Activation::tanh, Activation::sigmoid}) {
        for (const Index where : {Index{2}, Index{16}}) {
            AlignedVector<R> z(19, R{1});
            const AlignedVector<R> bias(19, R{0});
            z[static_cast<std::size_t>(where)] = std::numeric_limits<R>::quiet_NaN();
            bias_activation<R>({z.data(), 1, 19}, bias, f);
            EXPECT_FALSE(std::isfinite(z[static_cast<std::size_t>(where)]));
            EXPECT_FALSE(std::isfinite(shifted_exp<R>(z).sum));
        }
    }
}

TYPED_TEST(NnKernels, ShiftedExponentialsMatchAtAnyLengthAndForLargeNumbers) {
    using R = TypeParam;
    for (const std::size_t n : {1U, 5U, 16U, 100U}) {
        auto z = this->numbers(n, 40.0, 4);
        const auto z0 = z;
        const ExpSum<R> found = shifted_exp<R>(z);
        const double largest = static_cast<double>(*std::ranges::max_element(z0));
        double sum = 0.0;
        for (std::size_t i = 0; i < n; ++i) {
            const double expected = std::exp(static_cast<double>(z0[i]) - largest);
            EXPECT_NEAR(static_cast<double>(z[i]), expected, 10 * this->eps);
            sum += expected;
        }
        EXPECT_EQ(static_cast<double>(found.largest), largest);
        EXPECT_NEAR(static_cast<double>(found.sum), sum, 20 * this->eps * sum);
    }
}

TYPED_TEST(NnKernels, UpdatesReportAGradientThatIsNotFinite) {
    using R = TypeParam;
    auto g = this->numbers(32, 1.0, 5);
    AlignedVector<R> w(32, R{0});
    AlignedVector<R> m(32, R{0});
    AlignedVector<R> v(32, R{0});
    const UpdateStep step{.rate = 0.1, .beta1 = 0.9};
    EXPECT_TRUE((adam_update<R>(step, g, w, m, v, w)));
    EXPECT_TRUE((momentum_update<R>(step, g, w, m, w)));
    g[21] = std::numeric_limits<R>::infinity();
    EXPECT_FALSE((adam_update<R>(step, g, w, m, v, w)));
    EXPECT_FALSE((momentum_update<R>(step, g, w, m, w)));
}

}  // namespace rankfold::test
