#include <rankfold/hybrid/compress.hpp>

#include <rankfold/core/random.hpp>
#include <rankfold/hybrid/neumf.hpp>
#include <rankfold/nn/trainer.hpp>

#include "support/mpi_test.hpp"

namespace rankfold::test {

class Compress : public MpiTest {
protected:
    /// A network whose weights are low-rank plus a little noise.
    static Network<double> network() {
        Network<double> net(dense_chain(30, {24, 20}, 3, Activation::relu, 0.0));
        net.initialize(3);
        const Philox random(1, Stream::weights);
        for (const auto& tensor : net.arena().tensors()) {
            if (tensor.part != Part::weight) continue;
            const auto w = net.arena().matrix(tensor.path);
            for (Index i = 0; i < w.rows; ++i) {
                for (Index j = 0; j < w.cols; ++j) {
                    w(i, j) = 0.01 * w(i, j) + random.normal(i, 1) * random.normal(j, 2) +
                              0.5 * random.normal(i, 3) * random.normal(j, 4);
                }
            }
        }
        return net;
    }
    /// A network on pairs of 90 rows and 70 columns, with tables of full rank.
    static Network<double> pairs() {
        return neumf_network<double>(90, 70, {.factors = 6, .embedding = 5, .hidden = {12, 8}}, 4);
    }
    static std::vector<double> all_scores(Network<double>& net) {
        net.prepare(70);
        Workspace<double> ws = net.workspace(70, Purpose::inference);
        std::vector<double> scores;
        for (Index i = 0; i < 90; ++i) {
            ws.rows = 70;
            for (Index j = 0; j < 70; ++j) {
                ws.indices[0][static_cast<std::size_t>(j)] = i;
                ws.indices[1][static_cast<std::size_t>(j)] = j;
            }
            net.forward(ws);
            for (Index j = 0; j < 70; ++j) scores.push_back(net.output(ws)(j, 0));
        }
        return scores;
    }
    /// How often rows and columns are read: more often the later.
    static std::vector<LayerStatistics> visits() {
        std::vector<LayerStatistics> all;
        for (const char* side : {"row", "column"}) {
            for (const char* table : {"_factors", "_embedding"}) {
                all.push_back({.layer = std::string(side) + table});
                for (Index i = 0; i < (side[0] == 'r' ? 90 : 70); ++i) {
                    all.back().visits.push_back(1.0 + double(i * i));
                }
            }
        }
        return all;
    }
    /// Tables and layers cost the same, dense ones more than factored of full rank.
    static std::vector<LayerPrice> same_prices(const Network<double>& net) {
        return std::vector<LayerPrice>(stacks(net.graph(), false).size(),
                                       {.dense = 100.0, .direction = 1.0});
    }
    static double weights(const Network<double>& net) {
        double sum = 0.0;
        for (const auto& t : net.arena().tensors()) {
            if (t.part != Part::bias) sum += static_cast<double>(t.size());
        }
        return sum;
    }
    static double weights(const std::vector<LayerPlan>& plan) {
        double sum = 0.0;
        for (const auto& layer : plan) sum += static_cast<double>(layer.weights());
        return sum;
    }
};

TEST_F(Compress, AllMethodsKeepTheBudgetAndFindTheLowRankPart) {
    auto net = network();
    const double dense = 30 * 24 + 24 * 20 + 20 * 3;
    for (const auto method : {CompressMethod::svd, CompressMethod::als, CompressMethod::nmf}) {
        std::vector<LayerPlan> plan;
        auto small = compress(comm, net, {.method = method, .size = 0.4, .sweeps = 60}, {}, plan);
        EXPECT_LE(weights(plan), 0.4 * dense);
        EXPECT_EQ(plan.size(), 3U);
        for (const auto& layer : plan) {
            if (layer.inner == 0) continue;
            EXPECT_LT(layer.inner * (layer.out + layer.in), layer.out * layer.in);
            // nonnegative parts need more directions than signed ones
            EXPECT_LT(layer.relative_error, method == CompressMethod::nmf ? 0.8 : 0.05);
        }
        EXPECT_EQ(weights(small), weights(plan));
    }
}

TEST(AllocateRanks, NeverMakesALayerLarger) {
    // measured times may say that factors cost less than they weigh
    const StackShape shape{.layers = {"a"}, .out = 20, .in = 20};
    EXPECT_EQ(shape.too_wide(), 10);
    const std::vector<double> spectrum(20, 1.0);
    const std::vector<LayerPrice> cheap{
        {.dense = 100.0, .base = 0.0, .direction = 1.0, .too_wide = shape.too_wide()}};
    EXPECT_EQ(allocate_ranks(cheap, {spectrum}, 50.0).front(), 9);
    EXPECT_EQ(allocate_ranks(cheap, {spectrum}, 100.0).front(), 0);  // dense is as small, and exact
    EXPECT_EQ(allocate_ranks(cheap, {spectrum}, 5.0).front(), 5);
    const StackShape narrow{.layers = {"b"}, .out = 1, .in = 136};
    const std::vector<LayerPrice> row{
        {.dense = 100.0, .base = 0.0, .direction = 1.0, .too_wide = narrow.too_wide()}};
    EXPECT_EQ(allocate_ranks(row, {{1.0}}, 100.0).front(), 0);  // 137 weights instead of 136
}

TEST_F(Compress, ALayerOfOneSignGetsAllOfItsNonnegativeFactors) {
    for (const double sign : {1.0, -1.0}) {
        auto net = network();
        const auto w = net.arena().matrix("layers/hidden1/weight");
        const Philox random(3, Stream::row_factors);
        for (Index i = 0; i < w.rows; ++i) {
            for (Index j = 0; j < w.cols; ++j) {
                w(i, j) = 0.0;
                for (Index f = 0; f < 4; ++f) {
                    w(i, j) += sign * std::abs(random.normal(i, f) * random.normal(100 + j, f));
                }
            }
        }
        std::vector<LayerPlan> plan;
        const CompressOptions options{.method = CompressMethod::nmf, .size = 0.4, .sweeps = 400};
        static_cast<void>(compress(comm, net, options, {}, plan));
        EXPECT_GT(plan.front().inner, 0);
        EXPECT_LT(plan.front().inner, 8);  // half of which would not do for rank 4
        EXPECT_LT(plan.front().relative_error, 0.05);
    }
}

TEST_F(Compress, FactoredLayersComputeAlmostTheSame) {
    auto net = network();
    std::vector<LayerPlan> plan;
    auto small = compress(comm, net, {.size = 0.5}, {}, plan);
    const auto run = [](Network<double>& n) {
        n.prepare(5);
        Workspace<double> ws = n.workspace(5, Purpose::inference);
        ws.rows = 5;
        for (Index i = 0; i < 5; ++i) {
            for (Index j = 0; j < 30; ++j) ws.inputs[0](i, j) = 0.1 * double((i * 7 + j * 3) % 11);
        }
        n.forward(ws);
        const auto z = n.output(ws);
        return std::vector<double>(z.data, z.data + 15);
    };
    const auto before = run(net);
    const auto after = run(small);
    double scale = 0.0;
    for (const double z : before) scale = std::max(scale, std::abs(z));
    for (std::size_t i = 0; i < before.size(); ++i) {
        EXPECT_NEAR(after[i], before[i], 0.02 * scale);
    }
}

TEST_F(Compress, AllocationSpendsTheBudgetWhereItExplainsMost) {
    const std::vector<StackShape> shapes{{{"a"}, 100, 100}, {{"b"}, 100, 100}, {{"c"}, 4, 3}};
    const std::vector<std::vector<double>> spectra{{10, 1, 0.1, 0.01}, {10, 9, 8, 7}, {1, 1, 1}};
    const auto prices = weight_prices(shapes);
    const auto inner = allocate_ranks(prices, spectra, 5 * 200 + 12);
    EXPECT_EQ(inner, (std::vector<Index>{1, 4, 0}));  // 4 x 3 cannot get smaller: it stays dense
    const std::string message = expect_error(
        Fault::input, [&] { static_cast<void>(allocate_ranks(prices, spectra, 300)); });
    EXPECT_NE(message.find("a larger one"), std::string::npos);
}

/// Samples of a classification whose inputs do not fill their space: a few directions carry most.
struct SkewedSamples {
    const Communicator& comm_;
    [[nodiscard]] const Communicator& comm() const { return comm_; }
    [[nodiscard]] Index samples() const { return 600; }
    [[nodiscard]] Index blocks() const { return 4; }
    void fill(MicroBatch<double>& batch) const {
        const Philox random(5, Stream::weights);
        batch.targets.labels.clear();
        for (std::size_t s = 0; s < batch.samples.size(); ++s) {
            const Index id = batch.samples[s];
            auto x = batch.inputs[0].row(static_cast<Index>(s));
            for (std::size_t j = 0; j < x.size(); ++j) {
                x[j] = random.normal(id, static_cast<Index>(j)) * (j % 7 == 0 ? 3.0 : 0.1);
            }
            batch.targets.labels.push_back(x[0] > 0 ? 0 : x[7] > 0 ? 1 : 2);
        }
    }
};

TEST_F(Compress, TheActivationAwareSvdChangesOutputsLeast) {
    Network<double> net(dense_chain(30, {}, 20, Activation::relu, 0.0));
    net.initialize(3);
    const SkewedSamples samples{comm};
    const auto statistics = layer_statistics<double>(net, samples, Loss::classes, 600);
    ASSERT_EQ(statistics.size(), 1U);
    // Σ ‖(W − Ŵ) x‖² / samples = ⟨D C, D⟩ for D = W − Ŵ
    const auto error = [&](CompressMethod method) {
        std::vector<LayerPlan> plan;
        auto small = compress(comm, net, {.method = method, .size = 0.4}, statistics, plan);
        const auto w = net.arena().matrix("layers/output/weight");
        const auto u = small.arena().matrix("layers/output/u");
        const auto v = small.arena().matrix("layers/output/v");
        double sum = 0.0;
        for (Index o = 0; o < 20; ++o) {
            std::vector<double> d(30);
            for (Index j = 0; j < 30; ++j) {
                d[static_cast<std::size_t>(j)] = w(o, j);
                for (Index f = 0; f < u.cols; ++f)
                    d[static_cast<std::size_t>(j)] -= u(o, f) * v(j, f);
            }
            for (Index i = 0; i < 30; ++i) {
                for (Index j = 0; j < 30; ++j) {
                    sum += d[static_cast<std::size_t>(i)] * statistics[0].moments(i, j) *
                           d[static_cast<std::size_t>(j)];
                }
            }
        }
        return sum;
    };
    EXPECT_LT(error(CompressMethod::activation_svd), 0.5 * error(CompressMethod::svd));
}

TEST_F(Compress, StatisticsAreThoseOfASlowReference) {
    auto net = network();
    const SkewedSamples samples{comm};
    const auto found = layer_statistics<double>(net, samples, Loss::classes, 600);
    double worst = 0.0;
    for (Index i = 0; i < 30; ++i) {
        for (Index j = 0; j < 30; ++j) {
            double mean = 0.0;
            const Philox random(5, Stream::weights);
            const auto x = [&](Index id, Index c) {
                return random.normal(id, c) * (c % 7 == 0 ? 3.0 : 0.1);
            };
            for (Index id = 0; id < 600; ++id) mean += x(id, i) * x(id, j) / 600.0;
            worst = std::max(worst, std::abs(mean - found[0].moments(i, j)));
        }
    }
    EXPECT_LT(worst, 1e-10);
    EXPECT_EQ(found.size(), 3U);
    for (const auto& layer : found) {
        for (const double square : layer.importance.data()) EXPECT_GE(square, 0.0);
    }
}

TEST_F(Compress, ImportanceInTrainingIsAdamsSecondMoment) {
    Ledger alone_ledger;
    const Communicator alone(MPI_COMM_SELF, alone_ledger);
    const auto trained = [&](const Communicator& c, bool owners, Method method) {
        auto net = network();
        const SkewedSamples samples{c};
        Trainer<double> trainer(
            net, SamplesRef<double>(samples), Loss::classes,
            {.epochs = 1, .batch = 60, .optimizer = {.method = method}, .owner_updates = owners});
        trainer.run(Steering{});
        const TensorList state = trainer.state(1);
        auto importance = moment_importance(c, net, state);
        if (c.size() == 1 && method != Method::sgd) {
            for (const auto& layer : importance) {
                const auto tensor = std::ranges::find(
                    state.tensors, "moments/second/layers/" + layer.layer + "/weight",
                    &Tensor::path);
                const auto own = std::get<std::span<double>>(tensor->data);
                EXPECT_TRUE(std::ranges::equal(layer.importance.data(), own));
                EXPECT_GT(std::ranges::max(own), 0.0);
            }
        }
        return importance;
    };
    EXPECT_TRUE(trained(comm, true, Method::sgd).empty());
    const auto expected = trained(alone, true, Method::adam);
    ASSERT_EQ(expected.size(), 3U);
    for (const bool owners : {true, false}) {
        const auto found = trained(comm, owners, Method::adam);
        ASSERT_EQ(found.size(), expected.size());
        for (std::size_t l = 0; l < found.size(); ++l) {
            EXPECT_TRUE(
                std::ranges::equal(found[l].importance.data(), expected[l].importance.data()));
        }
    }
}

TEST_F(Compress, ImportanceWeightedAlsHasNoGradientLeft) {
    auto net = network();
    const SkewedSamples samples{comm};
    const auto statistics = layer_statistics<double>(net, samples, Loss::classes, 600);
    std::vector<LayerPlan> plan;
    auto small = compress(comm, net, {.method = CompressMethod::als, .size = 0.5, .sweeps = 200},
                          statistics, plan);
    // V minimises Σ c (W − U Vᵀ)² with U fixed, column by column: Σ_i c_ij (W − U Vᵀ)_ij u_if = 0
    const auto w = net.arena().matrix("layers/hidden1/weight");
    const auto u = small.arena().matrix("layers/hidden1/u");
    const auto v = small.arena().matrix("layers/hidden1/v");
    const auto& importance = statistics[0].importance;
    double mean = 0.0;
    for (const double x : importance.data()) mean += x / double(importance.data().size());
    for (Index j = 0; j < w.cols; ++j) {
        for (Index f = 0; f < u.cols; ++f) {
            double gradient = 0.0;
            double scale = 0.0;
            for (Index i = 0; i < w.rows; ++i) {
                double rest = w(i, j);
                for (Index g = 0; g < u.cols; ++g) rest -= u(i, g) * v(j, g);
                const double c = importance(i, j) / mean + 0.01;
                gradient += c * rest * u(i, f);
                scale += c * std::abs(w(i, j) * u(i, f));
            }
            EXPECT_NEAR(gradient, 0.0, 1e-5 * scale);
        }
    }
}

TEST_F(Compress, StackedLayersShareOneFactor) {
    Graph graph = dense_chain(32, {32, 24}, 20, Activation::relu, 0.0);
    Network<double> net(graph);
    net.initialize(2);
    std::vector<LayerPlan> plan;
    auto small = compress(comm, net, {.size = 0.4, .joint = true}, {}, plan);
    ASSERT_EQ(plan.size(), 3U);  // hidden1 and hidden2 read 32 numbers each
    EXPECT_EQ(plan[0].inner, plan[1].inner);
    EXPECT_FALSE(plan[0].shares_v);
    EXPECT_TRUE(plan[1].shares_v);
    EXPECT_LE(weights(plan), 0.4 * (32 * 32 + 24 * 32 + 24 * 20));
    EXPECT_EQ(small.graph().layers[1].v_of, "hidden1");
    EXPECT_EQ(Graph::parse(small.graph().text()), small.graph());
    EXPECT_EQ(weights(small), weights(plan));  // V stands there once
    // at full rank the stack is the layers themselves
    auto whole =
        compress(comm, net,
                 {.size = 1.0,
                  .joint = true,
                  .prices = {{.dense = 100, .direction = 1}, {.dense = 100, .direction = 1}}},
                 {}, plan);
    ASSERT_EQ(plan.size(), 3U);
    EXPECT_EQ(plan[0].inner, plan[1].inner);
    EXPECT_GT(plan[0].inner, 0);
    for (const auto& layer : plan) EXPECT_LT(layer.relative_error, 1e-12);
}

TEST_F(Compress, ProjectedWeightsAreThoseOfTheFactoredLayers) {
    auto net = network();
    auto copy = network();
    std::vector<LayerPlan> plan;
    auto small = compress(comm, net, {.size = 0.4}, {}, plan);
    project_weights(comm, copy, {.size = 0.4});
    const auto w = copy.arena().matrix("layers/hidden1/weight");
    const auto u = small.arena().matrix("layers/hidden1/u");
    const auto v = small.arena().matrix("layers/hidden1/v");
    for (Index i = 0; i < w.rows; ++i) {
        for (Index j = 0; j < w.cols; ++j) {
            double product = 0.0;
            for (Index f = 0; f < u.cols; ++f) product += u(i, f) * v(j, f);
            EXPECT_NEAR(w(i, j), product, 1e-12);
        }
    }
}

TEST_F(Compress, TablesOfFullRankGiveTheSameScores) {
    auto net = pairs();
    const auto expected = all_scores(net);
    for (const auto method : {CompressMethod::svd, CompressMethod::activation_svd}) {
        auto statistics = visits();
        std::vector<LayerPlan> plan;
        const bool aware = method == CompressMethod::activation_svd;
        auto prices = same_prices(net);
        const auto shapes = stacks(net.graph(), false);
        for (std::size_t s = 0; s < shapes.size(); ++s) {
            if (aware && !shapes[s].table) prices[s] = {.dense = 1.0, .base = 1.0};  // stay dense
            if (aware && !shapes[s].table) {
                statistics.push_back({.layer = shapes[s].layers.front(),
                                      .moments = DenseMatrix<double>(shapes[s].in, shapes[s].in)});
            }
        }
        auto small = compress(comm, net, {.method = method, .size = 1.0, .prices = prices},
                              statistics, plan);
        Index tables = 0;
        for (const auto& layer : plan) {
            if (!layer.table) continue;
            ++tables;
            EXPECT_EQ(layer.inner, layer.in);
            EXPECT_LT(layer.relative_error, 1e-12);
            EXPECT_EQ(small.arena().matrix("embeddings/" + layer.layer + "_table").rows, layer.out);
        }
        EXPECT_EQ(tables, 4);
        const auto found = all_scores(small);
        for (std::size_t e = 0; e < found.size(); ++e) EXPECT_NEAR(found[e], expected[e], 1e-12);
    }
}

TEST_F(Compress, OftenReadRowsOfATableCountForMore) {
    auto net = pairs();
    const auto statistics = visits();
    const auto error = [&](CompressMethod method) {
        std::vector<LayerPlan> plan;
        auto small = Network<double>(net.graph());
        auto prices = same_prices(net);
        const auto shapes = stacks(net.graph(), false);
        auto given = visits();
        double budget = 3.0;  // directions of one table; all else stays dense
        for (std::size_t s = 0; s < shapes.size(); ++s) {
            if (shapes[s].layers.front() == "row_factors") continue;
            prices[s] = {.dense = 1.0, .base = 1.0};
            budget += 1.0;
            if (shapes[s].table) continue;
            given.push_back({.layer = shapes[s].layers.front(),
                             .moments = DenseMatrix<double>(shapes[s].in, shapes[s].in)});
        }
        const double dense = 100.0 + budget - 3.0;
        auto cut = compress(comm, net, {.method = method, .size = budget / dense, .prices = prices},
                            given, plan);
        const auto t = net.arena().matrix("embeddings/row_factors");
        const auto u = cut.arena().matrix("embeddings/row_factors_table");
        const auto v = cut.arena().matrix("layers/row_factors/weight");
        EXPECT_EQ(u.cols, 3);
        double sum = 0.0;
        for (Index i = 0; i < t.rows; ++i) {
            for (Index j = 0; j < t.cols; ++j) {
                double rest = t(i, j);
                for (Index f = 0; f < u.cols; ++f) rest -= u(i, f) * v(j, f);
                sum += statistics[0].visits[static_cast<std::size_t>(i)] * rest * rest;
            }
        }
        return sum;
    };
    const double plain = error(CompressMethod::svd);
    const double aware = error(CompressMethod::activation_svd);
    const double weighted = error(CompressMethod::als);
    EXPECT_LT(weighted, plain);
    EXPECT_LT(aware, plain);
    // the weights are of rank one, so that ALS minimises the same: row weights c_i + floor
    EXPECT_NEAR(weighted, aware, 0.01 * aware);
}

TEST_F(Compress, GivesTheSameBitsOnAnyRanks) {
    Ledger alone_ledger;
    const Communicator alone(MPI_COMM_SELF, alone_ledger);
    auto net = network();
    const SkewedSamples by_one{alone};
    const SkewedSamples by_many{comm};
    const auto of_one = layer_statistics<double>(net, by_one, Loss::classes, 300);
    const auto of_many = layer_statistics<double>(net, by_many, Loss::classes, 300);
    for (const auto method : {CompressMethod::svd, CompressMethod::activation_svd,
                              CompressMethod::als, CompressMethod::nmf}) {
        std::vector<LayerPlan> plan;
        auto one = compress(alone, net, {.method = method, .size = 0.4}, of_one, plan);
        auto many = compress(comm, net, {.method = method, .size = 0.4}, of_many, plan);
        EXPECT_EQ(digest(alone, one.arena().list()), digest(comm, many.arena().list()));
        if (method == CompressMethod::activation_svd) continue;  // wants the tower's moments
        auto tables = pairs();
        const CompressOptions o{
            .method = method, .size = 0.04, .sweeps = 5, .prices = same_prices(tables)};
        auto alone_small = compress(alone, tables, o, visits(), plan);
        auto small = compress(comm, tables, o, visits(), plan);
        EXPECT_EQ(digest(alone, alone_small.arena().list()), digest(comm, small.arena().list()));
    }
}

}  // namespace rankfold::test
