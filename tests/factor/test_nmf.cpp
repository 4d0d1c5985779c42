#include <rankfold/factor/nmf.hpp>

#include <limits>

#include <rankfold/core/random.hpp>
#include <rankfold/factor/nmf_cost.hpp>

#include "reference/naive_nmf.hpp"
#include "support/dense_and_sparse.hpp"
#include "support/mpi_test.hpp"

namespace rankfold::test {

namespace {

/// The same small problem on every rank; some rows and columns are all zero.
NaiveNmf small_problem(Index m, Index n, Index k, double density) {
    const Philox random(23, Stream::synthetic_entry);
    NaiveNmf p{DenseMatrix<double>(m, n), DenseMatrix<double>(m, n), DenseMatrix<double>(m, k),
               DenseMatrix<double>(n, k)};
    for (Index i = 0; i < m; ++i) {
        for (Index j = 0; j < n; ++j) {
            const bool empty = density < 1.0 && (i % 11 == 4 || j % 13 == 6);
            if (empty || random.uniform(i, j) >= density) continue;
            p.given(i, j) = 1.0;
            p.a(i, j) = 1.0 + 4.0 * random.uniform(i + 1000, j);
        }
    }
    return p;
}

/// The random start of nmf(), rounded as there.
template <Real R>
void draw_naive_start(NaiveNmf& p, double mean, std::uint64_t seed) {
    for (const Side side : {Side::rows, Side::cols}) {
        DenseMatrix<double>& factor = side == Side::rows ? p.w : p.h;
        DenseMatrix<R> drawn(factor.rows(), factor.cols());
        draw_nonnegative(drawn.view(), 0, side, mean, seed);
        std::ranges::copy(drawn.data(), factor.data().begin());
    }
}

double sum_of(const DenseMatrix<double>& a) {
    double sum = 0.0;
    for (const double x : a.data()) sum += x;
    return sum;
}

/// The largest |score difference| over all pairs, relative to the largest score.
template <Real R>
double score_difference(const Factors<R>& factors, const NaiveNmf& expected) {
    const auto w = gather_all(factors.rows);
    const auto h = gather_all(factors.cols);
    double difference = 0.0;
    double largest = 1e-30;
    for (Index i = 0; i < w.rows(); ++i) {
        for (Index j = 0; j < h.rows(); ++j) {
            double ours = 0.0;
            for (Index f = 0; f < w.cols(); ++f) ours += double(w(i, f)) * double(h(j, f));
            difference = std::max(difference, std::abs(ours - expected.score(i, j)));
            largest = std::max(largest, expected.score(i, j));
        }
    }
    return difference / largest;
}

double certified(const auto& factors, const std::string& name) {
    for (const auto& [key, value] : factors.certificate) {
        if (key == name) return value;
    }
    return std::numeric_limits<double>::quiet_NaN();
}

/// All elements are finite and not negative.
template <Real R>
bool is_nonnegative(const Factors<R>& factors) {
    bool good = true;
    for (const auto* side : {&factors.rows, &factors.cols}) {
        for (const R x : side->local().data()) good = good && std::isfinite(x) && x >= R{0};
    }
    return factors.rows.comm().all_agree(good);
}

/// Every grid of this many ranks.
std::vector<GridShape> grids(int ranks) {
    std::vector<GridShape> all;
    for (int rows = 1; rows <= ranks; ++rows) {
        if (ranks % rows == 0) all.push_back({rows, ranks / rows});
    }
    return all;
}

struct Kind {
    NmfSolver solver;
    NmfLoss loss;
    bool missing;
};

constexpr Kind kinds[] = {{NmfSolver::hals, NmfLoss::frobenius, false},
                          {NmfSolver::mu, NmfLoss::frobenius, false},
                          {NmfSolver::bpp, NmfLoss::frobenius, false},
                          {NmfSolver::mu, NmfLoss::kullback_leibler, false},
                          {NmfSolver::hals, NmfLoss::frobenius, true}};

}  // namespace

template <class R>
class Nmf : public MpiTest {
protected:
    static constexpr double tolerance = std::is_same_v<R, float> ? 2e-4 : 1e-10;

