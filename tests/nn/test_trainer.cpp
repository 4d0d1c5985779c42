#include <limits>

#include <rankfold/core/random.hpp>
#include <rankfold/nn/negative_samples.hpp>
#include <rankfold/nn/row_samples.hpp>
#include <rankfold/nn/trainer.hpp>

#include "reference/naive_mlp.hpp"
#include "support/mpi_test.hpp"

namespace rankfold::test {

namespace {

constexpr Index width = 6;
constexpr Index classes = 3;

template <Real R>
struct Problem {
    BlockRows<R> rows;
    BlockRows<Index> labels;

    Problem(const Communicator& comm, Index m)
        : rows(comm, ShardLayout::even(m, 5, comm.size()), width), labels(comm, rows.layout(), 1) {
        const Philox random(4, Stream::synthetic_entry);
        for (Index i = 0; i < rows.local().rows(); ++i) {
            const Index row = rows.first_row() + i;
            labels.local()(i, 0) = random.below(classes, row, 77);
            for (Index j = 0; j < width; ++j) {
                rows.local()(i, j) = static_cast<R>(random.normal(row, j));
            }
        }
    }
};

Graph small_graph(double dropout = 0.0) {
    return dense_chain(width, {9, 5}, classes, Activation::tanh, dropout);
}

TrainOptions options_for(Method method) {
    TrainOptions options;
    options.epochs = 3;
    options.batch = 16;
    options.optimizer.method = method;
    options.optimizer.learning_rate = 0.05;
    return options;
}

/// The digest of a network trained on `comm`, and the history of its loss.
template <Real R>
std::pair<std::uint64_t, History> trained(const Communicator& comm, Index m, Index blocks,
                                          const TrainOptions& options,
                                          const Graph& graph = small_graph(0.3)) {
    const Problem<R> problem(comm, m);
    const RowSamples<R> samples(problem.rows, 1.0, problem.labels, classes, blocks);
    Network<R> network(graph);
    network.initialize(1);
    Trainer<R> trainer(network, SamplesRef<R>(samples), Loss::classes, options);
    History history = trainer.run({});
    return {digest(comm, trainer.state(0)), std::move(history)};
}

std::vector<NaiveLayer> naive_layers(Network<double>& network) {
    std::vector<NaiveLayer> layers;
    for (const LayerSpec& spec : network.graph().layers) {
        NaiveLayer& layer = layers.emplace_back();
        layer.activation = spec.activation;
        const auto weight = network.arena().matrix("layers/" + spec.name + "/weight");
        for (Index i = 0; i < weight.rows; ++i) {
            layer.weight.emplace_back(weight.row(i).begin(), weight.row(i).end());
        }
        const auto bias = network.arena().matrix("layers/" + spec.name + "/bias").row(0);
        layer.bias.assign(bias.begin(), bias.end());
    }
    return layers;
}

/// The batches of an epoch by the rule: every block's next batch / blocks of its own permutation.
std::vector<std::vector<NaiveSample>> naive_batches(Index m, Index blocks, Index batch,
                                                    Index epoch) {
    const Philox random(4, Stream::synthetic_entry);
    const Philox shuffle(1, Stream::shuffle);
    const Index each = batch / blocks;
    std::vector<std::vector<NaiveSample>> batches;
    for (Index b = 0; b < blocks; ++b) {
        const Range block = even_part(m, blocks, b);
        const auto order = shuffle.permutation(block.size(), epoch * blocks + b);
        for (Index i = 0; i < block.size(); ++i) {
            const auto step = static_cast<std::size_t>(i / each);
            if (batches.size() <= step) batches.resize(step + 1);
            const Index row = block.begin + order[static_cast<std::size_t>(i)];
            NaiveSample& sample = batches[step].emplace_back();
            for (Index j = 0; j < width; ++j) sample.input.push_back(random.normal(row, j));
            sample.target.assign(static_cast<std::size_t>(classes), 0.0);
            sample.target[static_cast<std::size_t>(random.below(classes, row, 77))] = 1.0;
        }
    }
    return batches;
}

}  // namespace

class TrainerTest : public MpiTest {};

TEST_F(TrainerTest, MatchesTheNaiveTrainingInDoubleWithAnUnevenLastBatch) {
    constexpr Index m = 45;  // blocks of 11, 11, 11, 12; the last batch has one sample
    constexpr Index blocks = 4;
    for (const Method method : {Method::adam, Method::adamw, Method::sgd}) {
        TrainOptions options = options_for(method);
        options.batch = 12;
        options.optimizer.weight_decay = 0.01;
        if (method != Method::adam) options.optimizer.clip = 0.1;
        const Problem<double> problem(comm, m);
        const RowSamples<double> samples(problem.rows, 1.0, problem.labels, classes, blocks);
        Network<double> network(small_graph());
        network.initialize(1);
        NaiveMlp naive(naive_layers(network), Loss::classes, options.optimizer);
        Trainer<double> trainer(network, SamplesRef<double>(samples), Loss::classes, options);
        const History history = trainer.run({});
        const Index steps = trainer.steps_per_epoch();
        EXPECT_EQ(steps, 4);
        for (Index e = 0; e < options.epochs; ++e) {
            const double loss = naive.train(naive_batches(m, blocks, options.batch, e), e * steps,
                                            options.epochs * steps);
            EXPECT_NEAR(history.rows[static_cast<std::size_t>(e)][1], loss, 1e-10);
        }
        const auto found = naive_layers(network);
        for (std::size_t l = 0; l < found.size(); ++l) {
            for (std::size_t o = 0; o < found[l].bias.size(); ++o) {
                EXPECT_NEAR(found[l].bias[o], naive.layers()[l].bias[o], 1e-9);
                for (std::size_t i = 0; i < found[l].weight[o].size(); ++i) {
                    EXPECT_NEAR(found[l].weight[o][i], naive.layers()[l].weight[o][i], 1e-9);
                }
            }
        }
    }
}

TEST_F(TrainerTest, GivesTheSameBitsOnAnyNumberOfRanksAndThreads) {
    const auto alone = comm.split(comm.rank());
    struct Case {
        Index m;
        Index blocks;
        Index batch;
    };
    for (const auto& [m, blocks, batch] :
         {Case{64, 4, 16}, Case{61, 4, 16},  // an uneven last batch
          Case{57, 8, 16},                   // blocks, hence ranks, with no sample in the last one
          Case{50, 6, 18}, Case{40, 2, 8},   // fewer blocks than ranks
          Case{3, 4, 8}}) {                  // empty blocks
        for (const Method method : {Method::adam, Method::sgd}) {
            SCOPED_TRACE(concat(m, " samples, ", blocks, " blocks, batch ", batch));
            TrainOptions options = options_for(method);
            options.batch = batch;
            const auto expected = trained<float>(*alone, m, blocks, options);
            for (const Index threads : {1, 3}) {
                options.threads = threads;
                const auto found = trained<float>(comm, m, blocks, options);
                EXPECT_EQ(found.first, expected.first);
                EXPECT_EQ(found.second.rows, expected.second.rows);
            }
        }
    }
}

TEST_F(TrainerTest, GivesTheSameBitsForLayersOfSeveralTilesAndBuckets) {
    const auto alone = comm.split(comm.rank());
    const Graph graph = dense_chain(width, {600, 700}, classes, Activation::relu, 0.0);
    TrainOptions options = options_for(Method::adam);
    options.epochs = 1;
    options.batch = 32;
    Network<float> network(graph);
    EXPECT_GT(network.arena().bucket_ends(1 << 18).size(), 1U);
    const auto expected = trained<float>(*alone, 60, 4, options, graph);
    EXPECT_EQ(trained<float>(comm, 60, 4, options, graph).first, expected.first);
}

TEST_F(TrainerTest, AllRanksUpdatingEverythingGivesTheBitsOfOwnerUpdates) {
    TrainOptions options = options_for(Method::adamw);
    options.optimizer.clip = 0.5;
    const auto owner = trained<float>(comm, 61, 4, options);
    pretend_ranks_a_host(2);
    EXPECT_EQ(trained<float>(comm, 61, 4, options).first, owner.first);
    pretend_ranks_a_host(0);
    options.owner_updates = false;
    EXPECT_EQ(trained<float>(comm, 61, 4, options).first, owner.first);
}

TEST_F(TrainerTest, SeveralPassesGiveTheSameBitsOnAnyNumberOfRanks) {
    const auto alone = comm.split(comm.rank());
    TrainOptions options = options_for(Method::adam);
    options.accumulate = 3;
    const auto expected = trained<float>(*alone, 61, 4, options);
    EXPECT_EQ(trained<float>(comm, 61, 4, options).first, expected.first);
    options.accumulate = 1;
    const auto whole = trained<float>(comm, 61, 4, options);
    EXPECT_NEAR(whole.second.rows.back()[1], expected.second.rows.back()[1], 1e-4);
}

TEST_F(TrainerTest, TheFastModesLearnTheSame) {
    TrainOptions options = options_for(Method::adam);
    const auto slow = trained<double>(comm, 61, 4, options);
    options.reproducible = false;
    for (const bool owner : {true, false}) {
        options.owner_updates = owner;
        const auto fast = trained<double>(comm, 61, 4, options);
        EXPECT_NEAR(fast.second.rows.back()[1], slow.second.rows.back()[1], 1e-9);
    }
}

/// Embeddings of 30 rows and 20 columns that meet in a dot product and in a tower.
Graph pair_graph() {
    Graph graph;
    graph.inputs = {{.name = "row", .width = 30, .index = true},
                    {.name = "column", .width = 20, .index = true}};
    graph.layers = {
        {.name = "p", .kind = LayerKind::embedding, .inputs = {"row"}, .outputs = 5},
        {.name = "u", .kind = LayerKind::embedding, .inputs = {"row"}, .outputs = 3},
        {.name = "q", .kind = LayerKind::embedding, .inputs = {"column"}, .outputs = 5},
        {.name = "dot", .kind = LayerKind::dot, .inputs = {"p", "q"}, .outputs = 1},
        {.name = "pair", .kind = LayerKind::concat, .inputs = {"u", "q"}, .outputs = 8},
        {.name = "tower",
         .inputs = {"pair"},
         .outputs = 6,
         .activation = Activation::relu,
         .dropout = 0.2},
        {.name = "both", .kind = LayerKind::concat, .inputs = {"dot", "tower"}, .outputs = 7},
        {.name = "output", .inputs = {"both"}, .outputs = 1}};
    return graph;
}

/// Three entries in each of the first 28 rows.
BlockRowCsr<float> pair_matrix(const Communicator& on) {
    const ShardLayout layout = ShardLayout::even(30, 7, on.size());
    const Range mine = layout.rank_rows(on.rank());
    CsrMatrix<float> local;
    local.cols = 20;
    for (Index i = mine.begin; i < mine.end; ++i) {
        for (Index e = 0; i < 28 && e < 3; ++e) {
            local.col_idx.push_back(static_cast<ColIndex>(i % 6 + 5 * e));
            local.values.push_back(1.0F);
        }
        local.row_ptr.push_back(local.nnz());
    }
    return {on, layout, std::move(local)};
}

TEST_F(TrainerTest, EmbeddingsAndDrawnPairsGiveTheSameBitsOnAnyNumberOfRanks) {
    const auto alone = comm.split(comm.rank());
    const auto run = [](const Communicator& on, NegativeUse use, Method method, Index threads) {
        const auto matrix = pair_matrix(on);
        const NegativeSamples<float> samples(matrix, 2, use, 4, 3);
        Network<float> network(pair_graph());
        network.initialize(1);
        TrainOptions options = options_for(method);
        options.optimizer.clip = 0.3;
        options.optimizer.weight_decay = 0.01;
        options.threads = threads;
        Trainer<float> trainer(network, SamplesRef<float>(samples),
                               use == NegativeUse::ranked ? Loss::ranking : Loss::logistic,
                               options);
        const History history = trainer.run({});
        EXPECT_LT(history.rows.back()[1], history.rows.front()[1]);
        return digest(on, trainer.state(0));
    };
    for (const auto use : {NegativeUse::labelled, NegativeUse::ranked}) {
        for (const Method method : {Method::adam, Method::sgd}) {
            const auto expected = run(*alone, use, method, 1);
            EXPECT_EQ(run(comm, use, method, 1), expected);
            EXPECT_EQ(run(comm, use, method, 2), expected);
        }
    }
}

TEST_F(TrainerTest, RowsThatNoSampleNamesStandStill) {
    const auto matrix = pair_matrix(comm);
    const NegativeSamples<float> samples(matrix, 1, NegativeUse::labelled, 4, 3);
    Network<float> network(pair_graph());
    network.initialize(1);
    const auto p = network.arena().matrix("embeddings/p");
    const std::vector<float> untouched(p.row(29).begin(), p.row(29).end());
    const std::vector<float> named(p.row(3).begin(), p.row(3).end());
    Trainer<float> trainer(network, SamplesRef<float>(samples), Loss::logistic,
                           options_for(Method::adam));
    trainer.run({});
    EXPECT_TRUE(std::ranges::equal(untouched, p.row(29)));
    EXPECT_FALSE(std::ranges::equal(named, p.row(3)));
}

TEST_F(TrainerTest, SchedulesWarmUpAndStepDown) {
    OptimizerOptions options{.learning_rate = 1.0,
                             .schedule = Schedule::step,
                             .warm_up = 1.0,
                             .step_epochs = 2.0,
                             .step_factor = 0.1};
    const auto rate = [&](Index step) {
        return learning_rate(options, {.step = step, .steps = 60, .steps_per_epoch = 10});
    };
    EXPECT_LT(rate(0), 0.1);
    EXPECT_LT(rate(5), rate(9));
    EXPECT_DOUBLE_EQ(rate(10), 1.0);
    EXPECT_DOUBLE_EQ(rate(20), 0.1);
    EXPECT_NEAR(rate(40), 0.01, 1e-15);
}

TEST_F(TrainerTest, DropoutDependsOnTheSeedAlone) {
    TrainOptions options = options_for(Method::adam);
    const auto first = trained<float>(comm, 64, 4, options);
    EXPECT_EQ(trained<float>(comm, 64, 4, options).first, first.first);
    options.seed = 2;
    EXPECT_NE(trained<float>(comm, 64, 4, options).first, first.first);
}

TEST_F(TrainerTest, StopsOnRequestAndGoesOnFromItsStateToTheSameBits) {
    const TrainOptions options = options_for(Method::adam);
    const Problem<float> problem(comm, 61);
    const RowSamples<float> samples(problem.rows, 1.0, problem.labels, classes, 4);
    Network<float> whole(small_graph(0.3));
    whole.initialize(1);
    Trainer<float> undisturbed(whole, SamplesRef<float>(samples), Loss::classes, options);
    undisturbed.run({});

    Network<float> first(small_graph(0.3));
    first.initialize(1);
    Trainer<float> stopped(first, SamplesRef<float>(samples), Loss::classes, options);
    Steering stop;
    stop.after = [](const Progress& progress, const TensorList& state) {
        EXPECT_EQ(state.scalars.at("epoch"), static_cast<double>(progress.step));
        return progress.step == 2 ? Verdict::stop : Verdict::go_on;
    };
    EXPECT_EQ(stopped.run(stop).rows.size(), 2U);

    Network<float> second(small_graph(0.3));
    Trainer<float> resumed(second, SamplesRef<float>(samples), Loss::classes, options);
    const TensorList saved = stopped.state(2);
    Steering resume;
    resume.restore = [&](TensorList& state) {
        for (std::size_t t = 0; t < state.tensors.size(); ++t) {
            std::ranges::copy(std::get<std::span<float>>(saved.tensors[t].data),
                              std::get<std::span<float>>(state.tensors[t].data).begin());
        }
        return Index{2};
    };
    resumed.run(resume);
    EXPECT_EQ(digest(comm, resumed.state(3)), digest(comm, undisturbed.state(3)));
}

TEST_F(TrainerTest, TellsItsMomentsInGlobalLayout) {
    const auto alone = comm.split(comm.rank());
    const auto names = [](const TensorList& state) {
        std::vector<std::string> list;
        for (const Tensor& tensor : state.tensors) {
            list.push_back(concat(tensor.path, " ", tensor.shape.front()));
        }
        return list;
    };
    const auto state_on = [&](const Communicator& on) {
        const Problem<float> problem(on, 20);
        const RowSamples<float> samples(problem.rows, 1.0, problem.labels, classes, 4);
        Network<float> network(small_graph());
        Trainer<float> trainer(network, SamplesRef<float>(samples), Loss::classes,
                               options_for(Method::adam));
        return names(trainer.state(0));
    };
    EXPECT_EQ(state_on(comm), state_on(*alone));
}

TEST_F(TrainerTest, ALossThatIsNotFiniteNamesLayerAndStepOnAllRanks) {
    Problem<float> problem(comm, 40);
    if (problem.rows.layout().rank_rows(comm.rank()).contains(37)) {
        problem.rows.local()(37 - problem.rows.first_row(), 2) =
            std::numeric_limits<float>::infinity();
    }
    const RowSamples<float> samples(problem.rows, 1.0, problem.labels, classes, 4);
    Network<float> network(small_graph());
    network.initialize(1);
    Trainer<float> trainer(network, SamplesRef<float>(samples), Loss::classes,
                           options_for(Method::adam));
    const std::string message = expect_error(Fault::check, [&] { trainer.run({}); });
    EXPECT_NE(message.find("layer hidden1"), std::string::npos) << message;
    EXPECT_NE(message.find("sample 37"), std::string::npos) << message;
    EXPECT_NE(message.find("step "), std::string::npos) << message;
}

TEST_F(TrainerTest, AGradientThatOverflowsNamesItsLayer) {
    Problem<float> problem(comm, 40);
    for (float& x : problem.rows.local().data()) x *= 1e30F;
    const RowSamples<float> samples(problem.rows, 1.0, problem.labels, classes, 4);
    Network<float> network(small_graph());  // tanh saturates: the loss stays finite
    for (float& w : network.arena().matrix("layers/hidden1/weight").row(0)) w = 1e-30F;
    for (const char* path : {"layers/hidden2/weight", "layers/output/weight"}) {
        const auto weight = network.arena().matrix(path);
        for (Index i = 0; i < weight.rows; ++i) std::ranges::fill(weight.row(i), 1e-3F);
    }
    for (float& w : network.arena().matrix("layers/output/weight").row(0)) w = 1e14F;
    Trainer<float> trainer(network, SamplesRef<float>(samples), Loss::classes,
                           options_for(Method::adam));
    const std::string message = expect_error(Fault::check, [&] { trainer.run({}); });
    EXPECT_NE(message.find("gradient of layer hidden1"), std::string::npos) << message;
}

TEST_F(TrainerTest, ABatchSmallerThanItsMicroBatchesIsRefused) {
    const Problem<float> problem(comm, 40);
    const RowSamples<float> samples(problem.rows, 1.0, problem.labels, classes, 8);
    Network<float> network(small_graph());
    TrainOptions options;
    options.batch = 7;
    expect_error(Fault::input, [&] {
        Trainer<float>(network, SamplesRef<float>(samples), Loss::classes, options);
    });
}

TEST_F(TrainerTest, SendsTheBytesThatItPredictsAndCountsItsFlops) {
    const TrainOptions options = options_for(Method::adam);
    const Problem<float> problem(comm, 64);
    const RowSamples<float> samples(problem.rows, 1.0, problem.labels, classes, 4);
    Network<float> network(small_graph());
    network.initialize(1);
    Trainer<float> trainer(network, SamplesRef<float>(samples), Loss::classes, options);
    trainer.run({});
    double flops = 0.0;
    for (const PhaseRecord& phase : ledger.phases()) {
        for (const char* name :
             {"forward", "backward", "gradient sum", "update", "gather parameters"}) {
            if (phase.name != name) continue;
            EXPECT_DOUBLE_EQ(phase.bytes_sent, phase.bytes_predicted) << name;
            flops += phase.flops;
        }
    }
    constexpr double first = 6.0 * 9.0;
    constexpr double rest = 9.0 * 5.0 + 5.0 * 3.0;
    EXPECT_DOUBLE_EQ(comm.all_reduce(flops, Reduce::sum), 3.0 * 64.0 * (4.0 * first + 6.0 * rest));
}

}  // namespace rankfold::test
