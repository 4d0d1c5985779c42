#include <rankfold/linalg/row_kernels.hpp>

#include <limits>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include <rankfold/core/random.hpp>
#include <rankfold/linalg/blas.hpp>
#include <rankfold/linalg/dense.hpp>
#include <rankfold/linalg/lapack.hpp>

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
        for (const Index n : {1, 3, 64}) {
            const auto p = this->random_matrix(n, k, padded(k), 1);
            auto q = p.clone();
            for (Index e = 0; e < n; ++e) {
                for (Index f = 0; f < k; ++f) q(e, f) *= static_cast<T>(0.5 + double(e));
            }
            DenseMatrix<T> g(k, padded(k));
            g.fill(T{1});
            const MatrixView<const T> pv{p.view().data, n, k, padded(k)};
            const MatrixView<const T> qv{q.view().data, n, k, padded(k)};
            rank_update_upper<T>(pv, qv, {g.view().data, k, k, padded(k)});
            for (Index i = 0; i < k; ++i) {
                for (Index j = i; j < k; ++j) {
                    double expected = 1.0;
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
        std::vector<T> rhs(static_cast<std::size_t>(k), T{2});
        gather_panel<T>(y.view(), idx, idx, w, b, p.view(), q.view(), rhs);
        for (Index f = 0; f < k; ++f) {
            double sum = 2.0;
            for (std::size_t e = 0; e < idx.size(); ++e) {
                const auto row = static_cast<Index>(e);
                EXPECT_EQ(p(row, f), y(idx[e], f));
                EXPECT_EQ(q(row, f), w[e] * y(idx[e], f));
                sum += double(b[e]) * double(y(idx[e], f));
            }
            EXPECT_NEAR(rhs[static_cast<std::size_t>(f)], sum, 200.0 * this->eps);
        }
        std::vector<T> dots(idx.size());
        gather_dots<T>(y.view(), idx, y.row(5), dots);
        for (std::size_t e = 0; e < idx.size(); ++e) {
            EXPECT_NEAR(dots[e], dot<T>(y.row(idx[e]), y.row(5)), 100.0 * this->eps * double(k));
        }
    }
}

TYPED_TEST(RowKernels, SpdSolveSolves) {
    using T = TypeParam;
    for (const Index k : {1, 2, 4, 5, 15, 16, 17, 64, 130}) {
        const auto p = this->random_matrix(2 * k + 3, k, padded(k), 4);
        DenseMatrix<T> a(k, padded(k) + 16);
        const MatrixView<T> av{a.view().data, k, k, a.cols()};
        for (Index i = 0; i < k; ++i) av(i, i) = static_cast<T>(k);
        const MatrixView<const T> pv{p.view().data, p.rows(), k, padded(k)};
        rank_update_upper<T>(pv, pv, av);
        DenseMatrix<double> full(k, k);
        for (Index i = 0; i < k; ++i) {
            for (Index j = 0; j < k; ++j) full(i, j) = double(av(std::min(i, j), std::max(i, j)));
        }
        std::vector<T> x(static_cast<std::size_t>(k));
        for (Index i = 0; i < k; ++i) x[static_cast<std::size_t>(i)] = T(i % 5) - T{2};
        const std::vector<T> b = x;
        EXPECT_EQ(spd_solve<T>(av, x, T{0}), -1);
        for (Index i = 0; i < k; ++i) {
            double residual = -double(b[static_cast<std::size_t>(i)]);
            for (Index j = 0; j < k; ++j)
                residual += full(i, j) * double(x[static_cast<std::size_t>(j)]);
            EXPECT_NEAR(residual, 0.0, 100.0 * this->eps * double(k)) << k;
        }
    }
}

TYPED_TEST(RowKernels, SpdSolveNamesTheFirstBadPivot) {
    using T = TypeParam;
    DenseMatrix<T> a(5, padded(5) + 16);
    const MatrixView<T> av{a.view().data, 5, 5, a.cols()};
    for (Index i = 0; i < 5; ++i) av(i, i) = i == 3 ? T{-1} : T{1};
    std::vector<T> x(5, T{1});
    EXPECT_EQ(spd_solve<T>(av, x, T{0}), 3);
    // two equal columns: singular, found by the threshold
    DenseMatrix<T> s(2, padded(2) + 16);
    const MatrixView<T> sv{s.view().data, 2, 2, s.cols()};
    sv(0, 0) = sv(0, 1) = sv(1, 1) = T{3};
    std::vector<T> y(2, T{1});
    EXPECT_EQ(spd_solve<T>(sv, y, std::numeric_limits<T>::epsilon()), 1);
}

TYPED_TEST(RowKernels, CholeskyOfManyRightHandSidesAgreesWithTheRowSolve) {
    using T = TypeParam;
    constexpr Index k = 20;
    const auto p = this->random_matrix(50, k, k, 6);
    DenseMatrix<T> a(k, k);
    gram_upper<T>(T{1}, p.view(), T{0}, a.view());
    DenseMatrix<T> rows = this->random_matrix(3, k, k, 8);
    std::vector<DenseMatrix<T>> single;
    for (Index r = 0; r < 3; ++r) {
        DenseMatrix<T> copy(k, padded(k) + 16);
        for (Index i = 0; i < k; ++i) {
            for (Index j = i; j < k; ++j) copy(i, j) = a(i, j);
        }
        single.push_back(this->random_matrix(3, k, k, 8));
        EXPECT_EQ(spd_solve<T>({copy.view().data, k, k, copy.cols()}, single.back().row(r), T{0}),
                  -1);
    }
    EXPECT_EQ(cholesky_upper<T>(a.view(), T{0}), -1);
    cholesky_solve_rows<T>(std::as_const(a).view(), rows.view());
    for (Index r = 0; r < 3; ++r) {
        for (Index f = 0; f < k; ++f) {
            EXPECT_NEAR(rows(r, f), single[static_cast<std::size_t>(r)](r, f), 1000.0 * this->eps);
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
