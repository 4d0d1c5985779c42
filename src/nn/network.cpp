#include <rankfold/nn/network.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include <rankfold/core/random.hpp>
#include <rankfold/linalg/blas.hpp>

namespace rankfold {

namespace {

std::size_t at(Index i) {
    return static_cast<std::size_t>(i);
}

/// Where a layer's input comes from: input i as −1 − i, a layer as its number.
Index source_of(const Graph& graph, const std::string& name) {
    for (std::size_t i = 0; i < graph.inputs.size(); ++i) {
        if (graph.inputs[i].name == name) return -1 - static_cast<Index>(i);
    }
    const auto found = std::ranges::find(graph.layers, name, &LayerSpec::name);
    return static_cast<Index>(found - graph.layers.begin());
}

Graph checked(Graph graph) {
    graph.check();
    return graph;
}

/// True for the layers that multiply: the others look up or copy.
bool has_map(const LayerSpec& layer) {
    return layer.kind == LayerKind::dense || layer.kind == LayerKind::factored;
}

template <Real R>
MatrixView<R> first_rows(DenseMatrix<R>& matrix, Index rows) {
    return matrix.view().row_block({0, rows});
}

template <Real R>
MatrixView<const R> first_rows(const DenseMatrix<R>& matrix, Index rows) {
    return matrix.view().row_block({0, rows});
}

}  // namespace

template <Real R>
std::vector<ParameterTensor> Network<R>::declare(const Graph& graph) {
    std::vector<ParameterTensor> tensors;
    for (std::size_t l = 0; l < graph.layers.size(); ++l) {
        const LayerSpec& layer = graph.layers[l];
        const Index in = graph.width(layer.inputs.front());
        if (layer.kind == LayerKind::embedding) {
            tensors.push_back({.path = "embeddings/" + layer.name,
                               .layer = static_cast<Index>(l),
                               .part = Part::weight,
                               .rows = in,
                               .cols = layer.outputs});
        }
        if (!has_map(layer)) continue;
        const auto add = [&](Part part, const char* name, Index rows, Index cols, bool trained) {
            tensors.push_back({.path = "layers/" + layer.name + "/" + name,
                               .layer = static_cast<Index>(l),
                               .part = part,
                               .rows = rows,
                               .cols = cols,
                               .trained = trained});
        };
        if (layer.kind == LayerKind::dense) {
            add(Part::weight, "weight", layer.outputs, in, true);
        } else {
            if (layer.u == Origin::external) {
                throw input_error("layer \"", layer.name, "\": only v can be external");
            }
            add(Part::u, "u", layer.outputs, layer.inner, layer.u == Origin::trained);
            if (layer.v != Origin::external) {
                add(Part::v, "v", in, layer.inner, layer.v == Origin::trained);
            }
        }
        add(Part::bias, "bias", layer.outputs, 0, true);
    }
    return tensors;
}

template <Real R>
Network<R>::Network(Graph graph) : graph_{checked(std::move(graph))}, arena_{declare(graph_)} {
    for (const LayerSpec& spec : graph_.layers) {
        const Index in = graph_.width(spec.inputs.front());
        Layer& layer = layers_.emplace_back();
        if (spec.kind == LayerKind::dense) layer.map = DenseMap<R>(in, spec.outputs);
        if (spec.kind == LayerKind::factored) {
            layer.map = FactoredMap<R>(in, spec.outputs, spec.inner, spec.u == Origin::trained,
                                       spec.v == Origin::trained);
        }
        for (const std::string& input : spec.inputs) {
            layer.sources.push_back({.place = source_of(graph_, input)});
        }
    }
    // the backward pass goes from the last layer to the first: the first there to write begins
    std::set<Index> begun;
    for (Index l = layers() - 1; l >= 0; --l) {
        for (Source& source : layers_[at(l)].sources) {
            source.adds = !begun.insert(source.place).second;
        }
    }
    for (Index l = 0; l < layers(); ++l) bind(l);
}

template <Real R>
void Network<R>::bind(Index layer) {
    const LayerSpec& spec = graph_.layers[at(layer)];
    const std::string path = "layers/" + spec.name + "/";
    Layer& mine = layers_[at(layer)];
    if (spec.kind == LayerKind::embedding) mine.table = arena_.matrix("embeddings/" + spec.name);
    if (!mine.map) return;
    mine.bias = arena_.matrix(path + "bias");
    if (auto* dense = std::get_if<DenseMap<R>>(&*mine.map)) {
        dense->bind(arena_.matrix(path + "weight"));
    } else {
        const MatrixView<const R> v = spec.v == Origin::external
                                          ? mine.attached.view()
                                          : MatrixView<const R>(arena_.matrix(path + "v"));
        std::get<FactoredMap<R>>(*mine.map).bind(arena_.matrix(path + "u"), v);
    }
}

template <Real R>
void Network<R>::initialize(std::uint64_t seed) {
    const Philox random(seed, Stream::weights);
    for (const ParameterTensor& tensor : arena_.tensors()) {
        const MatrixView<R> values = arena_.matrix(tensor.path);
        const LayerSpec& layer = graph_.layers[at(tensor.layer)];
        const bool external = layer.kind == LayerKind::factored && layer.v == Origin::external;
        // an external V is taken to make `inner` inputs of unit size
        const double in =
            static_cast<double>(external ? layer.inner : graph_.width(layer.inputs.front()));
        const double out = static_cast<double>(layer.outputs);
        double variance = layer.activation == Activation::relu ? 2.0 / in : 2.0 / (in + out);
        if (tensor.part == Part::bias) variance = 0.0;
        if (layer.kind == LayerKind::embedding) variance = 0.01;
        if (!external && (tensor.part == Part::u || tensor.part == Part::v)) {
            variance = std::sqrt(variance / static_cast<double>(layer.inner));  // that of U Vᵀ
        }
        const double bound = std::sqrt(3.0 * variance);
        const Index stream = tensor.layer * 4 + static_cast<Index>(tensor.part);
        Index element = 0;
        for (Index i = 0; i < values.rows; ++i) {
            for (R& x : values.row(i)) {
                x = static_cast<R>(bound * (2.0 * random.uniform(stream, element++) - 1.0));
            }
        }
    }
}

template <Real R>
void Network<R>::attach(const std::string& layer, DenseMatrix<R> v) {
    const Index l = source_of(graph_, layer);
    RANKFOLD_EXPECT(l >= 0 && l < layers());
    const LayerSpec& spec = graph_.layers[at(l)];
    RANKFOLD_EXPECT(spec.v == Origin::external);
    RANKFOLD_EXPECT(v.rows() == graph_.width(spec.inputs.front()) && v.cols() == spec.inner);
    layers_[at(l)].attached = std::move(v);
    bind(l);
}

template <Real R>
void Network<R>::prepare(Index rows) {
    for (Layer& layer : layers_) {
        if (layer.map) std::visit([rows](auto& map) { map.prepare(rows); }, *layer.map);
    }
}

template <Real R>
Workspace<R> Network<R>::workspace(Index capacity, Purpose purpose) const {
    const bool training = purpose == Purpose::training;
    Workspace<R> ws;
    ws.capacity = capacity;
    for (const InputSpec& input : graph_.inputs) {
        ws.inputs.emplace_back(input.index ? 0 : capacity, input.width);
        ws.indices.emplace_back(at(input.index ? capacity : 0), 0);
    }
    for (Index l = 0; l < layers(); ++l) {
        const LayerSpec& spec = graph_.layers[at(l)];
        LayerSpace<R>& space = ws.layers.emplace_back();
        space.output = DenseMatrix<R>(capacity, spec.outputs);
        const bool shared =
            l == layers() - 1 && spec.activation == Activation::identity && spec.dropout == 0.0;
        if (training && !shared) space.d_output = DenseMatrix<R>(capacity, spec.outputs);
        if (training && spec.dropout > 0.0) space.kept.resize(at(capacity * spec.outputs));
        if (!layers_[at(l)].map) continue;
        std::visit([&](const auto& map) { map.reserve(capacity, training, space.map); },
                   *layers_[at(l)].map);
    }
    return ws;
}

template <Real R>
MatrixView<const R> Network<R>::input_of(Index layer, const Workspace<R>& ws,
                                         std::size_t source) const {
    const Index place = layers_[at(layer)].sources[source].place;
    return first_rows(place < 0 ? ws.inputs[at(-1 - place)] : ws.layers[at(place)].output, ws.rows);
}

template <Real R>
const std::vector<Index>& Network<R>::indices_of(Index layer, const Workspace<R>& ws) const {
    return ws.indices[at(-1 - layers_[at(layer)].sources.front().place)];
}

/// The forward pass of the layers without a map.
template <Real R>
void Network<R>::copy_inputs(Index layer, Workspace<R>& ws) const {
    const Layer& mine = layers_[at(layer)];
    const auto z = first_rows(ws.layers[at(layer)].output, ws.rows);
    if (graph_.layers[at(layer)].kind == LayerKind::embedding) {
        const std::vector<Index>& indices = indices_of(layer, ws);
        for (Index i = 0; i < ws.rows; ++i) {
            std::ranges::copy(mine.table.row(indices[at(i)]), z.row(i).begin());
        }
        return;
    }
    Index first = 0;
    for (std::size_t s = 0; s < mine.sources.size(); ++s) {
        const auto x = input_of(layer, ws, s);
        for (Index i = 0; i < ws.rows; ++i) {
            std::ranges::copy(x.row(i), z.row(i).begin() + first);
        }
        first += x.cols;
    }
}

template <Real R>
MatrixView<const R> Network<R>::d_of(Index layer, const Workspace<R>& ws) const {
    const LayerSpace<R>& space = ws.layers[at(layer)];
    return first_rows(space.d_output.rows() > 0 ? space.d_output : space.output, ws.rows);
}

template <Real R>
MatrixView<R> Network<R>::output(Workspace<R>& ws) const {
    return first_rows(ws.layers.back().output, ws.rows);
}

template <Real R>
MatrixView<R> Network<R>::d_output(Workspace<R>& ws) const {
    LayerSpace<R>& space = ws.layers.back();
    return first_rows(space.d_output.rows() > 0 ? space.d_output : space.output, ws.rows);
}

template <Real R>
void Network<R>::forward(Workspace<R>& ws, const DropoutKey* dropout) const {
    RANKFOLD_EXPECT(ws.rows <= ws.capacity);
    for (Index l = 0; l < layers(); ++l) {
        const LayerSpec& spec = graph_.layers[at(l)];
        LayerSpace<R>& space = ws.layers[at(l)];
        const auto z = first_rows(space.output, ws.rows);
        if (!layers_[at(l)].map) {
            copy_inputs(l, ws);
            continue;
        }
        std::visit([&](const auto& map) { map.forward(input_of(l, ws), z, space.map); },
                   *layers_[at(l)].map);
        bias_activation<R>(z, layers_[at(l)].bias.row(0), spec.activation);
        if (dropout != nullptr && spec.dropout > 0.0) drop(l, ws, *dropout);
    }
}

template <Real R>
void Network<R>::drop(Index layer, Workspace<R>& ws, const DropoutKey& key) const {
    const LayerSpec& spec = graph_.layers[at(layer)];
    LayerSpace<R>& space = ws.layers[at(layer)];
    const Philox random(key.seed, Stream::dropout);
    const auto limit = static_cast<std::uint64_t>(std::ldexp(spec.dropout, 32));
    const R grow = static_cast<R>(1.0 / (1.0 - spec.dropout));
    for (Index i = 0; i < ws.rows; ++i) {
        const auto sample = static_cast<std::uint64_t>(key.samples[at(i)]);
        const auto epoch = static_cast<std::uint64_t>(key.epoch);
        const std::span<R> out = space.output.row(i);
        std::uint8_t* kept = space.kept.data() + i * spec.outputs;
        std::array<std::uint32_t, 4> bits{};
        for (std::size_t j = 0; j < out.size(); ++j) {
            if (j % 4 == 0) {
                bits = random.block((epoch << 40) + sample,
                                    (static_cast<std::uint64_t>(layer) << 40) + j / 4);
            }
            kept[j] = bits[j % 4] >= limit ? 1 : 0;
            out[j] *= kept[j] != 0 ? grow : R{0};
        }
    }
}

template <Real R>
void Network<R>::begin_backward(Index layer, Workspace<R>& ws) const {
    const LayerSpec& spec = graph_.layers[at(layer)];
    LayerSpace<R>& space = ws.layers[at(layer)];
    if (space.d_output.rows() > 0) {
        const auto d = first_rows(space.d_output, ws.rows);
        const auto a = first_rows(space.output, ws.rows);
        if (spec.dropout > 0.0) {
            // the stored output is f(z) / (1 − q) where kept: undo it for f', and mask d
            const R keep = static_cast<R>(1.0 - spec.dropout);
            const R grow = R{1} / keep;
            for (Index i = 0; i < ws.rows; ++i) {
                const std::uint8_t* kept = space.kept.data() + i * spec.outputs;
                for (Index j = 0; j < spec.outputs; ++j) {
                    a(i, j) *= keep;
                    d(i, j) *= kept[j] != 0 ? grow : R{0};
                }
            }
        }
        activation_gradient<R>(a, spec.activation, d);
    }
    if (!layers_[at(layer)].map) return;
    std::visit(
        [&](const auto& map) {
            map.begin_gradient(input_of(layer, ws), d_of(layer, ws), space.map);
        },
        *layers_[at(layer)].map);
}

template <Real R>
void Network<R>::gradient(const ParameterTensor& tensor, Range tile, const Workspace<R>& ws,
                          MatrixView<R> out) const {
    const MatrixView<const R> d = d_of(tensor.layer, ws);
    if (tensor.part == Part::bias) {
        const auto columns = d.col_block(tile);
        std::ranges::fill(out.row(0), R{0});
        for (Index i = 0; i < ws.rows; ++i) add_to<R>(columns.row(i), out.row(0));
        return;
    }
    if (!layers_[at(tensor.layer)].map) {  // an embedding: each sample adds to its row
        for (Index r = 0; r < out.rows; ++r) std::ranges::fill(out.row(r), R{0});
        const std::vector<Index>& indices = indices_of(tensor.layer, ws);
        for (Index i = 0; i < ws.rows; ++i) {
            const Index row = indices[at(i)];
            if (tile.contains(row)) add_to<R>(d.row(i), out.row(row - tile.begin));
        }
        return;
    }
    std::visit(
        [&](const auto& map) {
            map.gradient(tensor.part, tile, input_of(tensor.layer, ws), d,
                         ws.layers[at(tensor.layer)].map, out);
        },
        *layers_[at(tensor.layer)].map);
}

template <Real R>
void Network<R>::input_gradient(Index layer, Workspace<R>& ws) const {
    const Layer& mine = layers_[at(layer)];
    const auto d = d_of(layer, ws);
    Index first = 0;  // concat: where the source's columns begin
    for (const Source& source : mine.sources) {
        if (source.place < 0) {
            if (!mine.map && graph_.layers[at(layer)].kind == LayerKind::concat) {
                first += graph_.inputs[at(-1 - source.place)].width;
            }
            continue;
        }
        const auto dx = first_rows(ws.layers[at(source.place)].d_output, ws.rows);
        if (mine.map) {
            std::visit(
                [&](const auto& map) {
                    map.input_gradient(d, ws.layers[at(layer)].map, source.adds ? R{1} : R{0}, dx);
                },
                *mine.map);
            continue;
        }
        const auto part = d.col_block({first, first + dx.cols});
        for (Index i = 0; i < ws.rows; ++i) {
            if (source.adds) {
                add_to<R>(part.row(i), dx.row(i));
            } else {
                std::ranges::copy(part.row(i), dx.row(i).begin());
            }
        }
        first += dx.cols;
    }
}

template <Real R>
double Network<R>::forward_flops(Index rows) const {
    double flops = 0.0;
    for (const Layer& layer : layers_) {
        if (!layer.map) continue;
        flops += std::visit([&](const auto& map) { return map.forward_flops(rows); }, *layer.map);
    }
    return flops;
}

template <Real R>
double Network<R>::backward_flops(Index rows) const {
    double flops = 0.0;
    for (const Layer& layer : layers_) {
        if (!layer.map) continue;
        const bool first = layer.sources.front().place < 0;
        flops += std::visit(
            [&](const auto& map) {
                return map.gradient_flops(rows) + (first ? 0.0 : map.input_gradient_flops(rows));
            },
            *layer.map);
    }
    return flops;
}

template <Real R>
std::optional<std::pair<std::string, Index>> Network<R>::first_non_finite(
    const Workspace<R>& ws) const {
    for (Index l = 0; l < layers(); ++l) {
        for (Index i = 0; i < ws.rows; ++i) {
            for (const R x : ws.layers[at(l)].output.row(i)) {
                if (!std::isfinite(x)) return std::pair{graph_.layers[at(l)].name, i};
            }
        }
    }
    return std::nullopt;
}

template class Network<float>;
template class Network<double>;

}  // namespace rankfold
