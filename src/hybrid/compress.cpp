#include <rankfold/hybrid/compress.hpp>

#include <algorithm>
#include <map>
#include <queue>

#include <rankfold/core/subscript.hpp>
#include <rankfold/linalg/blas.hpp>

#include "weight_factors.hpp"

namespace rankfold {

namespace {

constexpr const char* table_suffix = "_table";

constexpr std::pair<CompressMethod, const char*> names[] = {
    {CompressMethod::svd, "svd"},
    {CompressMethod::activation_svd, "asvd"},
    {CompressMethod::als, "als"},
    {CompressMethod::nmf, "nmf"},
};

template <Real To, Real From>
void copy_matrix(MatrixView<const From> from, MatrixView<To> to) {
    RANKFOLD_EXPECT(from.rows == to.rows && from.cols == to.cols);
    for (Index i = 0; i < from.rows; ++i) {
        for (Index j = 0; j < from.cols; ++j) to(i, j) = static_cast<To>(from(i, j));
    }
}

std::string weight_path(const StackShape& shape, const std::string& layer) {
    return shape.table ? "embeddings/" + layer : "layers/" + layer + "/weight";
}

/// A stack of layers and its factors; no factors if it stays dense.
struct FactoredStack {
    StackShape shape;
    WeightMatrix matrix;
    Index inner = 0;
    Pair pair{};
};

/// The stacked weights, the mean of the layers' moments, and the stacked importance.
template <Real R>
WeightMatrix stacked(Network<R>& network, const StackShape& shape,
                     const std::vector<LayerStatistics>& statistics) {
    WeightMatrix matrix{.w = DenseMatrix<double>(shape.out, shape.in)};
    Index first = 0;
    for (const std::string& layer : shape.layers) {
        const MatrixView<R> w = network.arena().matrix(weight_path(shape, layer));
        const Range rows{first, first + w.rows};
        first = rows.end;
        copy_matrix<double, R>(w, matrix.w.view().row_block(rows));
        const auto of = std::ranges::find(statistics, layer, &LayerStatistics::layer);
        if (of == statistics.end()) continue;
        matrix.visits = of->visits;
        if (of->importance.rows() > 0) {
            if (rows.begin == 0) matrix.importance = DenseMatrix<double>(shape.out, shape.in);
            copy_matrix<double, double>(of->importance.view(),
                                        matrix.importance.view().row_block(rows));
        }
        if (of->moments.rows() == 0) continue;
        if (rows.begin == 0) matrix.moments = DenseMatrix<double>(shape.in, shape.in);
        const auto from = of->moments.data();
        for (std::size_t e = 0; e < from.size(); ++e) {
            matrix.moments.data()[e] += from[e] / static_cast<double>(shape.layers.size());
        }
    }
    return matrix;
}

template <Real R>
std::vector<FactoredStack> factor_all(const Communicator& comm, Network<R>& network,
                                      const CompressOptions& options,
                                      const std::vector<LayerStatistics>& statistics) {
    std::vector<FactoredStack> all;
    std::vector<std::vector<double>> spectra;
    const std::vector<StackShape> shapes = stacks(network.graph(), options.joint);
    if (shapes.empty()) throw input_error("the network has no dense layer or table to compress");
    for (const StackShape& shape : shapes) {
        all.push_back({.shape = shape, .matrix = stacked(network, shape, statistics)});
        decompose(all.back().matrix, options.method);
        spectra.push_back(all.back().matrix.svd.s);
    }
    const auto prices = options.prices.empty() ? weight_prices(shapes) : options.prices;
    double dense = 0.0;
    for (const LayerPrice& price : prices) dense += price.dense;
    const std::vector<Index> inner = allocate_ranks(prices, spectra, options.size * dense);
    for (std::size_t s = 0; s < all.size(); ++s) {
        all[s].inner = inner[s];
        if (inner[s] > 0) all[s].pair = factorize(comm, all[s].matrix, inner[s], options);
    }
    return all;
}

}  // namespace

std::string method_name(CompressMethod method) {
    return std::ranges::find(names, method, &std::pair<CompressMethod, const char*>::first)->second;
}

CompressMethod compress_method(const std::string& name) {
    for (const auto& [method, known] : names) {
        if (name == known) return method;
    }
    throw input_error("there is no method ", name,
                      " to factorise weights; take svd, asvd, als or nmf");
}

std::vector<StackShape> stacks(const Graph& graph, bool joint) {
    std::vector<StackShape> all;
    for (const LayerSpec& layer : graph.layers) {
        if (layer.kind != LayerKind::dense) continue;
        const Index in = graph.width(layer.inputs.front());
        auto place = joint ? std::ranges::find(all, in, &StackShape::in) : all.end();
        if (place == all.end()) place = all.insert(all.end(), StackShape{.layers = {}, .in = in});
        place->layers.push_back(layer.name);
        place->out += layer.outputs;
    }
    for (const LayerSpec& layer : graph.layers) {
        if (layer.kind != LayerKind::embedding) continue;
        all.push_back({.layers = {layer.name},
                       .out = graph.width(layer.inputs.front()),
                       .in = layer.outputs,
                       .table = true});
    }
    return all;
}

std::vector<LayerPrice> weight_prices(const std::vector<StackShape>& stacks) {
    std::vector<LayerPrice> prices;
    for (const StackShape& s : stacks) {
        const auto dense = static_cast<double>(s.out * s.in);
        const bool small = std::min(s.out, s.in) < least_width_to_factor;
        prices.push_back({.dense = dense,
                          .base = small ? dense : 0.0,
                          .direction = static_cast<double>(s.out + s.in),
                          .too_wide = s.too_wide()});
    }
    return prices;
}

std::vector<Index> allocate_ranks(const std::vector<LayerPrice>& prices,
                                  const std::vector<std::vector<double>>& spectra, double budget) {
    struct Step {
        double gain;  // share of the layer's squared norm, for its price
        std::size_t layer;
        bool operator<(const Step& other) const {
            return gain < other.gain || (gain == other.gain && layer > other.layer);
        }
    };
    std::vector<Index> inner(prices.size(), 1);
    std::vector<double> norms(prices.size(), 0.0);
    std::priority_queue<Step> steps;
    const auto offer = [&](std::size_t l) {
        const std::size_t next = at(inner[l]);
        if (next >= spectra[l].size() || norms[l] == 0.0) return;
        const double sigma = spectra[l][next];
        steps.push({sigma * sigma / norms[l] / prices[l].direction, l});
    };
    double used = 0.0;
    for (std::size_t l = 0; l < prices.size(); ++l) {
        for (const double s : spectra[l]) norms[l] += s * s;
        if (prices[l].as_good_dense(1)) inner[l] = 0;
        used += inner[l] == 0 ? prices[l].dense : prices[l].factored(1);
    }
    if (used > budget) {
        double dense = 0.0;
        for (const LayerPrice& price : prices) dense += price.dense;
        throw input_error("a share of ", budget / dense,
                          " is below the least that the layers can have, ", used / dense,
                          "; ask for a larger one");
    }
    for (std::size_t l = 0; l < prices.size(); ++l) {
        if (inner[l] > 0) offer(l);
    }
    while (!steps.empty()) {
        const std::size_t l = steps.top().layer;
        steps.pop();
        const LayerPrice& price = prices[l];
        const bool whole = price.as_good_dense(inner[l] + 1);
        const double cost = whole ? price.dense - price.factored(inner[l]) : price.direction;
        if (used + cost > budget) continue;  // a smaller layer may still have room
        used += cost;
        inner[l] = whole ? 0 : inner[l] + 1;
        if (!whole) offer(l);
    }
    return inner;
}

template <Real R>
Network<R> compress(const Communicator& comm, Network<R>& network, const CompressOptions& options,
                    const std::vector<LayerStatistics>& statistics, std::vector<LayerPlan>& plan) {
    plan.clear();
    const auto all = factor_all(comm, network, options, statistics);
    struct Place {
        const FactoredStack* stack;
        Range rows;
    };
    std::map<std::string, Place> places;
    Graph graph = network.graph();
    for (const FactoredStack& stack : all) {
        Index first = 0;
        for (const std::string& name : stack.shape.layers) {
            const auto spec = std::ranges::find(graph.layers, name, &LayerSpec::name);
            const Range rows{first, first + (stack.shape.table ? stack.shape.out : spec->outputs)};
            first = rows.end;
            plan.push_back({.layer = name,
                            .out = rows.size(),
                            .in = stack.shape.in,
                            .inner = stack.inner,
                            .shares_v = rows.begin > 0,
                            .table = stack.shape.table});
            if (stack.inner == 0) continue;
            plan.back().relative_error =
                relative_error(stack.matrix.w.view().row_block(rows),
                               stack.pair.u.view().row_block(rows), stack.pair.v.view());
            places.emplace(name, Place{&stack, rows});
            if (stack.shape.table) {
                LayerSpec table = *spec;
                table.name = name + table_suffix;
                table.outputs = stack.inner;
                spec->kind = LayerKind::dense;
                spec->inputs = {table.name};
                graph.layers.insert(spec, std::move(table));
                continue;
            }
            spec->kind = LayerKind::factored;
            spec->inner = stack.inner;
            if (stack.shape.layers.size() > 1) spec->v = Origin::fixed;
            if (rows.begin > 0) spec->v_of = stack.shape.layers.front();
        }
    }
    Network<R> result(graph);
    for (const ParameterTensor& tensor : network.arena().tensors()) {
        const auto& layer = network.graph().layers[at(tensor.layer)];
        const auto place = places.find(layer.name);
        if (tensor.part == Part::weight && place != places.end()) {
            const auto& [stack, rows] = place->second;
            const std::string path = "layers/" + layer.name;
            const bool table = stack->shape.table;
            copy_matrix<R, double>(
                stack->pair.u.view().row_block(rows),
                result.arena().matrix(table ? "embeddings/" + layer.name + table_suffix
                                            : path + "/u"));
            if (rows.begin > 0) continue;  // V is the first layer's
            copy_matrix<R, double>(stack->pair.v.view(),
                                   result.arena().matrix(path + (table ? "/weight" : "/v")));
        } else {
            copy_matrix<R, R>(network.arena().matrix(tensor.path),
                              result.arena().matrix(tensor.path));
        }
    }
    return result;
}

template <Real R>
void project_weights(const Communicator& comm, Network<R>& network, const CompressOptions& options,
                     const std::vector<LayerStatistics>& statistics) {
    for (const FactoredStack& stack : factor_all(comm, network, options, statistics)) {
        if (stack.inner == 0) continue;
        DenseMatrix<double> product(stack.shape.out, stack.shape.in);
        gemm<double>(Transpose::no, Transpose::yes, 1.0, stack.pair.u.view(), stack.pair.v.view(),
                     0.0, product.view());
        Index first = 0;
        for (const std::string& name : stack.shape.layers) {
            const MatrixView<R> w = network.arena().matrix(weight_path(stack.shape, name));
            copy_matrix<R, double>(std::as_const(product).view().row_block({first, first + w.rows}),
                                   w);
            first += w.rows;
        }
    }
}

template Network<float> compress(const Communicator&, Network<float>&, const CompressOptions&,
                                 const std::vector<LayerStatistics>&, std::vector<LayerPlan>&);
template Network<double> compress(const Communicator&, Network<double>&, const CompressOptions&,
                                  const std::vector<LayerStatistics>&, std::vector<LayerPlan>&);
template void project_weights(const Communicator&, Network<float>&, const CompressOptions&,
                              const std::vector<LayerStatistics>&);
template void project_weights(const Communicator&, Network<double>&, const CompressOptions&,
                              const std::vector<LayerStatistics>&);

}  // namespace rankfold
