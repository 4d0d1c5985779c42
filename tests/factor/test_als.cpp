#include <rankfold/factor/als.hpp>

#include <limits>

#include <rankfold/core/random.hpp>

#include "reference/naive_als.hpp"
#include "support/mpi_test.hpp"

namespace rankfold::test {

namespace {

/// The same small matrix on every rank: some rows and columns are empty.
NaiveMatrix small_matrix(Index m, Index n, double density, bool counts) {
    const Philox random(17, Stream::synthetic_entry);
    NaiveMatrix a{DenseMatrix<double>(m, n), DenseMatrix<double>(m, n)};
    for (Index i = 0; i < m; ++i) {
        for (Index j = 0; j < n; ++j) {
            const bool empty = density < 1.0 && (i % 11 == 4 || j % 13 == 6);
            if (empty || random.uniform(i, j) >= density) continue;
            a.given(i, j) = 1.0;
            a.value(i, j) = counts ? double(1 + random.below(5, i + 1000, j))
                                   : random.normal(i, j + 1000) + 3.0;
        }
    }
    return a;
}

template <Real R>
BlockRowCsr<R> distribute(const Communicator& comm, const NaiveMatrix& a) {
    std::vector<Index> counts;
    std::vector<Triplet<R>> mine;
    const Range part = even_part(a.value.rows(), comm.size(), comm.rank());
    for (Index i = part.begin; i < part.end; ++i) {
        counts.push_back(0);
        for (Index j = 0; j < a.value.cols(); ++j) {
            if (a.given(i, j) == 0.0) continue;
            mine.push_back({i, static_cast<ColIndex>(j), static_cast<R>(a.value(i, j))});
            ++counts.back();
        }
    }
    const auto layout = balanced_layout(comm, a.value.rows(), part.begin, counts);
    return assemble(comm, layout, a.value.cols(), std::move(mine));
}

template <Real R>
BlockRows<R> distribute_dense(const Communicator& comm, const NaiveMatrix& a) {
    BlockRows<R> rows(comm, ShardLayout::even(a.value.rows(), 64, comm.size()), a.value.cols());
    for (Index i = 0; i < rows.local().rows(); ++i) {
        for (Index j = 0; j < rows.cols(); ++j) {
            rows.local()(i, j) = static_cast<R>(a.value(rows.first_row() + i, j));
        }
    }
    return rows;
}

/// What als() must give after some sweeps, and its objective.
struct NaiveResult {
    DenseMatrix<double> x, y;
    double objective;
};

template <Real R>
NaiveResult naive_als(const NaiveMatrix& a, const AlsOptions& options, double mean) {
    const NaiveObjective objective{options, mean};
    NaiveResult r{DenseMatrix<double>(a.value.rows(), options.k),
                  DenseMatrix<double>(a.value.cols(), options.k), 0.0};
    const Philox random(options.seed, Stream::col_factors);
    for (Index j = 0; j < r.y.rows(); ++j) {
        for (Index f = 0; f < options.k; ++f) {
            r.y(j, f) =
                static_cast<double>(static_cast<R>(options.start_deviation * random.normal(j, f)));
        }
    }
    for (Index s = 0; s < options.sweeps; ++s) {
        naive_half_sweep(a, false, objective, r.y, r.x);
        naive_half_sweep(a, true, objective, r.x, r.y);
    }
    r.objective = naive_objective(a, objective, r.x, r.y);
    return r;
}

double mean_of(const NaiveMatrix& a) {
    double sum = 0.0;
    double count = 0.0;
    for (std::size_t e = 0; e < a.value.data().size(); ++e) {
        sum += a.value.data()[e] * a.given.data()[e];
        count += a.given.data()[e];
    }
    return sum / count;
}

/// The largest |score difference| over all pairs, relative to the largest score.
template <Real R>
double score_difference(const Factors<R>& factors, const NaiveResult& expected) {
    const auto x = gather_all(factors.rows);
    const auto y = gather_all(factors.cols);
    double difference = 0.0;
    double largest = 1e-30;
    for (Index i = 0; i < x.rows(); ++i) {
        for (Index j = 0; j < y.rows(); ++j) {
            double ours = 0.0;
            double naive = 0.0;
            for (Index f = 0; f < x.cols(); ++f) {
                ours += double(x(i, f)) * double(y(j, f));
                naive += expected.x(i, f) * expected.y(j, f);
            }
            difference = std::max(difference, std::abs(ours - naive));
            largest = std::max(largest, std::abs(naive));
        }
    }
    return difference / largest;
}

/// Biases as fit_biases defines them, on the dense matrix with its mask.
struct NaiveBiases {
    std::vector<double> rows, cols;
};

NaiveBiases naive_biases(const NaiveMatrix& a, double mean, double damping) {
    const auto m = static_cast<std::size_t>(a.value.rows());
    const auto n = static_cast<std::size_t>(a.value.cols());
    NaiveBiases b{std::vector<double>(m, 0.0), std::vector<double>(n, 0.0)};
    for (int step = 0; step < 20; ++step) {
        const bool cols = step % 2 == 0;
        for (std::size_t i = 0; i < (cols ? n : m); ++i) {
            double sum = 0.0;
            double count = 0.0;
            for (std::size_t j = 0; j < (cols ? m : n); ++j) {
                const auto row = static_cast<Index>(cols ? j : i);
                const auto col = static_cast<Index>(cols ? i : j);
                if (a.given(row, col) == 0.0) continue;
                sum += a.value(row, col) - mean - (cols ? b.rows : b.cols)[j];
                count += 1.0;
            }
            (cols ? b.cols : b.rows)[i] = count == 0.0 ? 0.0 : sum / (count + damping);
        }
    }
    return b;
}

}  // namespace

template <class R>
class Als : public MpiTest {
protected:
    static constexpr double tolerance = std::is_same_v<R, float> ? 2e-4 : 1e-10;
};
using Scalars = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Als, Scalars);

