#include <rankfold/linalg/cholesky_batch.hpp>

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include <rankfold/core/random.hpp>
#include <rankfold/linalg/blas.hpp>
#include <rankfold/linalg/dense.hpp>
#include <rankfold/linalg/lapack.hpp>
#include <rankfold/linalg/row_kernels.hpp>

namespace rankfold::test {

template <class T>
class RowKernels : public ::testing::Test {
protected:
    static constexpr double eps = std::numeric_limits<T>::epsilon();

    DenseMatrix<T> random_matrix(Index rows, Index cols, Index ld, std::uint64_t seed) {
        const Philox random(seed, Stream::weights);
        DenseMatrix<T> a(rows, ld);
        for (Index i = 0; i < rows; ++i) {
            for (Index j = 0; j < cols; ++j) a(i, j) = static_cast<T>(random.normal(i, j));
        }
        return a;
    }
};
using Scalars = ::testing::Types<float, double>;
TYPED_TEST_SUITE(RowKernels, Scalars);

TYPED_TEST(RowKernels, RankUpdateMatchesTheTripleLoopForAllSizes) {
    using T = TypeParam;
    for (const Index k : {1, 2, 5, 7, 16, 17, 33, 64, 100}) {
        for (const auto& [n, update] : {std::pair{Index{1}, Update::assign},
                                        {Index{3}, Update::add},
                                        {Index{37}, Update::assign},
                                        {Index{64}, Update::add}}) {
            const auto p = this->random_matrix(n, k, padded(k), 1);
            auto q = p.clone();
            for (Index e = 0; e < n; ++e) {
                for (Index f = 0; f < k; ++f) q(e, f) *= static_cast<T>(0.5 + double(e));
            }
            DenseMatrix<T> g(k, padded(k));
            const std::vector<ColIndex> ahead(static_cast<std::size_t>(n + 5), 0);
            g.fill(T{1});
            const MatrixView<const T> pv{p.view().data, n, k, padded(k)};
            const MatrixView<const T> qv{q.view().data, n, k, padded(k)};
            rank_update_upper<T>(pv, qv, {g.view().data, k, k, padded(k)}, update, {pv, ahead});
            for (Index i = 0; i < k; ++i) {
                for (Index j = i; j < k; ++j) {
                    double expected = update == Update::add ? 1.0 : 0.0;
                    double size = 1.0;
                    for (Index e = 0; e < n; ++e) {
                        expected += double(p(e, i)) * double(q(e, j));
                        size += std::abs(double(p(e, i)) * double(q(e, j)));
                    }
                    EXPECT_NEAR(g(i, j), expected, 10.0 * this->eps * size) << k << " " << n;
                }
            }
        }
    }
}

TYPED_TEST(RowKernels, GatherCopiesScalesAndAddsTheRightHandSide) {
    using T = TypeParam;
    for (const Index k : {1, 15, 16, 50}) {
        const auto y = this->random_matrix(20, k, k, 2);
        const std::vector<ColIndex> idx{3, 19, 3, 0, 7, 7, 1, 2, 3, 4, 5};
        std::vector<T> w(idx.size());
        std::vector<T> b(idx.size());
        std::iota(w.begin(), w.end(), T{1});
        std::iota(b.begin(), b.end(), T{-4});
        DenseMatrix<T> p(11, padded(k));
        DenseMatrix<T> q(11, padded(k));
        std::vector<T> rhs(static_cast<std::size_t>(padded(k)), T{2});
        gather_weighed<T>(y.view(), idx, w, b, p.view(), q.view(), rhs);
        std::vector<T> residual(static_cast<std::size_t>(k), T{2});
        const std::vector<T> x(y.row(6).begin(), y.row(6).end());
        add_residuals<T>(y.view(), idx, w, b, x, residual, {y.view(), idx});
        for (Index f = 0; f < k; ++f) {
            double sum = 2.0;
            for (std::size_t e = 0; e < idx.size(); ++e) {
                const auto row = static_cast<Index>(e);
                EXPECT_EQ(p(row, f), y(idx[e], f));
                EXPECT_EQ(q(row, f), w[e] * y(idx[e], f));
                sum += double(b[e]) * double(y(idx[e], f));
            }
            EXPECT_NEAR(rhs[static_cast<std::size_t>(f)], sum, 200.0 * this->eps);
            for (std::size_t e = 0; e < idx.size(); ++e) {
                sum -= double(w[e]) * double(dot<T>(y.row(idx[e]), x)) * double(y(idx[e], f));
            }
            EXPECT_NEAR(residual[static_cast<std::size_t>(f)], sum, 20000.0 * this->eps);
        }
        std::vector<T> dots(idx.size());
        gather_dots<T>(y.view(), idx, y.row(5), dots);
        for (std::size_t e = 0; e < idx.size(); ++e) {
            EXPECT_NEAR(dots[e], dot<T>(y.row(idx[e]), y.row(5)), 100.0 * this->eps * double(k));
        }
    }
}

TYPED_TEST(RowKernels, CholeskyBatchSolvesEverySystemWhateverItsNeighbours) {
    using T = TypeParam;
    for (const Index k : {1, 2, 4, 15, 16, 17, 33, 64, 130}) {
        CholeskyBatch<T> batch(k);
        const auto fill = [&](Index system, Index slot) {
            const auto p =
                this->random_matrix(k + 3, k, padded(k), static_cast<std::uint64_t>(4 + system));
            const MatrixView<T> a = batch.matrix(slot);
            for (Index i = 0; i < k; ++i) {
                std::fill_n(a.data + i * a.ld, padded(k), T{0});
                a(i, i) = static_cast<T>(k);
                batch.vector(slot)[static_cast<std::size_t>(i)] = T(i % 5) - T(system);
            }
            const MatrixView<const T> pv{p.view().data, p.rows(), k, padded(k)};
            rank_update_upper<T>(pv, pv, a, Update::add, {});
        };
        for (Index s = 0; s < batch.capacity(); ++s) fill(s, s);
        std::vector<DenseMatrix<double>> full;
        for (Index s = 0; s < batch.capacity(); ++s) {
            full.emplace_back(k, k);
            const MatrixView<T> a = batch.matrix(s);
            for (Index i = 0; i < k; ++i) {
                for (Index j = 0; j < k; ++j) {
                    full.back()(i, j) = double(a(std::min(i, j), std::max(i, j)));
                }
            }
        }
        EXPECT_EQ(batch.solve(batch.capacity(), T{0}), 0U);
        for (Index s = 0; s < batch.capacity(); ++s) {
            const auto x = batch.vector(s);
            for (Index i = 0; i < k; ++i) {
                double residual = double(s) - double(i % 5);
                for (Index j = 0; j < k; ++j) {
                    residual += full[static_cast<std::size_t>(s)](i, j) *
                                double(x[static_cast<std::size_t>(j)]);
                }
                EXPECT_NEAR(residual, 0.0, 200.0 * this->eps * double(k)) << k;
            }
        }
        const Index last = batch.capacity() - 1;
        const std::vector<T> beside(batch.vector(last).begin(), batch.vector(last).end());
        fill(last, 0);
        EXPECT_EQ(batch.solve(1, T{0}), 0U);
        EXPECT_TRUE(std::ranges::equal(beside, batch.vector(0))) << k;
    }
}

TYPED_TEST(RowKernels, CholeskyBatchNamesTheSystemsThatAreNotPositiveDefinite) {
    using T = TypeParam;
    CholeskyBatch<T> batch(5);
    for (Index s = 0; s < 4; ++s) {
        const MatrixView<T> a = batch.matrix(s);
        for (Index i = 0; i < 5; ++i) {
            std::fill_n(a.data + i * a.ld, padded(5), T{0});
            a(i, i) = s == 1 && i == 3 ? T{-1} : T{3};
        }
        if (s == 3) a(0, 1) = T{3};  // two equal columns: singular, found by the threshold
        std::ranges::fill(batch.vector(s), T{1});
    }
    EXPECT_EQ(batch.solve(4, std::numeric_limits<T>::epsilon()), 0b1010U);
    EXPECT_NEAR(batch.vector(2)[4], T{1} / T{3}, 10.0 * this->eps);
}

TYPED_TEST(RowKernels, SymmetricProductIsSubtracted) {
    using T = TypeParam;
    for (const Index k : {1, 9, 40}) {
        auto a = this->random_matrix(k, k, k, 9);
        for (Index i = 0; i < k; ++i) {
            for (Index j = 0; j < i; ++j) a(i, j) = a(j, i);
        }
        const std::vector<T> x(a.row(k / 2).begin(), a.row(k / 2).end());
        std::vector<T> out(static_cast<std::size_t>(k), T{1});
        subtract_symmetric_product<T>(std::as_const(a).view(), x, out);
        for (Index i = 0; i < k; ++i) {
            EXPECT_NEAR(out[static_cast<std::size_t>(i)], T{1} - dot<T>(a.row(i), x),
                        100.0 * this->eps * double(k));
        }
    }
}

TYPED_TEST(RowKernels, CholeskyOfManyRightHandSidesAgreesWithTheBatch) {
    using T = TypeParam;
    constexpr Index k = 20;
    const auto p = this->random_matrix(50, k, k, 6);
    DenseMatrix<T> a(k, k);
    gram_upper<T>(T{1}, p.view(), T{0}, a.view());
    DenseMatrix<T> rows = this->random_matrix(3, k, k, 8);
    CholeskyBatch<T> batch(k);
    for (Index r = 0; r < 3; ++r) {
        const MatrixView<T> copy = batch.matrix(r);
        for (Index i = 0; i < k; ++i) {
            std::fill_n(copy.data + i * copy.ld, padded(k), T{0});
            for (Index j = i; j < k; ++j) copy(i, j) = a(i, j);
        }
        std::ranges::copy(rows.row(r), batch.vector(r).begin());
    }
    EXPECT_EQ(batch.solve(3, T{0}), 0U);
    EXPECT_EQ(cholesky_upper<T>(a.view(), T{0}), -1);
    cholesky_solve_rows<T>(std::as_const(a).view(), rows.view());
    for (Index r = 0; r < 3; ++r) {
        for (Index f = 0; f < k; ++f) {
            EXPECT_NEAR(rows(r, f), batch.vector(r)[static_cast<std::size_t>(f)],
                        1000.0 * this->eps);
        }
    }
}

TYPED_TEST(RowKernels, GemmHandlesTransposesAndStrides) {
    using T = TypeParam;
    const auto a = this->random_matrix(4, 3, 5, 1);
    const auto b = this->random_matrix(3, 6, 7, 2);
    DenseMatrix<T> c(4, 6);
    gemm<T>(Transpose::no, Transpose::no, T{2}, {a.view().data, 4, 3, 5}, {b.view().data, 3, 6, 7},
            T{0}, c.view());
    DenseMatrix<T> ct(6, 4);
    gemm<T>(Transpose::yes, Transpose::yes, T{2}, {b.view().data, 3, 6, 7},
            {a.view().data, 4, 3, 5}, T{0}, ct.view());
    for (Index i = 0; i < 4; ++i) {
        for (Index j = 0; j < 6; ++j) {
            double expected = 0.0;
            for (Index e = 0; e < 3; ++e) expected += 2.0 * double(a(i, e)) * double(b(e, j));
            EXPECT_NEAR(c(i, j), expected, 50.0 * this->eps);
            EXPECT_NEAR(ct(j, i), expected, 50.0 * this->eps);
        }
    }
}

}  // namespace rankfold::test