    static Factors<R> solve(const BlockRowCsr<R>& a, const NmfOptions& options, bool missing,
                            const Steering& steering = {}) {
        return missing ? nmf_missing(a, options, steering) : nmf(a, options, steering);
    }
};
using Scalars = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Nmf, Scalars);

TYPED_TEST(Nmf, MatchesTheNaiveSolverForEverySolverAndLossOnSparseMatrices) {
    using R = TypeParam;
    for (const Kind kind : kinds) {
        SCOPED_TRACE(testing::Message() << int(kind.solver) << int(kind.loss) << kind.missing);
        NaiveNmf p = small_problem(40, 31, 5, 0.3);
        NmfOptions o{.k = 5, .sweeps = 3, .solver = kind.solver, .loss = kind.loss};
        o.inner = {.most = 3, .settle = 0.0};
        if (kind.missing) o.lambda = 0.05;
        const double count = kind.missing ? sum_of(p.given) : 40.0 * 31.0;
        draw_naive_start<R>(p, sum_of(p.a) / count, o.seed);
        for (Index s = 0; s < o.sweeps; ++s) {
            p.sweep(o, kind.missing, double(std::numeric_limits<R>::epsilon()));
        }
        const auto factors = this->solve(sparse_rows<R>(this->comm, p.a, p.given), o, kind.missing);
        EXPECT_LE(score_difference(factors, p), this->tolerance);
        const double objective = p.objective(o, kind.missing);
        EXPECT_NEAR(certified(factors, "objective"), objective, this->tolerance * objective);
        EXPECT_NEAR(factors.history.rows.back()[1], objective, 10 * this->tolerance * objective);
        EXPECT_TRUE(is_nonnegative(factors));
    }
}

TYPED_TEST(Nmf, MatchesTheNaiveSolverOnDenseMatricesAndCertifiesItsKktResidual) {
    using R = TypeParam;
    for (const Kind kind : kinds) {
        if (kind.missing) continue;
        SCOPED_TRACE(testing::Message() << int(kind.solver) << int(kind.loss));
        NaiveNmf p = small_problem(33, 21, 4, 1.0);
        const NmfOptions o{.k = 4, .sweeps = 4, .solver = kind.solver, .loss = kind.loss};
        draw_naive_start<R>(p, sum_of(p.a) / (33.0 * 21.0), o.seed);
        const double kkt_start = p.kkt();
        for (Index s = 0; s < o.sweeps; ++s) p.sweep(o, false, 1e-30);
        const auto factors = nmf(dense_rows<R>(this->comm, p.a), o, Steering{});
        EXPECT_LE(score_difference(factors, p), this->tolerance);
        const double objective = p.objective(o, false);
        EXPECT_NEAR(certified(factors, "objective"), objective, this->tolerance * objective);
        if (kind.loss == NmfLoss::frobenius) {
            EXPECT_NEAR(certified(factors, "kkt"), p.kkt() / kkt_start, 50 * this->tolerance);
        }
    }
}

TYPED_TEST(Nmf, HasTheSameDigestOnEveryGridRankAndThreadCount) {
    using R = TypeParam;
    const NaiveNmf p = small_problem(70, 45, 7, 0.4);
    Ledger alone_ledger;
    const Communicator alone(MPI_COMM_SELF, alone_ledger);
    for (const Kind kind : kinds) {
        NmfOptions o{.k = 7, .sweeps = 2, .solver = kind.solver, .loss = kind.loss};
        o.inner.most = 3;
        auto one = this->solve(sparse_rows<R>(alone, p.a, p.given), o, kind.missing);
        Factors<R> one_dense;
        if (!kind.missing) one_dense = nmf(dense_rows<R>(alone, p.a), o, Steering{});
        o.threads = 2;
        for (const GridShape grid : grids(this->comm.size())) {
            SCOPED_TRACE(testing::Message() << grid.rows << "x" << grid.cols);
            o.grid = grid;
            auto many = this->solve(sparse_rows<R>(this->comm, p.a, p.given), o, kind.missing);
            EXPECT_EQ(digest(alone, one.tensors()), digest(this->comm, many.tensors()));
            EXPECT_EQ(one.history.rows, many.history.rows);
            EXPECT_EQ(one.certificate, many.certificate);
            if (kind.missing) break;
            auto dense = nmf(dense_rows<R>(this->comm, p.a), o, Steering{});
            EXPECT_EQ(digest(alone, one_dense.tensors()), digest(this->comm, dense.tensors()));
            EXPECT_EQ(one_dense.certificate, dense.certificate);
        }
    }
}

