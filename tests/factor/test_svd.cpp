#include <rankfold/factor/svd.hpp>

#include <limits>
#include <numeric>

#include <rankfold/dist/inner.hpp>
#include <rankfold/dist/synthetic.hpp>
#include <rankfold/linalg/lapack.hpp>

#include "support/mpi_test.hpp"

#include "support/dense_and_sparse.hpp"

namespace rankfold::test {

namespace {

template <class R>
class Svd : public MpiTest {
protected:
    double eps = std::numeric_limits<R>::epsilon();
    double tolerance = std::same_as<R, float> ? 1e-5 : 1e-10;
    Ledger alone_ledger;
    Communicator alone{MPI_COMM_SELF, alone_ledger};

    /// Checks a result against LAPACK's of the whole matrix.
    void expect_good(const SvdResult<R>& result, const DenseMatrix<double>& a, Index k) {
        const Certificate& c = result.certificate;
        EXPECT_TRUE(result.converged);
        EXPECT_LE(c.residual(), tolerance);
        EXPECT_LT(c.u_orthogonality, 30 * eps * std::sqrt(double(k)));
        EXPECT_LT(c.v_orthogonality, 30 * eps * std::sqrt(double(k)));
        const auto s = small_svd(a.view()).s;
        const double unit = std::max(s[0], 1e-30);
        for (Index i = 0; i < k; ++i) {
            EXPECT_NEAR(result.factors.singular_values[static_cast<std::size_t>(i)] / unit,
                        s[static_cast<std::size_t>(i)] / unit, 2 * tolerance);
        }
        double rest = 0.0;
        for (std::size_t i = static_cast<std::size_t>(k); i < s.size(); ++i) rest += s[i] * s[i];
        EXPECT_NEAR(c.error / unit, std::sqrt(rest) / unit, (std::same_as<R, float> ? 1e-3 : 1e-7));
        const double two_norm = static_cast<std::size_t>(k) < s.size() ? s[std::size_t(k)] : 0.0;
        EXPECT_GE(c.spectral_bound, two_norm * (1 - 1e-3) - 10 * eps * unit);
    }
};

using Precisions = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Svd, Precisions);

/// U diag(s) Vᵀ of random orthonormal U and V.
DenseMatrix<double> with_spectrum(Index m, Index n, const std::vector<double>& s) {
    const auto u = small_svd(random_matrix(m, Index(s.size()), 1.0, 5).view()).u;
    auto v = small_svd(random_matrix(n, Index(s.size()), 1.0, 6).view()).u;
    DenseMatrix<double> a(m, n);
    for (Index i = 0; i < m; ++i) {
        for (Index j = 0; j < n; ++j) {
            for (Index f = 0; f < Index(s.size()); ++f) {
                a(i, j) += u(i, f) * s[static_cast<std::size_t>(f)] * v(j, f);
            }
        }
    }
    return a;
}

}  // namespace

TYPED_TEST(Svd, EqualsLapackOnSparseAndDenseMatricesOfEveryShape) {
    using R = TypeParam;
    for (const auto& [m, n, k] : {std::tuple<Index, Index, Index>{120, 80, 5},
                                  {60, 150, 7},
                                  {40, 40, 40},
                                  {1, 30, 1},
                                  {30, 1, 1},
                                  {5, 3, 2}}) {
        SCOPED_TRACE(concat(m, " x ", n, ", k = ", k));
        SvdOptions options{.k = k, .tolerance = this->tolerance, .threads = 2};
        const auto full = random_matrix(m, n);
        this->expect_good(truncated_svd(dense_rows<R>(this->comm, full), options), full, k);
        if (m < 5 || n < 5) continue;
        const auto thin = random_matrix(m, n, 0.2);
        options.block = 8;  // so that the basis grows in several steps
        this->expect_good(truncated_svd(sparse_rows<R>(this->comm, thin), options), thin, k);
    }
}

TYPED_TEST(Svd, StandsRepeatedClusteredLowRankGradedAndZeroSpectra) {
    using R = TypeParam;
    std::vector<double> graded;
    for (int i = 0; i < 30; ++i) graded.push_back(std::pow(10.0, -12.0 * i / 29.0));
    std::vector<double> clustered(40, 1.0);
    for (std::size_t i = 0; i < clustered.size(); ++i) clustered[i] -= 1e-4 * double(i);
    const std::vector<std::vector<double>> spectra{
        {3, 3, 3, 3, 3, 2, 2, 2, 1, 1, 1, 1, 0.5}, clustered, {5, 2, 1}, graded, {0, 0}};
    for (const auto& s : spectra) {
        SCOPED_TRACE(concat("spectrum of ", s.size(), " from ", s.front()));
        const auto a = with_spectrum(90, 70, s);
        const auto result = truncated_svd(dense_rows<R>(this->comm, a),
                                          SvdOptions{.k = 6, .tolerance = this->tolerance});
        this->expect_good(result, a, 6);
    }
}

TYPED_TEST(Svd, RestartsWhenTheBasisIsFull) {
    using R = TypeParam;
    std::vector<double> s;  // falls slowly, so that a small basis must be used again and again
    for (int i = 0; i < 400; ++i) s.push_back(1.0 / (1.0 + 0.02 * i));
    const auto a = with_spectrum(420, 400, s);
    const SvdOptions options{.k = 3, .tolerance = this->tolerance, .block = 2};
    const auto result = truncated_svd(dense_rows<R>(this->comm, a), options);
    EXPECT_TRUE(result.converged);
    EXPECT_NEAR(result.factors.singular_values[2], s[2], this->tolerance * 2);
}

