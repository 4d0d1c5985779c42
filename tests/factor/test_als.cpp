#include <rankfold/factor/als.hpp>

#include <limits>

#include <rankfold/core/random.hpp>

#include "reference/naive_als.hpp"
#include "support/dense_and_sparse.hpp"
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

/// All objectives of a sparse matrix.
std::vector<AlsOptions> objectives() {
    std::vector<AlsOptions> all;
    for (const double exponent : {0.0, 1.0}) {
        const AlsOptions explicit_form{
            .k = 5, .sweeps = 3, .lambda = 0.3, .lambda_exponent = exponent, .alpha = 2.0};
        all.push_back(explicit_form);
        all.push_back(explicit_form);
        all.back().biases = true;
        all.push_back(explicit_form);
        all.back().implicit = true;
        all.push_back(all.back());
        all.back().base_confidence = 0.25;
        all.push_back(all.back());
        all.back().unobserved_weight = 0.2;
    }
    // rows with fewer entries than factors: by their dual systems up to 16 entries
    all.push_back(all.front());
    all.back().k = 24;
    all.push_back(all.back());
    all.back().biases = true;
    return all;
}

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

TYPED_TEST(Als, EveryExchangeGivesTheSameBitsAndTheChosenOneSendsLeast) {
    using R = TypeParam;
    const auto a = small_matrix(150, 90, 0.3, true);
    Ledger alone_ledger;
    const Communicator alone(MPI_COMM_SELF, alone_ledger);
    for (const AlsOptions& objective : objectives()) {
        AlsOptions options = objective;
        options.sweeps = 2;
        options.heavy = 30;
        auto one = als(sparse_rows<R>(alone, a), options, Steering{});
        options.threads = 2;
        for (const Exchange exchange :
             {Exchange::automatic, Exchange::all, Exchange::needed, Exchange::reduced}) {
            options.exchange = exchange;
            auto many = als(sparse_rows<R>(this->comm, a), options, Steering{});
            EXPECT_EQ(digest(alone, one.tensors()), digest(this->comm, many.tensors()));
            EXPECT_EQ(one.history.rows, many.history.rows);
        }
        options.heavy.reset();
        EXPECT_NEAR(als(sparse_rows<R>(this->comm, a), options, Steering{}).history.rows[1][1],
                    one.history.rows[1][1], this->tolerance * one.history.rows[1][1]);
    }
}

/// Panels of rows whose fixed rows do not all fit give the same bits, and keep within the memory.
TYPED_TEST(Als, ABoundOnMemoryChangesNoBits) {
    using R = TypeParam;
    const auto a = distribute<R>(this->comm, small_matrix(900, 70, 0.05, true));
    const auto transposed = transpose(a);
    for (const bool biases : {false, true}) {
        const AlsOptions options{.k = 6};
        SideOptions side{.problem = row_problem(options, 0.5, a.cols()), .biases = biases};
        side.heavy = 50;
        double sent = 0.0;
        const auto solved = [&](double buffer_bytes) {
            side.buffer_bytes = buffer_bytes;
            SparseSide<R> rows(transposed, side, a.layout(), options.k, &a);
            BlockRows<R> x(this->comm, transposed.layout(), options.k);
            BlockRows<R> y(this->comm, a.layout(), options.k);
            for (Index i = 0; i < y.local().rows(); ++i) {
                for (Index f = 0; f < y.cols(); ++f) {
                    y.local()(i, f) = R(std::sin(double(y.first_row() + i + 7 * f)));
                }
            }
            rows.solve(y, x);
            const SideLoss loss = rows.losses(x);
            const double certificate = rows.certificate(x);
            sent = rows.exchange_bytes().back();
            TensorList tensors;
            tensors.add("x", x);
            return std::tuple(digest(this->comm, tensors), loss.entries, loss.ridge, certificate);
        };
        const auto free = solved(std::numeric_limits<double>::infinity());
        EXPECT_LE(std::get<3>(free), this->tolerance);
        if (this->comm.size() == 1) continue;
        const double sent_freely = sent;
        EXPECT_EQ(solved(300.0 * 6 * sizeof(R)), free);
        EXPECT_GT(sent, sent_freely);  // some rows travel with several panels
        EXPECT_THROW(solved(2.0 * 6 * sizeof(R)), Error);
    }
}

TYPED_TEST(Als, ExchangesSendWhatWasPredictedAndTheLeastIsChosen) {
    using R = TypeParam;
    const auto a = sparse_rows<R>(this->comm, small_matrix(300, 40, 0.1, true));
    const auto transposed = transpose(a);
    const AlsOptions options{.k = 6, .implicit = true};
    BlockRows<R> x(this->comm, a.layout(), options.k);
    BlockRows<R> y(this->comm, transposed.layout(), options.k);
    y.local().fill(R{1});
    const auto measured = [&](Exchange exchange) {
        SparseSide<R> side(
            a, {.problem = row_problem(options, 0.0, a.cols()), .exchange = exchange, .heavy = 4},
            transposed.layout(), options.k, &transposed);
        const auto sent = [&] {
            double bytes = 0.0;
            for (const auto& phase : this->ledger.phases()) {
                if (phase.name.starts_with("als exchange") || phase.name == "als partial sums") {
                    bytes += phase.bytes_sent;
                }
            }
            return bytes;
        };
        const double before = sent();
        side.solve(y, x);
        const auto bytes = double(this->comm.all_reduce(Index(sent() - before), Reduce::sum));
        const auto at = static_cast<std::size_t>(side.exchange()) - 1;
        EXPECT_EQ(bytes, side.exchange_bytes().at(at));
        return bytes;
    };
    const double least = std::min(
        {measured(Exchange::all), measured(Exchange::needed), measured(Exchange::reduced)});
    EXPECT_EQ(measured(Exchange::automatic), least);
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
