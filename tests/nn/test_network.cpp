#include <cmath>

#include <rankfold/core/random.hpp>
#include <rankfold/nn/network.hpp>
#include <rankfold/nn/samples.hpp>

#include "support/mpi_test.hpp"

namespace rankfold::test {

namespace {

constexpr Index rows = 8;

DenseMatrix<double> random_matrix(Index m, Index n, Index stream) {
    const Philox random(11, Stream::synthetic_entry);
    DenseMatrix<double> matrix(m, n);
    for (Index i = 0; i < m * n; ++i) {
        matrix.data()[static_cast<std::size_t>(i)] = random.normal(stream, i);
    }
    return matrix;
}

/// Pairs of rows of three factors with four columns, one of them without any, and a matrix of all
/// pairs.
void add_pairs(Targets<double>& targets) {
    static const std::vector<ColIndex> columns{1, 3, 0, 2};
    static const std::vector<double> w{1.0, 2.0, 0.5, 1.5};
    static const std::vector<double> b{1.0, 0.0, 0.5, 0.75};
    static const DenseMatrix<double> other = random_matrix(4, 3, 70);
    static const DenseMatrix<double> all = [] {
        DenseMatrix<double> square(3, 3);
        for (Index f = 0; f < 3; ++f) {
            for (Index g = 0; g < 3; ++g) square(f, g) = 0.1 + (f == g ? 0.3 : 0.0);
        }
        return square;
    }();
    targets.other = other.view();
    targets.all_pairs = all.view();
    for (std::size_t i = 0; i < static_cast<std::size_t>(rows); ++i) {
        const std::size_t count = i % 4;
        targets.pairs.push_back({.columns = std::span(columns).subspan(0, count),
                                 .w = std::span(w).subspan(0, count),
                                 .b = std::span(b).subspan(0, count),
                                 .ridge = 0.1 * static_cast<double>(i),
                                 .constant = 0.5});
    }
}

Targets<double> targets_for(Loss loss, Index outputs) {
    static const std::vector<ColIndex> columns{0, 2};
    static const std::vector<double> weights{0.25, 0.75};
    Targets<double> targets;
    if (head_name(loss) == "factors") add_pairs(targets);
    for (Index i = 0; i < rows; ++i) {
        targets.labels.push_back(i % outputs);
        targets.values.push_back(loss == Loss::logistic ? static_cast<double>(i % 2)
                                                        : 0.5 * static_cast<double>(i) - 1.0);
        targets.distributions.push_back({columns, weights});
        if (loss == Loss::classes) targets.weights.push_back(1.0 + 0.1 * static_cast<double>(i));
    }
    return targets;
}

bool one_output(Loss loss) {
    return loss == Loss::squared || loss == Loss::logistic || loss == Loss::ranking;
}

/// The loss of a network with fixed inputs, and the gradient by its backward pass.
class Probe {
public:
    Probe(Network<double>& network, Loss loss)
        : network_{network}, loss_{loss}, targets_{targets_for(loss, network.outputs())} {
        for (Index i = 0; i < rows; ++i) ids_.push_back(100 + i);
        network_.prepare(rows);
        ws_ = network_.workspace(rows, Purpose::training, 2);
        ws_.rows = rows;
        ws_.ends = {4, rows};
        for (std::size_t i = 0; i < ws_.inputs.size(); ++i) {
            const InputSpec& input = network_.graph().inputs[i];
            if (input.sparse) set_sparse(ws_.sparse[i]);
            if (!input.index && !input.sparse) ws_.inputs[i] = random_matrix(rows, input.width, 1);
            for (Index r = 0; input.index && r < rows; ++r) {
                ws_.indices[i][static_cast<std::size_t>(r)] = (r * (r + 2)) % input.width;
            }
        }
        Index stream =
            50;  // biases that are not 0 keep a ReLU off its kink when all inputs drop out
        for (const LayerSpec& layer : network_.graph().layers) {
            if (!has_map(layer.kind) && layer.kind != LayerKind::norm) continue;
            const auto bias = random_matrix(1, layer.outputs, stream++);
            std::ranges::copy(bias.data(),
                              network_.arena().matrix("layers/" + layer.name + "/bias").data);
        }
    }