TYPED_TEST(Svd, HasTheSameDigestOnAnyRankAndThreadCountAlsoAfterAStop) {
    using R = TypeParam;
    const auto thin = random_matrix(300, 200, 0.1);
    const auto full = random_matrix(200, 60);
    SvdOptions options{.k = 6, .tolerance = this->tolerance, .block = 8};
    auto one = truncated_svd(sparse_rows<R>(this->alone, thin), options).factors;
    auto one_full = truncated_svd(dense_rows<R>(this->alone, full), options).factors;
    options.threads = 2;
    auto many = truncated_svd(sparse_rows<R>(this->comm, thin), options).factors;
    auto many_full = truncated_svd(dense_rows<R>(this->comm, full), options).factors;
    EXPECT_EQ(digest(this->alone, one.tensors()), digest(this->comm, many.tensors()));
    EXPECT_EQ(digest(this->alone, one_full.tensors()), digest(this->comm, many_full.tensors()));
    EXPECT_EQ(one.cols.layout(), transpose(sparse_rows<R>(this->alone, thin)).layout());

    // a run that stops after two steps, and one that goes on from its state
    std::vector<std::vector<char>> saved;
    const auto bytes = [](const Tensor& tensor) {
        return std::visit([](auto span) { return std::as_writable_bytes(span); }, tensor.data);
    };
    Steering steering;
    steering.after = [&](const Progress& progress, const TensorList& state) {
        if (progress.step < 2) return Verdict::go_on;
        for (const auto& tensor : state.tensors) {
            const auto data = bytes(tensor);
            const auto* first = reinterpret_cast<const char*>(data.data());
            saved.emplace_back(first, first + data.size());
        }
        return Verdict::stop;
    };
    static_cast<void>(truncated_svd(sparse_rows<R>(this->comm, thin), options, steering));
    steering = {};
    steering.restore = [&](TensorList& state) {
        for (std::size_t t = 0; t < state.tensors.size(); ++t) {
            std::ranges::copy(std::as_bytes(std::span(saved[t])), bytes(state.tensors[t]).begin());
        }
        return Index{2};
    };
    auto resumed = truncated_svd(sparse_rows<R>(this->comm, thin), options, steering).factors;
    EXPECT_EQ(digest(this->comm, resumed.tensors()), digest(this->comm, many.tensors()));
}

TYPED_TEST(Svd, PcaEqualsTheSvdOfTheCenteredMatrix) {
    using R = TypeParam;
    for (const bool sparse : {false, true}) {
        auto a = random_matrix(110, 50, sparse ? 0.3 : 1.0);
        for (Index i = 0; i < a.rows(); ++i) {
            for (Index j = 0; j < a.cols(); ++j) a(i, j) += sparse || a(i, j) == 0.0 ? 0.0 : 4.0;
        }
        auto centered = a.clone();
        for (Index j = 0; j < a.cols(); ++j) {
            double mean = 0.0;
            for (Index i = 0; i < a.rows(); ++i) mean += a(i, j) / double(a.rows());
            for (Index i = 0; i < a.rows(); ++i) centered(i, j) -= mean;
        }
        const SvdOptions options{.k = 4, .tolerance = this->tolerance, .center = true};
        const auto result = sparse ? truncated_svd(sparse_rows<R>(this->comm, a), options)
                                   : truncated_svd(dense_rows<R>(this->comm, a), options);
        this->expect_good(result, centered, 4);
        EXPECT_EQ(result.factors.method, "pca");

        // the projection of the very rows gives their factors back
        const auto u = sparse ? project_rows(sparse_rows<R>(this->comm, a), result.factors, 2)
                              : project_rows(dense_rows<R>(this->comm, a), result.factors, 2);
        EXPECT_LT(difference(gather_all(u), gather_all(result.factors.rows)),
                  (std::same_as<R, float> ? 2e-4 : 1e-8));
    }
}

TYPED_TEST(Svd, SignsMakeTheGreatestElementOfEveryLeftVectorPositive) {
    using R = TypeParam;
    const auto result = truncated_svd(dense_rows<R>(this->comm, random_matrix(70, 30)),
                                      SvdOptions{.k = 5, .tolerance = this->tolerance});
    const auto u = gather_all(result.factors.rows);
    for (Index f = 0; f < 5; ++f) {
        Index at = 0;
        for (Index i = 0; i < u.rows(); ++i) {
            if (std::abs(u(i, f)) > std::abs(u(at, f))) at = i;
        }
        EXPECT_GT(u(at, f), R{0});
    }
}

TYPED_TEST(Svd, RefusesNumbersThatAreNotFinite) {
    using R = TypeParam;
    auto a = random_matrix(20, 10);
    a(13, 4) = std::numeric_limits<double>::quiet_NaN();
    static_cast<void>(expect_error(Fault::check, [&] {
        static_cast<void>(truncated_svd(dense_rows<R>(this->comm, a), SvdOptions{.k = 2}));
    }));
}

}  // namespace rankfold::test