TYPED_TEST(Nmf, ObjectiveNeverRisesAndFallsFasterWithInnerPasses) {
    using R = TypeParam;
    const NaiveNmf p = small_problem(60, 50, 6, 0.3);
    const auto a = sparse_rows<R>(this->comm, p.a, p.given);
    for (const Kind kind : kinds) {
        NmfOptions o{.k = 6, .sweeps = 8, .solver = kind.solver, .loss = kind.loss};
        const auto factors = this->solve(a, o, kind.missing);
        for (std::size_t s = 1; s < factors.history.rows.size(); ++s) {
            EXPECT_LE(factors.history.rows[s][1],
                      factors.history.rows[s - 1][1] * (1.0 + 0.1 * this->tolerance));
        }
        o.inner = {.most = 10, .settle = 0.01};
        if (kind.solver != NmfSolver::hals) continue;
        o.sweeps = 2;
        const auto inner = this->solve(a, o, kind.missing);
        EXPECT_LT(inner.history.rows[1][1], factors.history.rows[1][1]);
    }
}

TYPED_TEST(Nmf, ReachesTheResidualThatWasAskedFor) {
    using R = TypeParam;
    const NaiveNmf p = small_problem(30, 20, 3, 1.0);
    NmfOptions o{.k = 3, .sweeps = 2000, .tolerance = 1e-2};
    const auto factors = nmf(dense_rows<R>(this->comm, p.a), o, Steering{});
    EXPECT_LT(factors.history.rows.size(), 2000U);
    EXPECT_LE(certified(factors, "kkt"), 1e-2 * 1.01);
    const auto w = gram(factors.rows);
    const auto h = gram(factors.cols);
    for (Index f = 0; f < 3; ++f) {
        EXPECT_NEAR(w(f, f), h(f, f), 1e-4 * w(f, f));
        EXPECT_LE(w(f, f), w(std::max<Index>(1, f) - 1, std::max<Index>(1, f) - 1));
    }
    o.tolerance = 0.0;
    o.least_change = 1e-3;
    EXPECT_LT(nmf(dense_rows<R>(this->comm, p.a), o, Steering{}).history.rows.size(), 500U);
}

/// All zero, constant, a single column, and less rank than factors; with empty rows and columns.
NaiveNmf awkward_problem(int which, Index k) {
    if (which == 0) return small_problem(9, 7, k, 0.0);
    if (which == 1) {
        NaiveNmf constant = small_problem(12, 10, k, 1.0);
        constant.a.fill(2.5);
        return constant;
    }
    return which == 2 ? small_problem(2, 1, k, 1.0) : small_problem(20, 3, k, 0.5);
}

TYPED_TEST(Nmf, DoesWhatTheNaiveSolverDoesOnAwkwardMatrices) {
    using R = TypeParam;
    for (const int which : {0, 1, 2, 3}) {
        for (const Kind kind : kinds) {
            SCOPED_TRACE(testing::Message() << which << int(kind.solver) << int(kind.loss));
            const NmfOptions o{.k = 8, .sweeps = 4, .solver = kind.solver, .loss = kind.loss};
            NaiveNmf p = awkward_problem(which, o.k);
            const double count =
                kind.missing ? std::max(1.0, sum_of(p.given)) : double(p.a.rows() * p.a.cols());
            draw_naive_start<R>(p, sum_of(p.a) / count, o.seed);
            const double scale = 1.0 + sum_of(p.a) * sum_of(p.a) / count;
            for (Index s = 0; s < o.sweeps; ++s) {
                p.sweep(o, kind.missing, double(std::numeric_limits<R>::epsilon()));
            }
            const double objective = p.objective(o, kind.missing);
            const auto agrees = [&](const Factors<R>& factors) {
                EXPECT_TRUE(is_nonnegative(factors));
                EXPECT_TRUE(std::isfinite(certified(factors, "objective")));
                if (kind.solver == NmfSolver::bpp) return;  // many exact solutions
                EXPECT_NEAR(certified(factors, "objective"), objective, this->tolerance * scale);
                EXPECT_LE(score_difference(factors, p), 10.0 * this->tolerance);
            };
            agrees(this->solve(sparse_rows<R>(this->comm, p.a, p.given), o, kind.missing));
            if (!kind.missing) agrees(nmf(dense_rows<R>(this->comm, p.a), o, Steering{}));
        }
    }
}

