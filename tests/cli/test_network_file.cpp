#include <rankfold/cli/network_file.hpp>
#include <rankfold/core/random.hpp>

#include "support/mpi_test.hpp"

namespace rankfold::test {

using cli::NetworkInput;
using cli::NetworkModel;

namespace {

constexpr Index m = 21;
constexpr Index n = 8;

BlockRows<float> random_rows(const Communicator& comm, Index rows, Index cols, Index stream) {
    BlockRows<float> matrix(comm, ShardLayout::even(rows, 5, comm.size()), cols);
    const Philox random(8, Stream::synthetic_entry);
    for (Index i = 0; i < matrix.local().rows(); ++i) {
        for (Index j = 0; j < cols; ++j) {
            matrix.local()(i, j) =
                static_cast<float>(random.normal(stream, (matrix.first_row() + i) * cols + j));
        }
    }
    return matrix;
}

std::shared_ptr<Factors<float>> some_factors(const Communicator& comm) {
    auto factors = std::make_shared<Factors<float>>();
    factors->rows = random_rows(comm, m, 3, 1);
    factors->cols = random_rows(comm, n, 3, 2);
    factors->row_bias = random_rows(comm, m, 1, 3);
    factors->global_mean = 2.5;
    factors->method = "als-explicit";
    return factors;
}

NetworkModel<float> some_model(Loss head, NetworkInput input, Graph graph) {
    NetworkModel<float> model{.head = head,
                              .input = input,
                              .scale = 0.25,
                              .col_scale = 0.5,
                              .class_names = {},
                              .network = Network<float>(std::move(graph)),
                              .factors = nullptr,
                              .ids = {},
                              .history = {.columns = {"epoch", "loss"}, .rows = {{1.0, 0.5}}}};
    model.network.initialize(1);
    return model;
}

}  // namespace

class NetworkFile : public MpiTest {
protected:
    cli::Handover handover;
    cli::Run run{comm, handover, {}, "evaluate", {}};

    std::string file(const char* name) { return (scratch() / name).string(); }

    /// Writes and reads the model, and compares all that can be seen of it.
    void round_trip(NetworkModel<float>& model, const MatrixData<float>* data) {
        const std::string path = file("network.h5");
        cli::write_network(comm, path, model, {.command = "mlp"});
        const auto read = cli::load_network<float>(run, path);
        EXPECT_EQ(digest(comm, read->tensors()), digest(comm, model.tensors()));
        EXPECT_EQ(read->network.graph(), model.network.graph());
        EXPECT_EQ(read->head, model.head);
        EXPECT_EQ(read->input, model.input);
        EXPECT_EQ(read->scale, model.scale);
        EXPECT_EQ(read->col_scale, model.col_scale);
        EXPECT_EQ(read->class_names, model.class_names);
        EXPECT_EQ(read->history.rows, model.history.rows);
        const auto scores_of = [&](NetworkModel<float>& from) {
            const auto scorer = cli::network_scorer(from, data);
            BlockRows<float> scores(comm, scorer.layout(), scorer.cols());
            scorer.scores(scorer.layout().rank_rows(comm.rank()), scores.local().view());
            return gather_all(scores);
        };
        const auto expected = scores_of(model);
        const auto found = scores_of(*read);
        EXPECT_TRUE(std::ranges::equal(found.data(), expected.data()));
    }
};

TEST_F(NetworkFile, KeepsAClassifierOfMatrixRows) {
    auto model = some_model(Loss::classes, NetworkInput::matrix,
                            dense_chain(n, {5}, 3, Activation::tanh, 0.25));
    model.class_names = {"a", "b \"quoted\"", "ç"};
    MatrixData<float> data;
    data.dense = random_rows(comm, m, n, 4);
    round_trip(model, &data);
    data.dense = random_rows(comm, m, n + 1, 4);
    const std::string message =
        expect_error(Fault::input, [&] { static_cast<void>(cli::network_scorer(model, &data)); });
    EXPECT_NE(message.find("9 columns"), std::string::npos) << message;
    expect_error(Fault::input,
                 [&] { static_cast<void>(cli::network_scorer<float>(model, nullptr)); });
}

TEST_F(NetworkFile, KeepsTheFactorsThatANetworkReads) {
    auto ratings = some_model(Loss::squared, NetworkInput::factors,
                              dense_chain(4 + 3, {5}, 1, Activation::relu, 0.0));
    ratings.factors = some_factors(comm);
    round_trip(ratings, nullptr);
}

TEST_F(NetworkFile, KeepsAFirstLayerThatIsFactoredByTheFactors) {
    Graph graph = dense_chain(5, {6}, n, Activation::relu, 0.0);
    graph.layers.front().kind = LayerKind::factored;
    graph.layers.front().inner = n;
    graph.layers.front().v = Origin::external;
    auto columns = some_model(Loss::distribution, NetworkInput::reconstruction, graph);
    columns.factors = some_factors(comm);
    cli::attach_factors(columns);
    round_trip(columns, nullptr);
}

TEST_F(NetworkFile, ThatDoesNotFitTogetherIsRefused) {
    const auto refused = [&](NetworkModel<float>& model, const std::string& part) {
        const std::string path = file("bad.h5");
        cli::write_network(comm, path, model, {.command = "mlp"});
        const std::string message = expect_error(
            Fault::input, [&] { static_cast<void>(cli::load_network<float>(run, path)); });
        EXPECT_NE(message.find(part), std::string::npos) << message;
    };
    auto unnamed = some_model(Loss::classes, NetworkInput::matrix,
                              dense_chain(n, {5}, 3, Activation::tanh, 0.0));
    refused(unnamed, "class name");
    auto wide = some_model(Loss::squared, NetworkInput::factors,
                           dense_chain(7, {5}, 2, Activation::tanh, 0.0));
    wide.factors = some_factors(comm);
    refused(wide, "one output");
    auto narrow = some_model(Loss::squared, NetworkInput::factors,
                             dense_chain(6, {5}, 1, Activation::tanh, 0.0));
    narrow.factors = some_factors(comm);
    refused(narrow, "not as wide");
    auto lonely = some_model(Loss::squared, NetworkInput::factors,
                             dense_chain(7, {5}, 1, Activation::tanh, 0.0));
    refused(lonely, "no factors");

    const auto factors = some_factors(comm);
    const std::string path = file("factors.h5");
    write_factors(path, *factors, {.command = "als"});
    const std::string message =
        expect_error(Fault::input, [&] { static_cast<void>(cli::load_network<float>(run, path)); });
    EXPECT_NE(message.find("not a network"), std::string::npos) << message;
}

}  // namespace rankfold::test
