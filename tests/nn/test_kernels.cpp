#include <cmath>
#include <limits>

#include <rankfold/core/random.hpp>
#include <rankfold/linalg/dense.hpp>
#include <rankfold/nn/products.hpp>

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
        for (const auto f : {Activation::identity, Activation::relu, Activation::tanh,
                             Activation::sigmoid, Activation::gelu}) {
            auto z = this->numbers(static_cast<std::size_t>(2 * n), 3.0, 1);
            const auto bias = this->numbers(static_cast<std::size_t>(n), 1.0, 2);
            auto d = this->numbers(static_cast<std::size_t>(2 * n), 1.0, 3);
            const auto z0 = z;
            const auto d0 = d;
            bias_activation<R>({z.data(), 2, n}, bias, f);
            auto from = z;  // gelu's derivative is computed from its linear part
            for (std::size_t i = 0; f == Activation::gelu && i < z.size(); ++i) {
                from[i] = z0[i] + bias[i % static_cast<std::size_t>(n)];
            }
            activation_gradient<R>({from.data(), 2, n}, f, {d.data(), 2, n});
            for (std::size_t i = 0; i < z.size(); ++i) {
                const double sum = static_cast<double>(z0[i]) +
                                   static_cast<double>(bias[i % static_cast<std::size_t>(n)]);
                EXPECT_NEAR(static_cast<double>(z[i]), naive_activation(f, sum),
                            20 * this->eps * 8);
                EXPECT_NEAR(static_cast<double>(d[i]),
                            static_cast<double>(d0[i]) * naive_derivative(f, sum),
                            100 * this->eps + 1e-9);
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

TYPED_TEST(NnKernels, RowProductsMatchTheirDefinitionAndARowsBitsDependOnThatRowAlone) {
    using R = TypeParam;
    for (const auto& [m, k, n] : {std::array<Index, 3>{1, 3, 2},
                                  {7, 5, 13},
                                  {5, 1, 9},
                                  {70, 2100, 101},
                                  {50, 1024, 70},  // rows of weights are pages apart
                                  {1030, 60, 98}}) {
        for (const auto side : {WeightSide::row_an_output, WeightSide::column_an_output}) {
            SCOPED_TRACE(concat(m, " ", k, " ", n));
            const auto x = this->numbers(static_cast<std::size_t>(m * k), 1.0, 1);
            const auto w = this->numbers(static_cast<std::size_t>(k * n), 1.0, 2);
            const auto bias = this->numbers(static_cast<std::size_t>(n), 1.0, 3);
            const bool by_row = side == WeightSide::row_an_output;
            const MatrixView<const R> weight(w.data(), by_row ? n : k, by_row ? k : n);
            DenseMatrix<R> z(m, n);
            ProductSpace<R> space;
            const Epilogue<R> epilogue{.bias = bias, .f = Activation::relu};
            row_products<R>(side, {x.data(), m, k}, weight, epilogue, z.view(), space);
            for (Index i = 0; i < m; ++i) {
                for (Index j = 0; j < n; ++j) {
                    double sum = static_cast<double>(bias[static_cast<std::size_t>(j)]);
                    for (Index l = 0; l < k; ++l) {
                        sum += static_cast<double>(x[static_cast<std::size_t>(i * k + l)]) *
                               static_cast<double>(by_row ? weight(j, l) : weight(l, j));
                    }
                    EXPECT_NEAR(static_cast<double>(z(i, j)), std::max(sum, 0.0),
                                20.0 * this->eps * static_cast<double>(k));
                }
            }
            DenseMatrix<R> twice = z.clone();  // once more on top, by two threads, behind z's relu
            space.threads = 2;
            row_products<R>(side, {x.data(), m, k}, weight,
                            {.add = true, .outputs = z.view(), .g = Activation::relu}, twice.view(),
                            space);
            for (Index i = 0; i < m; ++i) {
                for (Index j = 0; j < n; ++j) {
                    const R b = bias[static_cast<std::size_t>(j)];
                    const double expected = 2.0 * static_cast<double>(z(i, j)) - double(b);
                    EXPECT_NEAR(static_cast<double>(twice(i, j)), z(i, j) > R{0} ? expected : 0.0,
                                40.0 * this->eps * static_cast<double>(k));
                }
            }
            DenseMatrix<R> last(1, n);
            row_products<R>(side, {x.data() + (m - 1) * k, 1, k}, weight, epilogue, last.view(),
                            space);
            EXPECT_TRUE(
                std::ranges::equal(std::as_const(last).row(0), std::as_const(z).row(m - 1)));
        }
    }
}

TYPED_TEST(NnKernels, BlockProductsAddTheBlocksOfANodeInTheOrderOfTheTree) {
    using R = TypeParam;
    constexpr Index m = 37;
    const std::vector<Index> ends{9, 9, 20, 30, m};  // one of the blocks is empty
    // the last is larger than 1 MiB, and streamed past the caches
    for (const auto& [n, k] : {std::pair<Index, Index>{5, 3}, {101, 66}, {544, 496}}) {
        const auto d = this->numbers(static_cast<std::size_t>(m * n), 1.0, 4);
        const auto x = this->numbers(static_cast<std::size_t>(m * k), 1.0, 5);
        const auto product = [&](std::vector<Range> nodes, bool add, AlignedVector<R>& to) {
            ProductSpace<R> space;
            space.threads = static_cast<Index>(nodes.size());
            std::vector<R*> out(nodes.size());
            to.resize(nodes.size() * static_cast<std::size_t>(n * k), R{1});
            for (std::size_t i = 0; i < out.size(); ++i) {
                out[i] = to.data() + static_cast<Index>(i) * n * k;
            }
            block_products<R>({d.data(), m, n}, {x.data(), m, k}, ends, nodes, out, add, space);
        };
        AlignedVector<R> whole;
        AlignedVector<R> halves;
        AlignedVector<R> quarters;
        AlignedVector<R> blocks;
        product({{0, 5}}, false, whole);
        product({{0, 4}, {4, 5}}, false, halves);    // tree_halves({0, 5})
        product({{0, 2}, {2, 4}}, false, quarters);  // tree_halves({0, 4})
        product({{0, 1}, {1, 2}}, true, blocks);
        const auto size = static_cast<std::size_t>(n * k);
        for (std::size_t e = 0; e < size; ++e) {
            EXPECT_EQ(whole[e], halves[e] + halves[size + e]);
            EXPECT_EQ(halves[e], quarters[e] + quarters[size + e]);
            EXPECT_EQ(blocks[size + e], R{1});
            double sum = 1.0;
            for (Index i = 0; i < 9; ++i) {
                sum += static_cast<double>(
                           d[static_cast<std::size_t>(i * n) + e / static_cast<std::size_t>(k)]) *
                       static_cast<double>(
                           x[static_cast<std::size_t>(i * k) + e % static_cast<std::size_t>(k)]);
            }
            EXPECT_NEAR(static_cast<double>(blocks[e]), sum, 100 * this->eps);
        }
    }
}

}  // namespace rankfold::test