TYPED_TEST(Nmf, StopsWhenItsTimeIsOver) {
    using R = TypeParam;
    const NaiveNmf p = small_problem(30, 20, 3, 1.0);
    const NmfOptions o{.k = 3, .sweeps = 100000, .most_seconds = 0.01};
    for (const bool missing : {false, true}) {
        const auto factors = this->solve(sparse_rows<R>(this->comm, p.a, p.given), o, missing);
        const auto sweeps = static_cast<Index>(factors.history.rows.size());
        EXPECT_LT(sweeps, o.sweeps);
        EXPECT_EQ(this->comm.all_reduce(sweeps, Reduce::max), sweeps);
    }
}

TYPED_TEST(Nmf, NamesTheFirstNegativeOrNonFiniteElement) {
    using R = TypeParam;
    NaiveNmf p = small_problem(30, 20, 3, 1.0);
    p.a(29, 3) = -1.0;
    p.a(17, 5) = std::numeric_limits<double>::quiet_NaN();
    p.a(17, 9) = -2.0;
    for (const bool missing : {false, true}) {
        const std::string message = expect_error(Fault::input, [&] {
            static_cast<void>(
                this->solve(sparse_rows<R>(this->comm, p.a, p.given), NmfOptions{.k = 2}, missing));
        });
        EXPECT_NE(message.find("nan (row 17, column 5"), std::string::npos) << message;
    }
    p.a(17, 5) = 1.0;
    const std::string message = expect_error(Fault::input, [&] {
        static_cast<void>(nmf(dense_rows<R>(this->comm, p.a), NmfOptions{.k = 2}, Steering{}));
    });
    EXPECT_NE(message.find("-2 (row 17, column 9"), std::string::npos) << message;
}

TYPED_TEST(Nmf, GoesOnFromAnEarlierStateToTheSameBits) {
    using R = TypeParam;
    const NaiveNmf p = small_problem(40, 30, 4, 0.4);
    const auto a = sparse_rows<R>(this->comm, p.a, p.given);
    for (const Kind kind : kinds) {
        const NmfOptions o{.k = 4, .sweeps = 5, .solver = kind.solver, .loss = kind.loss};
        std::vector<std::vector<R>> saved;
        double kkt_start = 0.0;
        Steering save;
        save.after = [&](const Progress& progress, const TensorList& state) {
            if (progress.step != 3) return Verdict::go_on;
            for (const auto& tensor : state.tensors) {
                const auto& data = std::get<std::span<R>>(tensor.data);
                saved.emplace_back(data.begin(), data.end());
            }
            kkt_start = state.scalars.at("kkt_start");
            return Verdict::go_on;
        };
        auto whole = this->solve(a, o, kind.missing, save);
        Steering restore;
        restore.restore = [&](TensorList& state) {
            for (std::size_t t = 0; t < saved.size(); ++t) {
                std::ranges::copy(saved[t], std::get<std::span<R>>(state.tensors[t].data).begin());
            }
            state.scalars["kkt_start"] = kkt_start;
            return Index{3};
        };
        auto rest = this->solve(a, o, kind.missing, restore);
        EXPECT_EQ(digest(this->comm, whole.tensors()), digest(this->comm, rest.tensors()));
        EXPECT_EQ(whole.certificate, rest.certificate);
        EXPECT_EQ(rest.history.rows.size(), 2U);
    }
}

