#include <rankfold/hybrid/towers.hpp>

#include <algorithm>
#include <cmath>

#include <rankfold/core/random.hpp>
#include <rankfold/core/subscript.hpp>
#include <rankfold/nn/factor_inputs.hpp>

namespace rankfold {

namespace {

constexpr Index tile = 256;
/// Logits of scores between 0 and 1 are this times the score, less half of it.
constexpr double logit_scale = 8.0;

/// Every row over its length.
template <Real R>
CsrMatrix<R> unit_rows(CsrMatrix<R> rows) {
    for (Index i = 0; i < rows.rows(); ++i) {
        const std::span<R> values = std::span<R>(rows.values)
                                        .subspan(at(rows.row_ptr[at(i)]),
                                                 at(rows.row_ptr[at(i) + 1] - rows.row_ptr[at(i)]));
        double square = 0.0;
        for (const R v : values) square += static_cast<double>(v) * static_cast<double>(v);
        if (square == 0.0) continue;
        const double shrink = 1.0 / std::sqrt(square);
        for (R& v : values) v = static_cast<R>(shrink * static_cast<double>(v));
    }
    return rows;
}

template <Real R>
SparseRow<R> row_of(const CsrMatrix<R>& rows, Index i) {
    return {rows.view().row_cols(i), rows.view().row_values(i)};
}

/// The kinds of inputs, in the order in which a tower has them.
constexpr const char* embeddings_suffix = "";
constexpr const char* entries_suffix = "_entries";
constexpr const char* features_suffix = "_features";
constexpr const char* factors_suffix = "_factors";

}  // namespace

template <Real R>
TowerWidths widths_of(const TowerInputs<R>& inputs, Index rows) {
    return {.embeddings = inputs.embeddings ? rows : 0,
            .entries = inputs.entries != nullptr ? inputs.entries->cols() : 0,
            .features = inputs.features != nullptr ? inputs.features->cols() : 0,
            .factors = inputs.factors != nullptr ? inputs.factors->cols() : 0};
}

Graph tower_graph(const std::string& side, const TowerWidths& widths, const TowerShape& shape) {
    RANKFOLD_EXPECT(widths.inputs() > 0);
    Graph graph;
    std::vector<std::string> parts;
    Index width = 0;
    const auto add = [&](const std::string& name, Index inputs, bool index) {
        if (inputs == 0) return;
        graph.inputs.push_back({.name = name, .width = inputs, .index = index, .sparse = !index});
        parts.push_back(name + "_embedding");
        graph.layers.push_back({.name = parts.back(),
                                .kind = LayerKind::embedding,
                                .inputs = {name},
                                .outputs = shape.embedding});
        width += shape.embedding;
    };
    add(side + embeddings_suffix, widths.embeddings, true);
    add(side + entries_suffix, widths.entries, false);
    add(side + features_suffix, widths.features, false);
    if (widths.factors > 0) {
        graph.inputs.push_back({.name = side + factors_suffix, .width = widths.factors});
        parts.push_back(graph.inputs.back().name);
        width += widths.factors;
    }
    if (parts.size() > 1) {
        graph.layers.push_back({.name = side + "_input",
                                .kind = LayerKind::concat,
                                .inputs = parts,
                                .outputs = width});
        parts = {side + "_input"};
    }
    const bool deep = !shape.hidden.empty();
    const std::string linear = side + (deep ? "_linear" : "_tower");
    graph.layers.push_back({.name = linear, .inputs = parts, .outputs = shape.k});
    if (!deep) return graph;
    for (std::size_t l = 0; l < shape.hidden.size(); ++l) {
        const std::string name = side + "_hidden" + std::to_string(l + 1);
        graph.layers.push_back({.name = name,
                                .inputs = parts,
                                .outputs = shape.hidden[l],
                                .activation = Activation::relu,
                                .dropout = shape.dropout});
        parts = {name};
    }
    graph.layers.push_back({.name = side + "_deep", .inputs = parts, .outputs = shape.k});
    graph.layers.push_back({.name = side + "_tower",
                            .kind = LayerKind::sum,
                            .inputs = {linear, side + "_deep"},
                            .outputs = shape.k});
    return graph;
}

Graph both_towers(const Graph& row, const Graph& column) {
    Graph graph = row;
    graph.inputs.insert(graph.inputs.end(), column.inputs.begin(), column.inputs.end());
    graph.layers.insert(graph.layers.end(), column.layers.begin(), column.layers.end());
    const LayerSpec& f = row.layers.back();
    const LayerSpec& g = column.layers.back();
    graph.layers.push_back({.name = "towers",
                            .kind = LayerKind::concat,
                            .inputs = {f.name, g.name},
                            .outputs = f.outputs + g.outputs});
    return graph;
}

Graph one_tower(const Graph& towers, const std::string& side) {
    const auto mine = [&](const std::string& name) {
        return name == side || name.starts_with(side + "_");
    };
    Graph graph;
    std::ranges::copy_if(towers.inputs, std::back_inserter(graph.inputs), mine, &InputSpec::name);
    std::ranges::copy_if(towers.layers, std::back_inserter(graph.layers), mine, &LayerSpec::name);
    return graph;
}

TowerWidths widths_in(const Graph& towers, const std::string& side) {
    const auto width = [&](const std::string& suffix) {
        const auto found = std::ranges::find(towers.inputs, side + suffix, &InputSpec::name);
        return found == towers.inputs.end() ? Index{0} : found->width;
    };
    const TowerWidths widths{.embeddings = width(embeddings_suffix),
                             .entries = width(entries_suffix),
                             .features = width(features_suffix),
                             .factors = width(factors_suffix)};
    const LayerSpec& last = towers.layers.back();
    const bool known = std::ranges::any_of(towers.layers, [&](const LayerSpec& layer) {
        return layer.name == side + "_tower" && 2 * layer.outputs == last.outputs;
    });
    if (widths.inputs() == 0 || !known || last.name != "towers") {
        throw input_error("the network is not one of two towers: it has no tower of the ", side,
                          "s");
    }
    return widths;
}

template <Real R>
void copy_parameters(const Network<R>& from, Network<R>& to) {
    for (const ParameterTensor& tensor : from.arena().tensors()) {
        for (const ParameterTensor& other : to.arena().tensors()) {
            if (other.path != tensor.path) continue;
            RANKFOLD_EXPECT(other.size() == tensor.size());
            std::copy_n(from.arena().values().begin() + tensor.offset, tensor.size(),
                        to.arena().values().begin() + other.offset);
        }
    }
}

template <Real R>
void begin_with(const DenseMatrix<R>& factors, double scale, const std::string& side, bool logits,
                Network<R>& tower) {
    const Graph& graph = tower.graph();
    const bool deep = graph.layers.back().kind == LayerKind::sum;
    const bool free = graph.inputs.front().index;
    const std::string path = "layers/" + side + (deep ? "_linear" : "_tower") + "/";
    const MatrixView<R> linear = tower.arena().matrix(path + "weight");
    const double size = logits ? std::sqrt(logit_scale) : 1.0;
    // the embeddings come first in x, factors that are read come last
    const Index width =
        free ? tower.arena().matrix("embeddings/" + side + "_embedding").cols : factors.cols();
    const Index first = free ? 0 : linear.cols - width;
    for (Index i = 0; i < linear.rows; ++i) {
        std::ranges::fill(linear.row(i), R{0});
        if (i < width) linear(i, first + i) = static_cast<R>(free ? size : size / scale);
    }
    if (logits && linear.rows > factors.cols()) {
        const double half = std::sqrt(0.5 * logit_scale);
        tower.arena().matrix(path + "bias")(0, linear.rows - 1) =
            static_cast<R>(side == "row" ? half : -half);
    }
    if (deep) {
        const MatrixView<R> last = tower.arena().matrix("layers/" + side + "_deep/weight");
        for (Index i = 0; i < last.rows; ++i) std::ranges::fill(last.row(i), R{0});
    }
    if (!free) return;
    const MatrixView<R> table = tower.arena().matrix("embeddings/" + side + "_embedding");
    RANKFOLD_EXPECT(factors.rows() == table.rows);
    for (Index i = 0; i < table.rows; ++i) {
        for (Index f = 0; f < table.cols; ++f) {
            table(i, f) = f < factors.cols() ? factors(i, f) : R{0};
        }
    }
}

template <Real R>
TowerRows<R>::TowerRows(const Communicator& comm, const ShardLayout& layout,
                        const TowerInputs<R>& inputs)
    : layout_{layout},
      first_row_{layout.rank_rows(comm.rank()).begin},
      widths_{widths_of(inputs, layout.rows())} {
    const auto own = [&](const BlockRowCsr<R>& rows) {
        RANKFOLD_EXPECT(rows.rows() == layout.rows());
        return unit_rows(std::move(redistribute(rows, layout).local()));
    };
    if (inputs.entries != nullptr) entries_ = own(*inputs.entries);
    if (inputs.features != nullptr) features_ = own(*inputs.features);
    if (inputs.factors == nullptr) return;
    RANKFOLD_EXPECT(inputs.factors->rows() == layout.rows());
    factor_scale_ = unit_scale(*inputs.factors);
    factors_ = std::move(redistribute(*inputs.factors, layout).local());
    for (R& x : factors_.data()) x *= static_cast<R>(factor_scale_);
}

template <Real R>
void TowerRows<R>::leave_out(double share, std::uint64_t seed, Index epoch) {
    thinned_.reset();
    if (share <= 0.0 || !entries_) return;
    const Philox random(seed, Stream::dropout);
    const R grow = static_cast<R>(1.0 / (1.0 - share));
    CsrMatrix<R> kept;
    kept.cols = entries_->cols;
    const CsrView<R> all = entries_->view();
    for (Index i = 0; i < all.rows; ++i) {
        for (std::size_t e = 0; e < all.row_cols(i).size(); ++e) {
            const ColIndex j = all.row_cols(i)[e];
            if (random.uniform(first_row_ + i, (epoch << 32) + j) < share) continue;
            kept.col_idx.push_back(j);
            kept.values.push_back(grow * all.row_values(i)[e]);
        }
        kept.row_ptr.push_back(kept.nnz());
    }
    thinned_ = std::move(kept);
}

template <Real R>
std::vector<std::vector<double>> TowerRows<R>::visits(const Communicator& comm) const {
    std::vector<std::vector<double>> all;
    if (widths_.embeddings > 0) all.emplace_back(at(widths_.embeddings), 1.0);
    for (const auto* rows : {&entries_, &features_}) {
        if (!*rows) continue;
        auto& counts = all.emplace_back(at((*rows)->cols), 0.0);
        for (const ColIndex j : (*rows)->col_idx) ++counts[at(j)];
        comm.all_reduce(std::span<double>(counts), Reduce::sum);
    }
    return all;
}

template <Real R>
void TowerRows<R>::read(Index row, Index first, Index t, MicroBatch<R>& batch) const {
    const Index i = row - first_row_;
    Index input = first;
    if (widths_.embeddings > 0) batch.indices[at(input++)][at(t)] = row;
    if (entries_) batch.sparse[at(input++)][at(t)] = row_of(thinned_ ? *thinned_ : *entries_, i);
    if (features_) batch.sparse[at(input++)][at(t)] = row_of(*features_, i);
    if (widths_.factors > 0) {
        std::ranges::copy(factors_.row(i), batch.inputs[at(input++)].row(t).begin());
    }
}

template <Real R>
void tower_outputs(Network<R>& network, const TowerRows<R>& rows, bool column, Index threads,
                   BlockRows<R>& out) {
    network.prepare(tile);
    const bool both = network.outputs() > out.cols();
    const Index all = std::ssize(network.graph().inputs);
    const Index first = both && column ? all - rows.widths().inputs() : 0;
    const Index k = out.cols();
    const Range columns = both && column ? Range{k, 2 * k} : Range{0, k};
#pragma omp parallel num_threads(static_cast <int>(threads))
    {
        Workspace<R> ws = network.workspace(tile, Purpose::inference);
        MicroBatch<R> batch;
#pragma omp for schedule(dynamic)
        for (Index s = out.shards().begin; s < out.shards().end; ++s) {
            const Range shard = out.layout().shard_rows(s);
            for (Index begin = shard.begin; begin < shard.end; begin += tile) {
                ws.rows = std::min(tile, shard.end - begin);
                show_inputs(ws, {0, ws.rows}, batch);
                for (Index t = 0; t < ws.rows; ++t) rows.read(begin + t, first, t, batch);
                network.forward(ws);
                const auto z = network.output(ws).col_block(columns);
                for (Index t = 0; t < ws.rows; ++t) {
                    std::ranges::copy(z.row(t),
                                      out.local().row(begin + t - out.first_row()).begin());
                }
            }
        }
    }
}

#define RANKFOLD_INSTANTIATE(R)                                                       \
    template TowerWidths widths_of(const TowerInputs<R>&, Index);                     \
    template void copy_parameters(const Network<R>&, Network<R>&);                    \
    template void begin_with(const DenseMatrix<R>&, double, const std::string&, bool, \
                             Network<R>&);                                            \
    template class TowerRows<R>;                                                      \
    template void tower_outputs(Network<R>&, const TowerRows<R>&, bool, Index, BlockRows<R>&);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