    double loss() {
        network_.prepare(rows);
        const DropoutKey key{5, 2, ids_};
        network_.forward(ws_, &key);
        const auto z = network_.output(ws_);
        const auto d = network_.d_output(ws_);
        if (d.data != z.data) std::copy_n(z.data, z.rows * z.cols, d.data);
        return loss_gradient(loss_, targets_, 1.0, d);
    }

    /// The largest |analytic − numeric| over all trained parameters, relative to the largest one.
    double worst_gradient_error() {
        auto& arena = network_.arena();
        std::vector<double> gradient(static_cast<std::size_t>(arena.size()), 0.0);
        loss();
        const std::vector<Range> all{{0, 2}};  // the node of both blocks
        for (Index l = network_.layers() - 1; l >= 0; --l) {
            network_.begin_backward(l, ws_);
            for (const auto& tensor : arena.tensors()) {
                if (tensor.layer != l || !tensor.trained) continue;
                double* to = gradient.data() + tensor.offset;
                if (tensor.table) {
                    add_rows(tensor, to);
                    continue;
                }
                network_.gradient(tensor, all, {&to, 1}, false, ws_);
            }
            network_.input_gradient(l, ws_);
        }
        double worst = 0.0;
        double largest = 0.0;
        for (const auto& tensor : arena.tensors()) {
            if (!tensor.trained) continue;
            for (Index e = tensor.offset; e < tensor.offset + tensor.size(); ++e) {
                const auto i = static_cast<std::size_t>(e);
                const double numeric = slope(arena.values()[i]);
                worst = std::max(worst, std::abs(numeric - gradient[i]));
                largest = std::max(largest, std::abs(numeric));
            }
        }
        EXPECT_GT(largest, 0.0);
        return worst / largest;
    }

private:
    /// A table's gradient, dense: each sample adds to its row.
    void add_rows(const ParameterTensor& tensor, double* to) const {
        const Graph& graph = network_.graph();
        const auto& layer = graph.layers[static_cast<std::size_t>(tensor.layer)];
        std::size_t input = 0;
        while (graph.inputs[input].name != layer.inputs.front()) ++input;
        const auto d = network_.table_gradient(tensor.layer, ws_);
        for (Index i = 0; i < rows; ++i) {
            if (graph.inputs[input].sparse) {
                const auto& row = ws_.sparse[input][static_cast<std::size_t>(i)];
                for (std::size_t e = 0; e < row.columns.size(); ++e) {
                    for (Index f = 0; f < d.cols; ++f) {
                        to[row.columns[e] * d.cols + f] += row.values[e] * d(i, f);
                    }
                }
                continue;
            }
            const Index row = ws_.indices[input][static_cast<std::size_t>(i)];
            for (Index f = 0; f < d.cols; ++f) to[row * d.cols + f] += d(i, f);
        }
    }

    /// Rows of no, one and two entries.
    static void set_sparse(std::vector<SparseRow<double>>& sparse) {
        static const std::vector<ColIndex> columns{0, 2, 3, 1};
        static const std::vector<double> values{0.5, -1.5, 2.0, 1.0};
        for (std::size_t i = 0; i < sparse.size(); ++i) {
            const std::size_t begin = i % 3;
            sparse[i] = {std::span(columns).subspan(begin, i % 3),
                         std::span(values).subspan(begin, i % 3)};
        }
    }

    double slope(double& x) {
        constexpr double h = 1e-5;
        const double x0 = x;
        x = x0 + h;
        const double above = loss();
        x = x0 - h;
        const double below = loss();
        x = x0;
        return (above - below) / (2.0 * h);
    }