TYPED_TEST(Als, MatchesTheNaiveSolverForEverySparseObjective) {
    using R = TypeParam;
    for (const bool implicit : {false, true}) {
        for (const bool rendle : {false, true}) {
            if (rendle && !implicit) continue;
            for (const double exponent : {0.0, 1.0}) {
                AlsOptions options{.k = 5,
                                   .sweeps = 3,
                                   .lambda = 0.3,
                                   .lambda_exponent = exponent,
                                   .implicit = implicit,
                                   .alpha = 2.0};
                if (rendle) options.unobserved_weight = 0.2;
                const auto a = small_matrix(40, 30, 0.3, implicit);
                const double mean = implicit ? 0.0 : mean_of(a);
                const auto expected = naive_als<R>(a, options, mean);
                const auto matrix = distribute<R>(this->comm, a);
                const auto factors = als(matrix, options, Steering{});
                SCOPED_TRACE(testing::Message() << implicit << rendle << exponent);
                EXPECT_LE(score_difference(factors, expected), this->tolerance);
                EXPECT_NEAR(factors.history.rows.back()[1], expected.objective,
                            this->tolerance * expected.objective);
                EXPECT_NEAR(factors.global_mean, mean, 1e-6);
            }
        }
    }
}

TYPED_TEST(Als, MatchesTheNaiveSolverOnAFullyGivenMatrix) {
    using R = TypeParam;
    const auto a = small_matrix(33, 21, 1.0, false);
    for (const Centering centering : {Centering::mean, Centering::none}) {
        for (const double lambda : {0.0, 0.05}) {
            const AlsOptions options{.k = 4, .sweeps = 3, .lambda = lambda, .centering = centering};
            const double mean = centering == Centering::mean ? mean_of(a) : 0.0;
            const auto expected = naive_als<R>(a, options, mean);
            const auto dense = als(distribute_dense<R>(this->comm, a), options, Steering{});
            EXPECT_LE(score_difference(dense, expected), 10.0 * this->tolerance);
            const auto sparse = als(distribute<R>(this->comm, a), options, Steering{});
            EXPECT_LE(score_difference(sparse, expected), 10.0 * this->tolerance);
        }
    }
}

TYPED_TEST(Als, ObjectiveNeverRises) {
    using R = TypeParam;
    const auto matrix = distribute<R>(this->comm, small_matrix(60, 50, 0.2, true));
    for (const bool implicit : {false, true}) {
        const auto factors =
            als(matrix, AlsOptions{.k = 8, .sweeps = 8, .implicit = implicit}, Steering{});
        for (std::size_t s = 1; s < factors.history.rows.size(); ++s) {
            EXPECT_LE(factors.history.rows[s][1],
                      factors.history.rows[s - 1][1] * (1.0 + 0.01 * this->tolerance));
        }
    }
}