TYPED_TEST(Nmf, FoldsRowsInThatItWasFittedTo) {
    using R = TypeParam;
    for (const Kind kind : kinds) {
        SCOPED_TRACE(testing::Message() << int(kind.solver) << int(kind.loss) << kind.missing);
        const NaiveNmf p = small_problem(30, 26, 3, 0.6);
        const auto a = sparse_rows<R>(this->comm, p.a, p.given);
        NmfOptions o{.k = 3, .sweeps = 300, .solver = kind.solver, .loss = kind.loss};
        if (kind.missing) o.lambda = 0.05;
        const auto factors = this->solve(a, o, kind.missing);
        const NmfFoldIn how{.loss = kind.loss, .missing = kind.missing, .lambda = o.lambda};
        const auto again = fold_in_nmf(a, factors.cols, how);
        const auto expected = gather_all(factors.rows);
        const auto found = gather_all(again);
        double largest = 0.0;
        double difference = 0.0;
        for (std::size_t i = 0; i < found.data().size(); ++i) {
            largest = std::max(largest, double(expected.data()[i]));
            difference = std::max(difference,
                                  std::abs(double(found.data()[i]) - double(expected.data()[i])));
        }
        EXPECT_LE(difference, 0.03 * largest);
        if (kind.missing) continue;
        const auto dense =
            gather_all(fold_in_nmf(dense_rows<R>(this->comm, p.a), factors.cols, how));
        for (std::size_t i = 0; i < found.data().size(); ++i) {
            EXPECT_NEAR(double(dense.data()[i]), double(found.data()[i]), 5e-3 * largest);
        }
    }
}

TYPED_TEST(Nmf, StartsFromTheHeavierPartsOfSingularVectors) {
    using R = TypeParam;
    // the singular vectors of [[B, 0], [0, C]] with rank-one B, C are those of its blocks
    DenseMatrix<double> a(9, 7);
    for (Index i = 0; i < 9; ++i) {
        for (Index j = 0; j < 7; ++j) {
            const bool first = i < 5 && j < 3;
            const bool second = i >= 5 && j >= 3;
            if (first || second) a(i, j) = (first ? 4.0 : 1.0) * double(1 + i) * double(1 + j);
        }
    }
    const auto dense = dense_rows<R>(this->comm, a);
    const NmfOptions o{.k = 2};
    const auto plain = nndsvd_start(dense, o, false);
    const auto w = gather_all(plain.rows);
    const auto h = gather_all(plain.cols);
    for (Index i = 0; i < 9; ++i) {
        for (Index j = 0; j < 7; ++j) {
            const double s = double(w(i, 0)) * double(h(j, 0)) + double(w(i, 1)) * double(h(j, 1));
            EXPECT_NEAR(s, a(i, j), 0.05);
        }
    }
    EXPECT_NEAR(gram(plain.rows)(0, 0), gram(plain.cols)(0, 0), 1e-3 * gram(plain.rows)(0, 0));
    const auto filled = gather_all(nndsvd_start(dense, o, true).rows);
    for (const R x : filled.data()) EXPECT_GT(x, R{0});
    // more factors than singular values
    const auto wide = nndsvd_start(dense, NmfOptions{.k = 10}, false);
    EXPECT_TRUE(is_nonnegative(wide));
    EXPECT_TRUE(is_nonnegative(nmf(dense, NmfOptions{.k = 10}, Steering{}, &wide)));
    NaiveNmf p = small_problem(40, 31, 5, 0.3);
    Ledger alone_ledger;
    const Communicator alone(MPI_COMM_SELF, alone_ledger);
    auto one = nndsvd_start(sparse_rows<R>(alone, p.a, p.given), o, false);
    auto many = nndsvd_start(sparse_rows<R>(this->comm, p.a, p.given), o, false);
    EXPECT_EQ(digest(alone, one.tensors()), digest(this->comm, many.tensors()));
}

TEST(NmfCost, PrefersTheGridThatMovesLeast) {
    const auto size = [](Index rows, Index cols) {
        const auto tiles = [](Index along, Index lines) {
            return tile_count(along, dense_factor_layout(along, 1).shards(), lines, along * lines);
        };
        return NmfSize{.rows = rows,
                       .cols = cols,
                       .nnz = rows * cols,
                       .k = 32,
                       .row_tiles = tiles(rows, cols),
                       .col_tiles = tiles(cols, rows)};
    };
    EXPECT_EQ(choose_grid(size(40000, 40000), 16), (GridShape{4, 4}));
    EXPECT_EQ(choose_grid(size(1000000, 4000), 16), (GridShape{16, 1}));
    EXPECT_EQ(choose_grid(size(4096, 1000000), 4), (GridShape{1, 4}));
    EXPECT_EQ(nmf_sweep_cost(size(1000, 1000), {1, 1}).bytes, 0.0);
}

}  // namespace rankfold::test