    Network<double>& network_;
    Loss loss_;
    Targets<double> targets_;
    std::vector<Index> ids_;
    Workspace<double> ws_;
};

Graph chain_for(Loss loss, Activation f, double dropout) {
    return dense_chain(4, {6, 5}, one_output(loss) ? 1 : 3, f, dropout);
}

/// Two branches over embeddings, as in NeuMF, with every way to join them.
Graph branches() {
    Graph graph;
    graph.inputs = {{.name = "row", .width = 5, .index = true},
                    {.name = "column", .width = 4, .index = true},
                    {.name = "words", .width = 4, .sparse = true}};
    const auto add = [&](const std::string& name, LayerKind kind,
                         const std::vector<std::string>& inputs, Index outputs,
                         Activation f = Activation::identity) {
        graph.layers.push_back(
            {.name = name, .kind = kind, .inputs = inputs, .outputs = outputs, .activation = f});
    };
    add("p", LayerKind::embedding, {"row"}, 3);
    add("u", LayerKind::embedding, {"row"}, 2);
    add("q", LayerKind::embedding, {"column"}, 3);
    add("product", LayerKind::product, {"p", "q"}, 3);
    add("dot", LayerKind::dot, {"p", "q"}, 1);
    add("w", LayerKind::embedding, {"words"}, 2);
    add("pair", LayerKind::concat, {"u", "q", "w"}, 7);
    add("tower", LayerKind::dense, {"pair"}, 3, Activation::gelu);
    add("norm", LayerKind::norm, {"tower"}, 3, Activation::tanh);
    add("sum", LayerKind::sum, {"norm", "product", "tower"}, 3);
    add("both", LayerKind::concat, {"sum", "dot"}, 4);
    add("output", LayerKind::dense, {"both"}, 1);
    return graph;
}

}  // namespace

class NetworkGradients : public MpiTest {};

TEST_F(NetworkGradients, OfDenseLayersMatchFiniteDifferencesForEveryActivationAndLoss) {
    for (const auto loss :
         {Loss::classes, Loss::distribution, Loss::squared, Loss::logistic, Loss::logistic_columns,
          Loss::masked, Loss::ranking, Loss::factorization, Loss::logistic_factorization}) {
        for (const auto f : {Activation::identity, Activation::relu, Activation::tanh,
                             Activation::sigmoid, Activation::gelu, Activation::softmax}) {
            for (const double dropout : {0.0, 0.4}) {
                SCOPED_TRACE(head_name(loss) + " " + loss_name(loss) + " " + activation_name(f) +
                             " " + std::to_string(dropout));
                Network<double> network(chain_for(loss, f, dropout));
                network.initialize(1);
                EXPECT_LT(Probe(network, loss).worst_gradient_error(), 1e-7);
            }
        }
    }
}

TEST_F(NetworkGradients, OfBranchesOverEmbeddingsMatchFiniteDifferences) {
    for (const Loss loss : {Loss::logistic, Loss::ranking, Loss::squared}) {
        SCOPED_TRACE(loss_name(loss));
        Network<double> network(branches());
        network.initialize(6);
        EXPECT_LT(Probe(network, loss).worst_gradient_error(), 1e-7);
    }
}

TEST_F(NetworkGradients, OfLayerNormsMatchFiniteDifferences) {
    for (const auto f : {Activation::relu, Activation::gelu, Activation::softmax}) {
        Network<double> network(with_layer_norms(chain_for(Loss::classes, f, 0.3)));
        network.initialize(7);
        EXPECT_LT(Probe(network, Loss::classes).worst_gradient_error(), 1e-6);
    }
}

TEST_F(NetworkGradients, OfAnOutputLayerWithAnActivationMatchFiniteDifferences) {
    for (const double dropout : {0.0, 0.3}) {
        Graph graph = chain_for(Loss::squared, Activation::tanh, 0.0);
        graph.layers.back().activation = Activation::sigmoid;
        graph.layers.back().dropout = dropout;
        Network<double> network(graph);
        network.initialize(2);
        EXPECT_LT(Probe(network, Loss::squared).worst_gradient_error(), 1e-7);
    }
}

TEST_F(NetworkGradients, OfFactoredLayersMatchFiniteDifferencesBothWaysAndWithFixedParts) {
    for (const Index inner : {2, 40}) {  // through the inner dimension, and collapsed
        for (const auto u : {Origin::trained, Origin::fixed}) {
            for (const auto v : {Origin::trained, Origin::fixed, Origin::external}) {
                SCOPED_TRACE(concat(inner, " ", static_cast<int>(u), " ", static_cast<int>(v)));
                Graph graph = chain_for(Loss::classes, Activation::tanh, 0.0);
                for (std::size_t l : {0U, 1U}) {
                    graph.layers[l].kind = LayerKind::factored;
                    graph.layers[l].inner = inner;
                    graph.layers[l].u = u;
                }
                graph.layers[0].v = v;
                Network<double> network(graph);
                network.initialize(3);
                if (v == Origin::external) network.attach("hidden1", random_matrix(4, inner, 2));
                EXPECT_LT(Probe(network, Loss::classes).worst_gradient_error(), 1e-6);
            }
        }
    }
}

TEST_F(NetworkGradients, AddUpWhereTwoLayersUseOne) {
    Graph graph = chain_for(Loss::classes, Activation::tanh, 0.0);
    LayerSpec side = graph.layers[1];
    side.name = "side";
    graph.layers.insert(graph.layers.begin() + 2, side);  // not used by the output
    Network<double> network(graph);
    network.initialize(4);
    EXPECT_LT(Probe(network, Loss::classes).worst_gradient_error(), 1e-7);
}

class NetworkForward : public MpiTest {};

TEST_F(NetworkForward, OfAFactoredLayerEqualsTheDenseLayerOfItsProductBothWays) {
    for (const Index inner : {2, 40}) {
        Graph factored = dense_chain(4, {}, 3, Activation::identity, 0.0);
        factored.layers[0].kind = LayerKind::factored;
        factored.layers[0].inner = inner;
        Network<double> a(factored);
        a.initialize(5);
        Network<double> b(dense_chain(4, {}, 3, Activation::identity, 0.0));
        const auto u = a.arena().matrix("layers/output/u");
        const auto v = a.arena().matrix("layers/output/v");
        const auto w = b.arena().matrix("layers/output/weight");
        for (Index i = 0; i < 3; ++i) {
            for (Index j = 0; j < 4; ++j) {
                for (Index f = 0; f < inner; ++f) w(i, j) += u(i, f) * v(j, f);
            }
        }
        std::vector<DenseMatrix<double>> outputs;
        for (Network<double>* network : {&a, &b}) {
            network->prepare(rows);
            auto ws = network->workspace(rows, Purpose::inference);
            ws.rows = rows;
            ws.inputs.front() = random_matrix(rows, 4, 6);
            network->forward(ws);
            outputs.push_back(ws.layers.back().output.clone());
        }
        for (Index i = 0; i < rows * 3; ++i) {
            const auto e = static_cast<std::size_t>(i);
            EXPECT_NEAR(outputs[0].data()[e], outputs[1].data()[e], 1e-13);
        }
    }
}

TEST_F(NetworkForward, DropsTheAskedShareByKeysThatIgnoreTheBatch) {
    Graph graph = dense_chain(3, {1000}, 2, Activation::identity, 0.25);
    Network<double> network(graph);
    std::ranges::fill(network.arena().matrix("layers/hidden1/bias").row(0), 1.0);
    network.prepare(4);
    auto ws = network.workspace(4, Purpose::training);
    const auto run = [&](std::vector<Index> ids, Index epoch) {
        ws.rows = static_cast<Index>(ids.size());
        const DropoutKey key{9, epoch, ids};
        network.forward(ws, &key);
        return ws.layers.front().output.clone();
    };
    const auto first = run({10, 11, 12, 13}, 0);
    const auto second = run({13, 10}, 0);
    const auto third = run({10, 11, 12, 13}, 1);
    EXPECT_TRUE(std::ranges::equal(first.row(3), second.row(0)));
    EXPECT_TRUE(std::ranges::equal(first.row(0), second.row(1)));
    EXPECT_FALSE(std::ranges::equal(first.row(0), first.row(1)));
    EXPECT_FALSE(std::ranges::equal(first.row(0), third.row(0)));
    double dropped = 0.0;
    for (const double x : first.data()) {
        EXPECT_TRUE(x == 0.0 || std::abs(x - 1.0 / 0.75) < 1e-15);
        dropped += x == 0.0 ? 1.0 : 0.0;
    }
    EXPECT_NEAR(dropped / 4000.0, 0.25, 0.03);
}

TEST_F(NetworkForward, NamesTheFirstLayerThatIsNotFinite) {
    Network<double> network(dense_chain(3, {4, 4}, 2, Activation::relu, 0.0));
    network.initialize(1);
    network.arena().matrix("layers/hidden2/bias")(0, 1) = std::nan("");
    network.prepare(2);
    auto ws = network.workspace(2, Purpose::inference);
    ws.rows = 2;
    network.forward(ws);
    const auto found = network.first_non_finite(ws, {0, 2});
    ASSERT_TRUE(found.has_value());
    EXPECT_EQ(found->first, "hidden2");
    EXPECT_EQ(found->second, 0);
}

class NetworkGraph : public MpiTest {};

TEST_F(NetworkGraph, SurvivesItsText) {
    Graph graph = dense_chain(4, {6, 5}, 3, Activation::sigmoid, 0.5);
    graph.layers[1].kind = LayerKind::factored;
    graph.layers[1].inner = 2;
    graph.layers[1].v = Origin::external;
    EXPECT_EQ(Graph::parse(graph.text()), graph);
}

TEST_F(NetworkGraph, ThatIsNotSoundIsRefusedWithTheLayerAtFault) {
    const auto refused = [](const std::string& text, const std::string& part) {
        const std::string message = expect_error(Fault::input, [&] { (void)Graph::parse(text); });
        EXPECT_NE(message.find(part), std::string::npos) << message;
    };
    const auto layers = [](const std::string& list) {
        return R"({"inputs":[{"name":"input","width":3}],"layers":[)" + list + "]}";
    };
    refused("{", "cannot be read");
    refused("[1]", "cannot be read");
    refused(layers(""), "no layers");
    refused(layers(R"({"name":"a","kind":"dense","inputs":["input"]})"), "cannot be read");
    refused(layers(R"({"name":"a","kind":"conv","inputs":["input"],"outputs":2})"), "conv");
    refused(layers(R"({"name":"a","kind":"dense","inputs":["b"],"outputs":2})"),
            "\"a\" uses \"b\"");
    refused(layers(R"({"name":"a","kind":"dense","inputs":["input"],"outputs":-2})"), "outputs");
    refused(layers(R"({"name":"../a","kind":"dense","inputs":["input"],"outputs":2})"), "name");
    refused(layers(R"({"name":"a","kind":"dense","inputs":["input"],"outputs":2,"dropout":1})"),
            "dropout");
    refused(layers(R"({"name":"a","kind":"dot","inputs":["input"],"outputs":1})"), "two inputs");
    refused(layers(R"({"name":"a","kind":"norm","inputs":["input"],"outputs":2})"), "fit");
    refused(layers(R"({"name":"a","kind":"factored","inputs":["input"],"outputs":2,"inner":0})"),
            "inner");
}

}  // namespace rankfold::test
