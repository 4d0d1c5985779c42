#include <rankfold/factor/fold_in.hpp>

#include <rankfold/core/random.hpp>
#include <rankfold/factor/half_sweep.hpp>
#include <rankfold/factor/warm_start.hpp>

#include "reference/naive_als.hpp"
#include "support/mpi_test.hpp"

namespace rankfold::test {

namespace {

constexpr Index cols = 23;
constexpr Index k = 4;

/// New rows: row 3 has no entry.
NaiveMatrix new_rows(Index m) {
    const Philox random(5, Stream::synthetic_entry);
    NaiveMatrix a{DenseMatrix<double>(m, cols), DenseMatrix<double>(m, cols)};
    for (Index i = 0; i < m; ++i) {
        for (Index j = 0; j < cols; ++j) {
            if (i == 3 || random.uniform(i, j) >= 0.4) continue;
            a.given(i, j) = 1.0;
            a.value(i, j) = double(1 + random.below(5, i + 1000, j));
        }
    }
    return a;
}

template <Real R>
BlockRows<R> normal_rows(const Communicator& comm, Index rows, Index width, std::uint64_t seed) {
    BlockRows<R> x(comm, ShardLayout::even(rows, 7, comm.size()), width);
    const Philox random(seed, Stream::row_factors);
    for (Index i = 0; i < x.local().rows(); ++i) {
        for (Index f = 0; f < width; ++f) {
            x.local()(i, f) = static_cast<R>(random.normal(x.first_row() + i, f));
        }
    }
    return x;
}

template <Real R>
Factors<R> some_model(const Communicator& comm, const AlsOptions& options) {
    Factors<R> model;
    model.rows = normal_rows<R>(comm, 11, k, 1);
    model.cols = normal_rows<R>(comm, cols, k, 2);
    model.global_mean = options.implicit ? 0.0 : 3.1;
    model.method = options.implicit ? "als-implicit" : "als-explicit";
    return model;
}

std::vector<AlsOptions> objectives() {
    AlsOptions values{.k = k, .lambda = 0.3};
    AlsOptions hu{.k = k, .lambda = 0.2, .lambda_exponent = 0.0, .implicit = true, .alpha = 2.0};
    AlsOptions rendle{.k = k, .lambda = 0.05, .implicit = true, .unobserved_weight = 0.2};
    return {values, hu, rendle};
}

/// X Yᵀ of factors, whole, in double.
template <Real R>
DenseMatrix<double> product(const Factors<R>& factors) {
    const auto x = gather_all(factors.rows);
    const auto y = gather_all(factors.cols);
    DenseMatrix<double> p(x.rows(), y.rows());
    for (Index i = 0; i < x.rows(); ++i) {
        for (Index j = 0; j < y.rows(); ++j) {
            for (Index f = 0; f < x.cols(); ++f) {
                const double s = factors.singular_values.empty()
                                     ? 1.0
                                     : double(factors.singular_values[std::size_t(f)]);
                p(i, j) += double(x(i, f)) * s * double(y(j, f));
            }
        }
    }
    return p;
}

}  // namespace

template <class R>
class FoldIn : public MpiTest {
protected:
    static constexpr double tolerance = std::is_same_v<R, float> ? 3e-4 : 1e-10;
};
using Scalars = ::testing::Types<float, double>;
TYPED_TEST_SUITE(FoldIn, Scalars);

TYPED_TEST(FoldIn, SolvesEveryNewRowExactlyForEveryObjective) {
    using R = TypeParam;
    const NaiveMatrix a = new_rows(31);
    for (const AlsOptions& options : objectives()) {
        const auto model = some_model<R>(this->comm, options);
        const auto y = gather_all(model.cols);
        DenseMatrix<double> exact_y(cols, k);
        std::ranges::copy(y.data(), exact_y.data().begin());
        DenseMatrix<double> expected(31, k);
        naive_half_sweep(a, false, {options, model.global_mean}, exact_y, expected);
        const auto folded = fold_in_als(sparse_rows<R>(this->comm, a), model, options);
        const auto x = gather_all(folded.rows);
        double worst = 0.0;
        for (std::size_t e = 0; e < x.data().size(); ++e) {
            worst = std::max(worst, std::abs(double(x.data()[e]) - expected.data()[e]));
        }
        EXPECT_LE(worst, this->tolerance) << options.implicit;
        EXPECT_EQ(folded.method, model.method);
        EXPECT_EQ(x(3, 0), R{0});
    }
}

TYPED_TEST(FoldIn, WithAPriorSolvesTheWeightedRidgeSystemAndAnEmptyRowIsItsPrior) {
    using R = TypeParam;
    constexpr Index m = 31;
    constexpr double mu = 0.7;
    const NaiveMatrix a = new_rows(m);
    for (const AlsOptions& options : objectives()) {
        const auto model = some_model<R>(this->comm, options);
        const auto y = gather_all(model.cols);
        const auto sparse = sparse_rows<R>(this->comm, a);
        BlockRows<R> prior(this->comm, sparse.layout(), k);
        const Philox random(9, Stream::row_factors);
        const auto p = [&](Index i, Index f) { return static_cast<R>(random.normal(i, f)); };
        for (Index i = 0; i < prior.local().rows(); ++i) {
            for (Index f = 0; f < k; ++f) prior.local()(i, f) = p(prior.first_row() + i, f);
        }
        const auto x = gather_all(fold_in_als(sparse, model, options, {&prior, mu}).rows);
        for (Index i = 0; i < m; ++i) {
            if (i == 3) {
                for (Index f = 0; f < k; ++f) EXPECT_EQ(x(i, f), p(i, f));
                continue;
            }
            // every pair with its weight c and target t, by the definition of each objective
            const bool rendle = options.unobserved_weight.has_value();
            DenseMatrix<double> normal(k, k);
            std::vector<double> rhs(k, 0.0);
            double n = 0.0;
            for (Index j = 0; j < cols; ++j) {
                const bool given = a.given(i, j) != 0.0;
                n += given ? 1.0 : 0.0;
                double c = given ? 1.0 : 0.0;
                double t = a.value(i, j) - model.global_mean;
                if (options.implicit) {
                    t = given ? 1.0 : 0.0;
                    c = rendle ? (given ? 1.0 : 0.0)
                               : 1.0 + (given ? options.alpha * a.value(i, j) : 0.0);
                }
                const double all = rendle ? *options.unobserved_weight : 0.0;  // towards 0
                for (Index f = 0; f < k; ++f) {
                    rhs[std::size_t(f)] += c * t * double(y(j, f));
                    for (Index g = 0; g < k; ++g) {
                        normal(f, g) += (c + all) * double(y(j, f)) * double(y(j, g));
                    }
                }
            }
            if (rendle) n += *options.unobserved_weight * double(cols);
            const double ridge = options.lambda * std::pow(n, options.lambda_exponent) + mu;
            for (Index f = 0; f < k; ++f) {
                normal(f, f) += ridge;
                rhs[std::size_t(f)] += mu * double(p(i, f));
            }
            const auto expected = naive_solve(std::move(normal), std::move(rhs));
            for (Index f = 0; f < k; ++f) {
                EXPECT_NEAR(double(x(i, f)), expected[std::size_t(f)], this->tolerance);
            }
        }
    }
}

TYPED_TEST(FoldIn, HasTheSameDigestOnAnyRankAndThreadCount) {
    using R = TypeParam;
    Ledger alone_ledger;
    const Communicator alone(MPI_COMM_SELF, alone_ledger);
    const NaiveMatrix a = new_rows(31);
    for (AlsOptions options : objectives()) {
        auto one = fold_in_als(sparse_rows<R>(alone, a), some_model<R>(alone, options), options);
        options.threads = 2;
        auto many =
            fold_in_als(sparse_rows<R>(this->comm, a), some_model<R>(this->comm, options), options);
        EXPECT_EQ(digest(alone, one.tensors()), digest(this->comm, many.tensors()));
    }
}

TYPED_TEST(FoldIn, GivesTrainingRowsTheBiasesThatTrainingGaveThem) {
    using R = TypeParam;
    const auto a = sparse_rows<R>(this->comm, new_rows(31));
    const AlsOptions options{.k = k, .sweeps = 60, .lambda = 0.5, .biases = true};
    const auto model = als(a, options, Steering{});
    const auto folded = fold_in_als(a, model, options);
    const auto ours = folded.row_bias->local().data();
    const auto theirs = model.row_bias->local().data();
    for (std::size_t i = 0; i < ours.size(); ++i) EXPECT_NEAR(ours[i], theirs[i], 1e-3);
}

TYPED_TEST(FoldIn, SolvesRowsOfWhichAllIsGiven) {
    using R = TypeParam;
    const AlsOptions options{.k = k, .lambda = 0.1};
    auto model = some_model<R>(this->comm, options);
    const auto dense = normal_rows<R>(this->comm, 9, cols, 8);
    NaiveMatrix a{DenseMatrix<double>(9, cols), DenseMatrix<double>(9, cols)};
    const auto whole = gather_all(dense);
    std::ranges::copy(whole.data(), a.value.data().begin());
    a.given.fill(1.0);
    DenseMatrix<double> y(cols, k);
    std::ranges::copy(gather_all(model.cols).data(), y.data().begin());
    DenseMatrix<double> expected(9, k);
    naive_half_sweep(a, false, {options, model.global_mean}, y, expected);
    const auto x = gather_all(fold_in_als(dense, model, options).rows);
    for (std::size_t e = 0; e < x.data().size(); ++e) {
        EXPECT_NEAR(double(x.data()[e]), expected.data()[e], this->tolerance);
    }
}

TYPED_TEST(FoldIn, NamesTheRowThatCannotBeSolved) {
    using R = TypeParam;
    const AlsOptions options{.k = k, .lambda = 0.0};
    NaiveMatrix a = new_rows(6);
    for (Index j = 2; j < cols; ++j) a.given(4, j) = 0.0;
    a.given(4, 0) = 1.0;
    try {
        static_cast<void>(fold_in_als(sparse_rows<R>(this->comm, a),
                                      some_model<R>(this->comm, options), options));
        ADD_FAILURE() << "row 4 has fewer entries than factors and no ridge";
    } catch (const NotPositiveDefinite& error) {
        EXPECT_EQ(error.axis(), "row");
        EXPECT_EQ(error.index(), 4);
    }
}

TYPED_TEST(FoldIn, CutFactorsKeepTheProductAsFarAsTheirRankAllows) {
    using R = TypeParam;
    Factors<R> factors;
    factors.rows = normal_rows<R>(this->comm, 19, 6, 3);
    factors.cols = normal_rows<R>(this->comm, cols, 6, 4);
    for (Index f = 0; f < 6; ++f) factors.singular_values.push_back(static_cast<R>(6 - f));
    const auto whole = product(factors);
    const auto same = product(cut_factors(factors, 8));
    for (std::size_t e = 0; e < whole.data().size(); ++e) {
        EXPECT_NEAR(same.data()[e], whole.data()[e], 100.0 * this->tolerance);
    }
    for (Index f = 4; f < 6; ++f) factors.singular_values[std::size_t(f)] = R{0};
    const auto of_rank_4 = product(factors);
    const Factors<R> cut = cut_factors(factors, 4);
    EXPECT_EQ(cut.k(), 4);
    const auto found = product(cut);
    for (std::size_t e = 0; e < whole.data().size(); ++e) {
        EXPECT_NEAR(found.data()[e], of_rank_4.data()[e], 100.0 * this->tolerance);
    }
}

TYPED_TEST(FoldIn, PlacedRowsComeFromWhereTheMapSaysAndOthersStay) {
    using R = TypeParam;
    const auto from = normal_rows<R>(this->comm, 12, 3, 6);
    const auto whole = gather_all(from);
    DenseMatrix<R> to(5, 4);
    to.fill(R{7});
    const std::vector<Index> map{11, -1, 0, 11, 5};
    place_rows<R>(from, map, to.view());
    for (Index i = 0; i < 5; ++i) {
        for (Index f = 0; f < 4; ++f) {
            const Index source = map[std::size_t(i)];
            EXPECT_EQ(to(i, f), source < 0 || f == 3 ? R{7} : whole(source, f));
        }
    }
}

}  // namespace rankfold::test
