#include <rankfold/factor/als.hpp>

#include "als_problems.hpp"
#include "support/mpi_test.hpp"

namespace rankfold::test {

namespace {

/// What als() must give after some sweeps, and its objective.
struct NaiveResult {
    DenseMatrix<double> x, y;
    double objective;
};

template <Real R>
NaiveResult naive_als(const NaiveMatrix& a, const AlsOptions& options, double mean) {
    const NaiveObjective objective{options, mean};
    const Index width = options.k + (options.biases ? 1 : 0);
    NaiveResult r{DenseMatrix<double>(a.value.rows(), width),
                  DenseMatrix<double>(a.value.cols(), width), 0.0};
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
    const bool biases = factors.row_bias.has_value();
    const auto b = biases ? gather_all(*factors.row_bias) : DenseMatrix<R>();
    const auto d = biases ? gather_all(*factors.col_bias) : DenseMatrix<R>();
    double difference = 0.0;
    double largest = 1e-30;
    for (Index i = 0; i < x.rows(); ++i) {
        for (Index j = 0; j < y.rows(); ++j) {
            double ours = biases ? double(b(i, 0)) + double(d(j, 0)) : 0.0;
            for (Index f = 0; f < x.cols(); ++f) ours += double(x(i, f)) * double(y(j, f));
            const double naive = naive_score(expected.x.row(i), expected.y.row(j), biases);
            difference = std::max(difference, std::abs(ours - naive));
            largest = std::max(largest, std::abs(naive));
        }
    }
    return difference / largest;
}

/// The same entries with other values: confidences, some of them zero.
NaiveMatrix with_confidences(NaiveMatrix a) {
    const Philox random(5, Stream::synthetic_entry);
    a.weight = DenseMatrix<double>(a.value.rows(), a.value.cols());
    for (Index i = 0; i < a.value.rows(); ++i) {
        for (Index j = 0; j < a.value.cols(); ++j) {
            a.weight(i, j) = (i + j) % 7 == 0 ? 0.0 : 0.5 + random.uniform(i, j);
        }
    }
    return a;
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
    for (const AlsOptions& options : objectives()) {
        for (const bool more : {false, true}) {  // confidences, or dislikes
            auto a = small_matrix(40, 30, 0.3, options.implicit);
            const double mean = options.implicit ? 0.0 : mean_of(a);
            BlockRowCsr<R> confidences;
            if (more && options.implicit) {
                for (double& v : a.value.data()) v = v == 3.0 ? -2.0 : v;
            } else if (more) {
                a = with_confidences(std::move(a));
                confidences = sparse_rows<R>(this->comm, a.weight, a.given);
            }
            const auto expected = naive_als<R>(a, options, mean);
            const auto factors = als(sparse_rows<R>(this->comm, a), options, Steering{},
                                     more && !options.implicit ? &confidences : nullptr);
            SCOPED_TRACE(testing::Message()
                         << options.implicit << options.biases << options.lambda_exponent << more);
            EXPECT_LE(score_difference(factors, expected), this->tolerance);
            EXPECT_NEAR(factors.history.rows.back()[1], expected.objective,
                        this->tolerance * expected.objective);
            EXPECT_NEAR(factors.global_mean, mean, 1e-6);
            EXPECT_LE(factors.certificate.at(0).second, this->tolerance);
        }
    }
}

/// Sweeps by other solvers, and an exact one at the end, reach what exact ones reach.
TYPED_TEST(Als, EverySolverReachesTheSameObjective) {
    using R = TypeParam;
    const auto matrix = sparse_rows<R>(this->comm, small_matrix(60, 50, 0.3, true));
    for (AlsOptions options : objectives()) {
        if (options.lambda_exponent == 0.0) continue;
        options.k = 20;
        options.sweeps = 10;
        const auto exact = als(matrix, options, Steering{});
        options.exact_last = true;
        for (const Solver solver : {Solver::cg, Solver::subspace}) {
            options.solver = {.solver = solver, .block = 8};
            const auto factors = als(matrix, options, Steering{});
            // where several minima are, another one may be found, also a lower one
            EXPECT_LE(factors.history.rows.back()[1], 1.03 * exact.history.rows.back()[1]);
            EXPECT_LE(factors.certificate.at(0).second, this->tolerance);
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
            const auto dense = als(dense_rows<R>(this->comm, a.value), options, Steering{});
            EXPECT_LE(score_difference(dense, expected), 10.0 * this->tolerance);
            const auto sparse = als(sparse_rows<R>(this->comm, a), options, Steering{});
            EXPECT_LE(score_difference(sparse, expected), 10.0 * this->tolerance);
        }
    }
}

TYPED_TEST(Als, ObjectiveNeverRises) {
    using R = TypeParam;
    const auto matrix = sparse_rows<R>(this->comm, small_matrix(60, 50, 0.2, true));
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
    for (const AlsOptions& objective : objectives()) {
        for (const Solver solver : {Solver::cholesky, Solver::cg, Solver::subspace}) {
            AlsOptions options = objective;
            options.k = 17;
            options.sweeps = 2;
            options.solver = {.solver = solver, .block = 5};
            auto one = als(sparse_rows<R>(alone, a), options, Steering{});
            options.threads = 2;
            auto many = als(sparse_rows<R>(this->comm, a), options, Steering{});
            EXPECT_EQ(digest(alone, one.tensors()), digest(this->comm, many.tensors()));
            EXPECT_EQ(one.history.rows, many.history.rows);
            EXPECT_EQ(one.certificate, many.certificate);
        }
    }
    AlsOptions options{.k = 3, .sweeps = 2};
    const auto full = small_matrix(70, 45, 1.0, false);
    auto one = als(dense_rows<R>(alone, full.value), options, Steering{});
    auto many = als(dense_rows<R>(this->comm, full.value), options, Steering{});
    EXPECT_EQ(digest(alone, one.tensors()), digest(this->comm, many.tensors()));
    EXPECT_EQ(one.history.rows, many.history.rows);
}

TYPED_TEST(Als, WorksWithMoreRanksThanRowsAndMoreFactorsThanColumns) {
    using R = TypeParam;
    const auto a = small_matrix(2, 1, 1.0, false);
    const auto factors =
        als(sparse_rows<R>(this->comm, a), AlsOptions{.k = 6, .sweeps = 2}, Steering{});
    EXPECT_TRUE(std::isfinite(factors.history.rows.back()[1]));
}

TYPED_TEST(Als, NamesARowWhoseSystemIsSingular) {
    using R = TypeParam;
    const auto matrix = sparse_rows<R>(this->comm, small_matrix(30, 20, 0.1, false));
    const std::string message = expect_error(Fault::check, [&] {
        static_cast<void>(als(matrix, AlsOptions{.k = 10, .lambda = 0.0}, Steering{}));
    });
    EXPECT_NE(message.find("row 0 is not positive definite"), std::string::npos) << message;
}

TYPED_TEST(Als, SteeringStopsTheLoopAndSeesTheState) {
    using R = TypeParam;
    const auto matrix = sparse_rows<R>(this->comm, small_matrix(30, 20, 0.4, false));
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
