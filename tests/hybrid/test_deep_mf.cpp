#include <rankfold/hybrid/deep_mf.hpp>

#include <cmath>
#include <numeric>

#include <rankfold/core/random.hpp>
#include <rankfold/hybrid/compress.hpp>

#include "hybrid/small_ratings.hpp"
#include "support/mpi_test.hpp"

namespace rankfold::test {

namespace {

/// One of three traits of every row, and one of five: sparse features.
template <Real R>
BlockRowCsr<R> traits(const Communicator& comm, Index rows) {
    const ShardLayout layout = ShardLayout::even(rows, 6, comm.size());
    const Range mine = layout.rank_rows(comm.rank());
    CsrMatrix<R> local;
    local.cols = 8;
    for (Index i = mine.begin; i < mine.end; ++i) {
        local.col_idx.push_back(static_cast<ColIndex>(i % 3));
        local.col_idx.push_back(static_cast<ColIndex>(3 + i % 5));
        local.values.insert(local.values.end(), {R{1}, R{2}});
        local.row_ptr.push_back(local.nnz());
    }
    return {comm, layout, std::move(local)};
}

/// The objectives that towers have.
std::vector<DeepMfOptions> objectives() {
    std::vector<DeepMfOptions> all(5);
    for (DeepMfOptions& o : all) {
        o.als.k = 3;
        o.als.lambda = 0.05;
    }
    all[1].als.implicit = true;  // Hu's form
    all[1].als.alpha = 2.0;
    all[2].als.implicit = true;  // Rendle's
    all[2].als.unobserved_weight = 0.2;
    all[3].als.implicit = true;  // drawn pairs
    all[3].zeros = 2.0;
    all[4].logistic = true;
    all[4].zeros = 3.0;
    return all;
}

/// What is to be read, with all that it is read from.
struct Inputs {
    BlockRowCsr<float> ratings;
    BlockRowCsr<float> row_traits;
    BlockRowCsr<float> col_traits;
    Factors<float> factors;

    explicit Inputs(const Communicator& comm)
        : ratings{small_ratings<float>(comm)},
          row_traits{traits<float>(comm, ratings.rows())},
          col_traits{traits<float>(comm, ratings.cols())},
          factors{als(ratings, AlsOptions{.k = 4, .sweeps = 2}, Steering{})} {}

    [[nodiscard]] std::vector<DeepMfData<float>> all() const {
        std::vector<DeepMfData<float>> list(4);
        list[1].rows = list[1].cols = {};
        list[1].entries = true;
        list[2].entries = true;
        list[2].rows.features = &row_traits;
        list[2].cols.features = &col_traits;
        list[3].rows = {.embeddings = false, .factors = &factors.rows};
        list[3].cols = {.embeddings = false, .factors = &factors.cols};
        return list;
    }
};

double largest(const MatrixView<double>& z) {
    double most = 0.0;
    for (Index i = 0; i < z.rows; ++i) {
        for (const double x : z.row(i)) most = std::max(most, std::abs(x));
    }
    return most;
}

}  // namespace

class DeepMfTest : public MpiTest {
protected:
    Ledger alone_ledger;
    Communicator alone{MPI_COMM_SELF, alone_ledger};

