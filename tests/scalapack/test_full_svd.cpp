#include <rankfold/scalapack/full_svd.hpp>

#include <limits>

#include <rankfold/linalg/lapack.hpp>

#include "support/mpi_test.hpp"

#include "support/dense_and_sparse.hpp"

namespace rankfold::test {

namespace {

template <class R>
class FullSvdTest : public MpiTest {
protected:
    double eps = std::numeric_limits<R>::epsilon();

    /// Checks values, orthogonality and A = U diag(s) Vᵀ against LAPACK's.
    void expect_full(const DenseMatrix<double>& a, const FullSvdOptions& options) {
        const auto rows = dense_rows<R>(comm, a);
        const auto result = full_svd(rows, options);
        const auto expected = small_svd(a.view()).s;
        const double unit = std::max(expected[0], 1e-30);
        const double tolerance = 30 * eps * std::sqrt(double(a.rows() + a.cols()));
        EXPECT_EQ(result.s.size(), expected.size());
        for (std::size_t i = 0; i < std::min(expected.size(), result.s.size()); ++i) {
            EXPECT_NEAR(double(result.s[i]) / unit, expected[i] / unit, tolerance);
        }
        if (!options.vectors) {
            EXPECT_EQ(result.u.cols(), 0);
            return;
        }
        const auto u = exact(gather_all(result.u));
        auto v = exact(gather_all(result.v));
        EXPECT_LT(from_identity(u), tolerance);
        EXPECT_LT(from_identity(v), tolerance);
        for (Index j = 0; j < v.rows(); ++j) {
            for (Index f = 0; f < v.cols(); ++f) {
                v(j, f) *= double(result.s[static_cast<std::size_t>(f)]);
            }
        }
        DenseMatrix<double> rebuilt(a.rows(), a.cols());
        gemm<double>(Transpose::no, Transpose::yes, 1.0, u.view(), std::as_const(v).view(), 0.0,
                     rebuilt.view());
        EXPECT_LT(difference(rebuilt, a) / unit, tolerance);
        EXPECT_TRUE(result.u.layout() == rows.layout());
    }

private:
    static DenseMatrix<double> exact(const DenseMatrix<R>& x) {
        DenseMatrix<double> copy(x.rows(), x.cols());
        std::ranges::copy(x.data(), copy.data().begin());
        return copy;
    }
    static double from_identity(const DenseMatrix<double>& x) {
        auto gram = naive_product(x, x, Transpose::yes);
        for (Index i = 0; i < gram.rows(); ++i) gram(i, i) -= 1.0;
        return difference(gram, DenseMatrix<double>(gram.rows(), gram.cols()));
    }
};

using Precisions = ::testing::Types<float, double>;
TYPED_TEST_SUITE(FullSvdTest, Precisions);

}  // namespace

TYPED_TEST(FullSvdTest, EqualsLapackForEveryShapeAndDriver) {
    for (const auto& [m, n] : {std::pair<Index, Index>{40, 40},
                               {47, 38},
                               {38, 47},
                               {90, 20},
                               {20, 90},
                               {130, 3},
                               {1, 17},
                               {17, 1},
                               {1, 1},
                               {2, 3}}) {
        for (const auto driver : {FullSvdDriver::divide, FullSvdDriver::pdgesvd}) {
            SCOPED_TRACE(concat(m, " x ", n, driver == FullSvdDriver::divide ? " divide" : ""));
            this->expect_full(random_matrix(m, n), {.driver = driver});
        }
    }
}

TYPED_TEST(FullSvdTest, WorksOnEveryGrid) {
    const int p = this->comm.size();
    for (int rows = 1; rows <= p; ++rows) {
        if (p % rows != 0) continue;
        for (const auto driver : {FullSvdDriver::divide, FullSvdDriver::pdgesvd}) {
            this->expect_full(random_matrix(70, 50),
                              {.driver = driver, .grid_rows = rows, .grid_cols = p / rows});
        }
    }
    static_cast<void>(expect_error(Fault::input, [&] {
        static_cast<void>(full_svd(dense_rows<TypeParam>(this->comm, random_matrix(9, 9)),
                                   {.grid_rows = p + 1, .grid_cols = 1}));
    }));
}

TYPED_TEST(FullSvdTest, StandsRankDeficientAndZeroMatricesAndGivesValuesAlone) {
    auto low = naive_product(random_matrix(45, 3), random_matrix(3, 30, 1.0, 1));
    for (const auto driver : {FullSvdDriver::divide, FullSvdDriver::pdgesvd}) {
        this->expect_full(low, {.driver = driver});
        this->expect_full(DenseMatrix<double>(25, 20), {.driver = driver});
        this->expect_full(random_matrix(33, 21), {.driver = driver, .vectors = false});
        this->expect_full(random_matrix(80, 21), {.driver = driver, .vectors = false});
    }
    low(40, 7) = std::numeric_limits<double>::infinity();
    static_cast<void>(expect_error(Fault::check, [&] {
        static_cast<void>(full_svd(dense_rows<TypeParam>(this->comm, low), {}));
    }));
}

}  // namespace rankfold::test
