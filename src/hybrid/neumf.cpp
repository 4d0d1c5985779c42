#include <rankfold/hybrid/neumf.hpp>

#include <algorithm>

#include <rankfold/factor/warm_start.hpp>

namespace rankfold {

namespace {

/// What a score of implicit factors, near 1 for entries and near 0 for others, is multiplied by to
/// become a logit; a score of 1/2 is even odds.
constexpr double score_scale = 8.0;

/// Uniform tables of deviation 0.1, as a network starts with them, become those of 0.01.
constexpr double table_scale = 0.1;

template <Real R>
void put_rows(const BlockRows<R>& from, MatrixView<R> to) {
    const DenseMatrix<R> all = gather_all(from);
    RANKFOLD_EXPECT(all.rows() == to.rows);
    const Index k = std::min(all.cols(), to.cols);
    for (Index i = 0; i < to.rows; ++i) {
        std::ranges::copy(all.row(i).first(static_cast<std::size_t>(k)), to.row(i).begin());
        std::fill(to.row(i).begin() + k, to.row(i).end(), R{0});
    }
}

}  // namespace

Graph neumf_graph(Index m, Index n, const NeuMfShape& shape) {
    Graph graph;
    graph.inputs = {{.name = "row", .width = m, .index = true},
                    {.name = "column", .width = n, .index = true}};
    const auto table = [&](const std::string& name, const std::string& input, Index width) {
        graph.layers.push_back(
            {.name = name, .kind = LayerKind::embedding, .inputs = {input}, .outputs = width});
    };
    table("row_factors", "row", shape.factors);
    table("column_factors", "column", shape.factors);
    table("row_embedding", "row", shape.embedding);
    table("column_embedding", "column", shape.embedding);
    graph.layers.push_back({.name = "product",
                            .kind = LayerKind::product,
                            .inputs = {"row_factors", "column_factors"},
                            .outputs = shape.factors});
    graph.layers.push_back({.name = "pair",
                            .kind = LayerKind::concat,
                            .inputs = {"row_embedding", "column_embedding"},
                            .outputs = 2 * shape.embedding});
    const Graph tower =
        dense_chain(2 * shape.embedding, shape.hidden, 1, Activation::relu, shape.dropout);
    std::string before = "pair";
    Index width = 2 * shape.embedding;
    for (std::size_t l = 0; l + 1 < tower.layers.size(); ++l) {
        graph.layers.push_back(tower.layers[l]);
        graph.layers.back().inputs = {before};
        before = tower.layers[l].name;
        width = tower.layers[l].outputs;
    }
    graph.layers.push_back({.name = "both",
                            .kind = LayerKind::concat,
                            .inputs = {"product", before},
                            .outputs = shape.factors + width});
    graph.layers.push_back({.name = "output", .inputs = {"both"}, .outputs = 1});
    return graph;
}

template <Real R>
Network<R> neumf_network(Index m, Index n, const NeuMfShape& shape, std::uint64_t seed) {
    Network<R> network(neumf_graph(m, n, shape));
    network.initialize(seed);
    for (const ParameterTensor& tensor : network.arena().tensors()) {
        if (!tensor.table) continue;
        const MatrixView<R> values = network.arena().matrix(tensor.path);
        for (Index i = 0; i < values.rows; ++i) scale(static_cast<R>(table_scale), values.row(i));
    }
    return network;
}

template <Real R>
void start_from_factors(const Factors<R>& factors, Network<R>& network) {
    if (factors.row_bias || factors.col_bias) {
        throw input_error(
            "the factors to start from have biases, which a product of embeddings cannot stand "
            "for; fit them without --biases");
    }
    ParameterArena<R>& arena = network.arena();
    const Index k = arena.matrix("embeddings/row_factors").cols;
    const Factors<R> cut = cut_factors(factors, k);  // the best of rank k, if they have more
    put_rows(cut.rows, arena.matrix("embeddings/row_factors"));
    put_rows(cut.cols, arena.matrix("embeddings/column_factors"));
    const MatrixView<R> weight = arena.matrix("layers/output/weight");
    std::ranges::fill(weight.row(0), R{0});
    std::fill_n(weight.row(0).begin(), k, static_cast<R>(score_scale));
    arena.matrix("layers/output/bias")(0, 0) = static_cast<R>(-0.5 * score_scale);
}

template Network<float> neumf_network(Index, Index, const NeuMfShape&, std::uint64_t);
template Network<double> neumf_network(Index, Index, const NeuMfShape&, std::uint64_t);
template void start_from_factors(const Factors<float>&, Network<float>&);
template void start_from_factors(const Factors<double>&, Network<double>&);

}  // namespace rankfold