    /// The samples of one side beside factors that are held fixed, and the loss's gradient there.
    double gradient(const BlockRowCsr<double>& a, const RowProblem& problem,
                    const BlockRows<double>& x, const BlockRows<double>& y) {
        const TowerInputs<double> inputs{.factors = &x};
        const TowerRows<double> rows(comm, ShardLayout::even(a.rows(), 4, comm.size()), inputs);
        TowerSamples<double> samples(comm, rows, 4);
        samples.set_pairs(a, problem, false);
        samples.set_other(y);
        const BlockRows<double> mine = redistribute(x, rows.layout());
        DenseMatrix<double> z = mine.local().clone();
        MicroBatch<double> batch;
        std::vector<Index> ids;
        for (Index i = 0; i < z.rows(); ++i) ids.push_back(mine.first_row() + i);
        DenseMatrix<double> read(z.rows(), x.cols());
        batch.inputs.push_back(read.view());
        batch.samples = ids;
        samples.fill(batch);
        loss_gradient<double>(Loss::factorization, batch.targets, 1.0, z.view());
        return largest(z.view());
    }
};

TEST_F(DeepMfTest, TheGradientVanishesWhereAlsHasItsOptimum) {
    const auto a = small_ratings<double>(comm);
    const auto transposed = transpose(a);
    for (const DeepMfOptions& o : objectives()) {
        if (o.samples()) continue;
        AlsOptions options = o.als;
        options.sweeps = 600;
        const auto best = als(a, options, Steering{});
        const double mean = best.global_mean;
        const auto rows = row_problem(options, mean, a.cols());
        const auto cols = row_problem(options, mean, a.rows());
        EXPECT_LT(gradient(a, rows, best.rows, best.cols), 1e-6);
        EXPECT_LT(gradient(transposed, cols, best.cols, best.rows), 1e-6);
        BlockRows<double> moved = best.rows.clone();
        for (double& x : moved.local().data()) x *= 1.01;
        EXPECT_GT(comm.all_reduce(gradient(a, rows, moved, best.cols), Reduce::max), 1e-2);
    }
}

TEST_F(DeepMfTest, TheObjectiveIsTheSumOverAllPairsThatItsDefinitionSays) {
    const auto a = small_ratings<double>(comm);
    const Factors<double> f = als(a, AlsOptions{.k = 3, .sweeps = 1, .implicit = true}, {});
    const DenseMatrix<double> x = gather_all(f.rows);
    const DenseMatrix<double> y = gather_all(f.cols);
    const auto whole = redistribute(a, ShardLayout::even(a.rows(), 4, comm.size()));
    const double alpha = 2.0;
    std::vector<double> expected{0.0};
    for (Index i = 0; i < whole.local().rows(); ++i) {
        const Index row = whole.first_row() + i;
        std::vector<double> value(static_cast<std::size_t>(a.cols()), 0.0);
        for (std::size_t e = 0; e < whole.local().view().row_cols(i).size(); ++e) {
            value[static_cast<std::size_t>(whole.local().view().row_cols(i)[e])] =
                whole.local().view().row_values(i)[e];
        }
        for (Index j = 0; j < a.cols(); ++j) {
            double s = 0.0;
            for (Index k = 0; k < 3; ++k) s += x(row, k) * y(j, k);
            const double v = value[static_cast<std::size_t>(j)];
            const double p = v > 0.0 ? 1.0 : 0.0;
            expected[0] += (1.0 + alpha * std::abs(v)) * (p - s) * (p - s);
        }
    }
    comm.all_reduce(std::span<double>(expected), Reduce::sum);
    const TowerInputs<double> inputs{.factors = &f.rows};
    const TowerRows<double> rows(comm, whole.layout(), inputs);
    TowerSamples<double> samples(comm, rows, 4);
    samples.set_pairs(a, RowProblem::implicit(1.0, alpha, 0.0, 1.0), false);
    samples.set_other(f.cols);
    double ridge = 1.0;
    const double found =
        samples.loss(Loss::factorization, redistribute(f.rows, whole.layout()), ridge);
    EXPECT_NEAR(found, expected[0], 1e-9 * expected[0]);
    EXPECT_EQ(ridge, 0.0);
}

TEST_F(DeepMfTest, LinearTowersReachTheObjectiveOfAls) {
    const auto a = small_ratings<double>(comm);
    for (DeepMfOptions o : objectives()) {
        if (o.samples()) continue;
        AlsOptions reference = o.als;
        reference.sweeps = 200;
        const double wanted = als(a, reference, Steering{}).history.rows.back()[1];
        o.tower.embedding = 6;
        o.train.epochs = 200;
        o.train.batch = 32;
        o.train.optimizer.learning_rate = 0.05;
        const auto model = fit_deep_mf<double>(a, o, {}, Steering{});
        EXPECT_LE(model.factors.history.rows.back()[1], 1.01 * wanted);
    }
}

TEST_F(DeepMfTest, EveryInputAndLossHasTheSameBitsOnAnyRanksAndThreads) {
    const Inputs one(alone);
    const Inputs many(comm);
    std::vector<DeepMfOptions> variants = objectives();
    for (std::size_t v = 0; v < variants.size(); ++v) {
        DeepMfOptions o = variants[v];
        o.tower.embedding = 5;
        if (v % 2 == 0) o.tower.hidden = {6, 5};
        o.tower.dropout = 0.1;
        o.entry_dropout = 0.2;
        o.train.epochs = 2;
        o.train.batch = 32;
        for (std::size_t i = 0; i < one.all().size(); ++i) {
            if (v != 2 && i != v % 4) continue;  // every loss, and every input
            SCOPED_TRACE(concat("objective ", v, ", inputs ", i));
            o.train.threads = 1;
            auto expected = fit_deep_mf(one.ratings, o, one.all()[i], Steering{});
            o.train.threads = 2;
            auto found = fit_deep_mf(many.ratings, o, many.all()[i], Steering{});
            EXPECT_EQ(digest(alone, expected.factors.tensors()),
                      digest(comm, found.factors.tensors()));
            EXPECT_EQ(digest(alone, expected.network.arena().list()),
                      digest(comm, found.network.arena().list()));
        }
    }
}

TEST_F(DeepMfTest, TheObjectiveFallsForEveryInputAndLoss) {
    const Inputs inputs(comm);
    for (DeepMfOptions o : objectives()) {
        o.tower.hidden = {8};
        o.train.epochs = 10;
        o.train.batch = 32;
        for (const auto& data : inputs.all()) {
            const auto model = fit_deep_mf(inputs.ratings, o, data, Steering{});
            const auto& rows = model.factors.history.rows;
            EXPECT_LT(rows.back()[1], rows.front()[1]);
            EXPECT_EQ(model.factors.method, "deepmf");
        }
    }
}

TEST_F(DeepMfTest, TowersBeginAsTheFactorsThatTheyAreGiven) {
    const Inputs inputs(comm);
    DeepMfOptions o = objectives().front();
    o.als.k = 4;
    o.tower.embedding = 4;
    for (const auto& hidden : {std::vector<Index>{}, std::vector<Index>{6}}) {
        o.tower.hidden = hidden;
        DeepMfData<float> as_start = inputs.all()[2];
        as_start.start = &inputs.factors;
        for (const auto& data : {as_start, inputs.all()[3]}) {
            const DeepMf<float> fit(inputs.ratings, o, data);
            const auto x = gather_all(fit.factors().rows);
            const auto wanted = gather_all(inputs.factors.rows);
            for (std::size_t e = 0; e < x.data().size(); ++e) {
                EXPECT_NEAR(x.data()[e], wanted.data()[e], 1e-6F);
            }
        }
    }
}

TEST_F(DeepMfTest, FactoredTowersGoOnAsTheDenseOnesStood) {
    const Inputs inputs(comm);
    DeepMfOptions o = objectives()[4];
    o.tower = {.k = 3, .embedding = 6, .hidden = {8}};
    o.train.epochs = 2;
    o.train.batch = 32;
    for (DeepMfData<float> data : inputs.all()) {
        DeepMf<float> fit(inputs.ratings, o, data);
        fit.run(Steering{});
        const auto statistics = fit.statistics(64, {});
        auto model = fit.finish();
        std::vector<LayerPlan> plan;
        // of full rank: what is left out is rounding
        const std::vector<LayerPrice> prices(stacks(model.network.graph(), false).size(),
                                             {.dense = 100.0, .direction = 1.0});
        auto small =
            compress(comm, model.network,
                     {.method = CompressMethod::activation_svd, .size = 1.0, .prices = prices},
                     statistics, plan);
        for (const LayerPlan& layer : plan) EXPECT_EQ(layer.inner, std::min(layer.out, layer.in));
        data.towers = &small;
        auto same = DeepMf<float>(inputs.ratings, o, data).finish();
        const auto x = gather_all(same.factors.rows);
        const auto wanted = gather_all(model.factors.rows);
        for (std::size_t e = 0; e < x.data().size(); ++e) {
            EXPECT_NEAR(x.data()[e], wanted.data()[e], 1e-3F);
        }
        DeepMf<float> on(inputs.ratings, o, data);
        double objective = 0.0;
        on.run({.after = [&](const Progress& progress, const TensorList&) {
            objective = progress.values.front().second;
            return Verdict::go_on;
        }});
        EXPECT_TRUE(std::isfinite(objective));
        EXPECT_NE(digest(comm, on.finish().factors.tensors()),
                  digest(comm, same.factors.tensors()));
        DeepMfData<float> other = inputs.all()[data.entries ? 0 : 1];
        other.towers = &small;
        expect_error(Fault::input, [&] { DeepMf<float> wrong(inputs.ratings, o, other); });
    }
}

TEST_F(DeepMfTest, StatisticsCountWhatIsReadAndAreTheSameOnAnyRanks) {
    const Inputs inputs(comm);
    const Inputs by_one(alone);
    DeepMfOptions o = objectives()[2];
    o.tower = {.k = 3, .embedding = 5, .hidden = {6}};
    DeepMf<float> many(inputs.ratings, o, inputs.all()[2]);
    DeepMf<float> one(by_one.ratings, o, by_one.all()[2]);
    const auto found = many.statistics(64, {});
    const auto expected = one.statistics(64, {});
    ASSERT_EQ(found.size(), expected.size());
    Index tables = 0;
    for (std::size_t l = 0; l < found.size(); ++l) {
        EXPECT_EQ(found[l].layer, expected[l].layer);
        EXPECT_EQ(found[l].visits, expected[l].visits);
        EXPECT_TRUE(std::ranges::equal(found[l].moments.data(), expected[l].moments.data()));
        EXPECT_TRUE(std::ranges::equal(found[l].importance.data(), expected[l].importance.data()));
        const double all = std::accumulate(found[l].visits.begin(), found[l].visits.end(), 0.0);
        if (found[l].visits.empty()) continue;
        ++tables;
        const bool entries = found[l].layer.ends_with("_entries_embedding");
        const bool free = found[l].layer == "row_embedding" || found[l].layer == "column_embedding";
        const Index rows =
            found[l].layer.starts_with("row") ? inputs.ratings.rows() : inputs.ratings.cols();
        EXPECT_EQ(all, entries ? inputs.ratings.nnz() : free ? rows : 2 * rows);
    }
    EXPECT_EQ(tables, 6);
}

TEST_F(DeepMfTest, AForwardPassGivesKnownRowsTheFactorsThatTheyHave) {
    const Inputs inputs(comm);
    DeepMfOptions o = objectives()[2];
    o.tower.hidden = {6};
    o.train.epochs = 3;
    o.train.batch = 32;
    DeepMfData<float> data = inputs.all()[2];
    data.rows.embeddings = false;
    auto model = fit_deep_mf(inputs.ratings, o, data, Steering{});
    const TowerInputs<float> same{.entries = &inputs.ratings, .features = &inputs.row_traits};
    const auto folded =
        fold_in_deep_mf(comm, model.network, same, inputs.ratings.layout(), Index{2});
    const auto expected = gather_all(model.factors.rows);
    EXPECT_TRUE(std::ranges::equal(gather_all(folded).data(), expected.data()));
    const TowerInputs<float> less{.entries = &inputs.ratings};
    expect_error(Fault::input, [&] {
        static_cast<void>(
            fold_in_deep_mf(comm, model.network, less, inputs.ratings.layout(), Index{1}));
    });
    auto free = fit_deep_mf<float>(inputs.ratings, o, {}, Steering{});
    expect_error(Fault::input, [&] {
        static_cast<void>(
            fold_in_deep_mf(comm, free.network, same, inputs.ratings.layout(), Index{1}));
    });
}

}  // namespace rankfold::test