TYPED_TEST(Als, HasTheSameDigestOnAnyRankAndThreadCount) {
    using R = TypeParam;
    const auto a = small_matrix(70, 45, 0.3, true);
    Ledger alone_ledger;
    const Communicator alone(MPI_COMM_SELF, alone_ledger);
    for (const auto& [implicit, centering] :
         {std::pair{false, Centering::mean}, {false, Centering::biases}, {true, Centering::mean}}) {
        AlsOptions options{.k = 7, .sweeps = 2, .implicit = implicit, .centering = centering};
        auto one = als(distribute<R>(alone, a), options, Steering{});
        options.threads = 2;
        auto many = als(distribute<R>(this->comm, a), options, Steering{});
        EXPECT_EQ(digest(alone, one.tensors()), digest(this->comm, many.tensors()));
        EXPECT_EQ(one.history.rows, many.history.rows);
    }
    AlsOptions options{.k = 3, .sweeps = 2};
    const auto full = small_matrix(70, 45, 1.0, false);
    auto one = als(distribute_dense<R>(alone, full), options, Steering{});
    auto many = als(distribute_dense<R>(this->comm, full), options, Steering{});
    EXPECT_EQ(digest(alone, one.tensors()), digest(this->comm, many.tensors()));
    EXPECT_EQ(one.history.rows, many.history.rows);
}

TYPED_TEST(Als, FactorisesWhatBiasesLeave) {
    using R = TypeParam;
    auto a = small_matrix(70, 45, 0.3, true);
    AlsOptions options{.k = 4, .sweeps = 3, .centering = Centering::biases};
    const auto factors = als(distribute<R>(this->comm, a), options, Steering{});
    const double mean = mean_of(a);
    const auto expected = naive_biases(a, mean, options.bias_damping);
    const auto rows = gather_all(*factors.row_bias);
    const auto cols = gather_all(*factors.col_bias);
    for (Index i = 0; i < rows.rows(); ++i) {
        EXPECT_NEAR(double(rows(i, 0)), expected.rows[static_cast<std::size_t>(i)],
                    this->tolerance);
        for (Index j = 0; j < cols.rows(); ++j) {
            if (a.given(i, j) == 0.0) continue;
            a.value(i, j) -= expected.rows[static_cast<std::size_t>(i)] +
                             expected.cols[static_cast<std::size_t>(j)];
        }
    }
    EXPECT_LT(score_difference(factors, naive_als<R>(a, options, mean)), this->tolerance);
}

TYPED_TEST(Als, WorksWithMoreRanksThanRowsAndMoreFactorsThanColumns) {
    using R = TypeParam;
    const auto a = small_matrix(2, 1, 1.0, false);
    const auto factors =
        als(distribute<R>(this->comm, a), AlsOptions{.k = 6, .sweeps = 2}, Steering{});
    EXPECT_TRUE(std::isfinite(factors.history.rows.back()[1]));
}

TYPED_TEST(Als, NamesARowWhoseSystemIsSingular) {
    using R = TypeParam;
    const auto matrix = distribute<R>(this->comm, small_matrix(30, 20, 0.1, false));
    const std::string message = expect_error(Fault::check, [&] {
        static_cast<void>(als(matrix, AlsOptions{.k = 10, .lambda = 0.0}, Steering{}));
    });
    EXPECT_NE(message.find("row 0 is not positive definite"), std::string::npos) << message;
}

TYPED_TEST(Als, SteeringStopsTheLoopAndSeesTheState) {
    using R = TypeParam;
    const auto matrix = distribute<R>(this->comm, small_matrix(30, 20, 0.4, false));
    Steering steering;
    Index calls = 0;
    steering.after = [&](const Progress& progress, const TensorList& state) {
        EXPECT_EQ(progress.step, ++calls);
        EXPECT_EQ(state.tensors.size(), 2U);
        return calls == 2 ? Verdict::stop : Verdict::go_on;
    };
    const auto factors = als(matrix, AlsOptions{.k = 3, .sweeps = 9}, steering);
    EXPECT_EQ(factors.history.rows.size(), 2U);
}

}  // namespace rankfold::test
