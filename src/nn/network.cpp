#include <rankfold/nn/network.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include <rankfold/core/random.hpp>
#include <rankfold/core/subscript.hpp>
#include <rankfold/nn/gradient_sum.hpp>
#include <rankfold/nn/joins.hpp>

namespace rankfold {

namespace {

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
        const auto add = [&](Part part, const std::string& path, Index rows, Index cols,
                             bool trained = true) {
            tensors.push_back({.path = path,
                               .layer = static_cast<Index>(l),
                               .part = part,
                               .rows = rows,
                               .cols = cols,
                               .trained = trained,
                               .table = layer.kind == LayerKind::embedding});
        };
        const std::string path = "layers/" + layer.name + "/";
        if (layer.kind == LayerKind::embedding) {
            add(Part::weight, "embeddings/" + layer.name, in, layer.outputs);
        } else if (layer.kind == LayerKind::dense) {
            add(Part::weight, path + "weight", layer.outputs, in);
        } else if (layer.kind == LayerKind::norm) {
            add(Part::gain, path + "gain", layer.outputs, 0);
        } else if (layer.kind == LayerKind::factored) {
            if (layer.u == Origin::external) {
                throw input_error("layer \"", layer.name, "\": only v can be external");
            }
            add(Part::u, path + "u", layer.outputs, layer.inner, layer.u == Origin::trained);
            if (layer.stores_v()) {
                add(Part::v, path + "v", in, layer.inner, layer.v == Origin::trained);
            }
        }
        if (has_map(layer.kind) || layer.kind == LayerKind::norm) {
            add(Part::bias, path + "bias", layer.outputs, 0);
        }
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
    plan_backward();
    for (Index l = 0; l < layers(); ++l) bind(l);
}

/// The backward pass goes from the last layer to the first: the first there to write a layer's
/// gradient begins it, the others add, and the last one applies f', if it has an epilogue for it.
template <Real R>
void Network<R>::plan_backward() {
    std::map<Index, Source*> last;
    std::map<Source*, bool> multiplies;
    for (Index l = layers() - 1; l >= 0; --l) {
        for (Source& source : layers_[at(l)].sources) {
            source.adds = last.contains(source.place);
            last[source.place] = &source;
            multiplies[&source] = layers_[at(l)].map.has_value();
        }
    }
    for (const auto& [place, source] : last) {
        if (place < 0 || !multiplies[source]) continue;
        const LayerSpec& spec = graph_.layers[at(place)];
        source->finishes = spec.dropout == 0.0 && spec.activation != Activation::softmax;
        layers_[at(place)].finished = source->finishes;
    }
}

template <Real R>
void Network<R>::bind(Index layer) {
    const LayerSpec& spec = graph_.layers[at(layer)];
    const std::string path = "layers/" + spec.name + "/";
    Layer& mine = layers_[at(layer)];
    if (spec.kind == LayerKind::embedding) mine.table = arena_.matrix("embeddings/" + spec.name);
    if (spec.kind == LayerKind::norm) mine.gain = arena_.matrix(path + "gain");
    if (!mine.map && spec.kind != LayerKind::norm) return;
    mine.bias = arena_.matrix(path + "bias");
    if (spec.activation == Activation::gelu) mine.no_bias.assign(at(spec.outputs), R{0});
    if (!mine.map) return;
    if (auto* dense = std::get_if<DenseMap<R>>(&*mine.map)) {
        dense->bind(arena_.matrix(path + "weight"));
    } else {
        const std::string& owner = spec.v_of.empty() ? spec.name : spec.v_of;
        const MatrixView<const R> v =
            spec.v == Origin::external
                ? mine.attached.view()
                : MatrixView<const R>(arena_.matrix("layers/" + owner + "/v"));
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
        const bool half =
            layer.activation == Activation::relu || layer.activation == Activation::gelu;
        double variance = half ? 2.0 / in : 2.0 / (in + out);
        if (tensor.part == Part::bias) variance = 0.0;
        if (layer.kind == LayerKind::embedding) variance = 0.01;
        if (!external && (tensor.part == Part::u || tensor.part == Part::v)) {
            variance = std::sqrt(variance / static_cast<double>(layer.inner));  // that of U Vᵀ
        }
        if (tensor.part == Part::gain) {
            std::ranges::fill(values.row(0), R{1});
            continue;
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
Workspace<R> Network<R>::workspace(Index capacity, Purpose purpose, Index blocks) const {
    const bool training = purpose == Purpose::training;
    Workspace<R> ws;
    ws.capacity = capacity;
    for (const InputSpec& input : graph_.inputs) {
        ws.inputs.emplace_back(input.index || input.sparse ? 0 : capacity, input.width);
        ws.sparse.emplace_back(at(input.sparse ? capacity : 0));
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
        const bool before_dropout =
            training && spec.activation == Activation::softmax && spec.dropout > 0.0;
        if (spec.activation == Activation::gelu || before_dropout) {
            space.kept_back = DenseMatrix<R>(capacity, spec.outputs);
        }
        if (spec.kind == LayerKind::norm) {
            space.unit = DenseMatrix<R>(capacity, spec.outputs);
            space.spread.resize(at(capacity));
        }
        if (!layers_[at(l)].map) continue;
        std::visit(
            [&](const auto& map) { map.reserve(capacity, training ? blocks : 0, space.map); },
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
std::vector<MatrixView<const R>> Network<R>::inputs_of(Index layer, const Workspace<R>& ws) const {
    std::vector<MatrixView<const R>> inputs;
    for (std::size_t s = 0; s < layers_[at(layer)].sources.size(); ++s) {
        inputs.push_back(input_of(layer, ws, s));
    }
    return inputs;
}

template <Real R>
MatrixView<const R> Network<R>::derived_from(Index layer, const Workspace<R>& ws) const {
    const LayerSpace<R>& space = ws.layers[at(layer)];
    const bool other = space.kept_back.rows() > 0;
    return first_rows(other ? space.kept_back : space.output, ws.rows);
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
        forward_layer(l, ws);
        if (dropout != nullptr && graph_.layers[at(l)].dropout > 0.0) drop(l, ws, *dropout);
    }
}

template <Real R>
void Network<R>::forward_layer(Index layer, Workspace<R>& ws) const {
    const LayerSpec& spec = graph_.layers[at(layer)];
    const Layer& mine = layers_[at(layer)];
    LayerSpace<R>& space = ws.layers[at(layer)];
    const auto z = first_rows(space.output, ws.rows);
    if (spec.kind == LayerKind::embedding) {
        const auto input = at(-1 - mine.sources.front().place);
        if (graph_.inputs[input].sparse) {
            sum_table_rows<R>(mine.table, ws.sparse[input], ws.products.threads, z);
        } else {
            copy_table_rows<R>(mine.table, ws.indices[input], z);
        }
        return;
    }
    if (!mine.map && spec.kind != LayerKind::norm) {
        join_forward<R>(spec.kind, inputs_of(layer, ws), z);
        return;
    }
    const bool keeps = spec.activation == Activation::gelu;
    const bool whole_rows = spec.activation == Activation::softmax;
    const auto to = keeps ? first_rows(space.kept_back, ws.rows) : z;
    const Epilogue<R> epilogue{.bias = whole_rows ? std::span<const R>() : mine.bias.row(0),
                               .f = keeps ? Activation::identity : spec.activation};
    if (mine.map) {
        std::visit(
            [&](const auto& map) {
                map.forward(input_of(layer, ws), epilogue, to, space.map, ws.products);
            },
            *mine.map);
    } else {
        norm_forward<R>(input_of(layer, ws), mine.gain.row(0), first_rows(space.unit, ws.rows),
                        space.spread, to);
        if (!whole_rows) bias_activation<R>(to, epilogue.bias, epilogue.f);
    }
    if (whole_rows) bias_softmax<R>(z, mine.bias.row(0));
    if (keeps) {
        std::copy_n(to.data, to.rows * to.cols, z.data);
        bias_activation<R>(z, mine.no_bias, spec.activation);
    }
}

template <Real R>
void Network<R>::drop(Index layer, Workspace<R>& ws, const DropoutKey& key) const {
    const LayerSpec& spec = graph_.layers[at(layer)];
    LayerSpace<R>& space = ws.layers[at(layer)];
    const Philox random(key.seed, Stream::dropout);
    const auto limit = static_cast<std::uint64_t>(std::ldexp(spec.dropout, 32));
    const R grow = static_cast<R>(1.0 / (1.0 - spec.dropout));
    if (spec.activation == Activation::softmax) {
        std::copy_n(space.output.data().begin(), ws.rows * spec.outputs,
                    space.kept_back.data().begin());
    }
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
        if (spec.activation == Activation::softmax) {
            softmax_gradient<R>(derived_from(layer, ws), d);
        } else if (!layers_[at(layer)].finished) {
            activation_gradient<R>(derived_from(layer, ws), spec.activation, d);
        }
    }
    if (!layers_[at(layer)].map) return;
    std::visit(
        [&](const auto& map) {
            map.begin_gradient(input_of(layer, ws), d_of(layer, ws), ws.ends, space.map,
                               ws.products);
        },
        *layers_[at(layer)].map);
}

template <Real R>
void Network<R>::gradient(const ParameterTensor& tensor, std::span<const Range> nodes,
                          std::span<R* const> out, bool add, Workspace<R>& ws) const {
    RANKFOLD_EXPECT(!tensor.table && (ws.ends.empty() ? 0 : ws.ends.back()) == ws.rows);
    const MatrixView<const R> d = d_of(tensor.layer, ws);
    LayerSpace<R>& space = ws.layers[at(tensor.layer)];
    if (tensor.part != Part::bias && tensor.part != Part::gain) {
        const GradientRequest<R> request{ws.ends, nodes, out, add};
        std::visit(
            [&](const auto& map) {
                map.gradient(tensor.part, input_of(tensor.layer, ws), d, request, space.map,
                             ws.products);
            },
            *layers_[at(tensor.layer)].map);
        return;
    }
    AlignedVector<R> terms(at(tensor.rows));
    const auto leaf = [&](Index block, std::span<R> to) {
        std::ranges::fill(to, R{0});
        for (Index i = block == 0 ? 0 : ws.ends[at(block - 1)]; i < ws.ends[at(block)]; ++i) {
            if (tensor.part == Part::bias) {
                add_to<R>(d.row(i), to);
                continue;
            }
            std::ranges::copy(d.row(i), terms.begin());
            multiply_to<R>(std::as_const(space.unit).row(i), terms);
            add_to<R>(terms, to);
        }
    };
    AlignedVector<R> sum(at(tensor.rows));
    for (std::size_t n = 0; n < nodes.size(); ++n) {
        sum_tree<R>(nodes[n], std::span<R>(sum), leaf);
        const std::span<R> to(out[n], sum.size());
        if (add) {
            add_to<R>(sum, to);
        } else {
            std::ranges::copy(sum, to.begin());
        }
    }
}

template <Real R>
void Network<R>::input_gradient(Index layer, Workspace<R>& ws) const {
    const Layer& mine = layers_[at(layer)];
    LayerSpace<R>& space = ws.layers[at(layer)];
    const auto d = d_of(layer, ws);
    for (std::size_t s = 0; s < mine.sources.size(); ++s) {
        const Source& source = mine.sources[s];
        if (source.place < 0) continue;
        const auto dx = first_rows(ws.layers[at(source.place)].d_output, ws.rows);
        if (mine.map) {
            Epilogue<R> epilogue{.add = source.adds};
            if (source.finishes) {
                epilogue.outputs = derived_from(source.place, ws);
                epilogue.g = graph_.layers[at(source.place)].activation;
            }
            std::visit(
                [&](const auto& map) {
                    map.input_gradient(d, epilogue, dx, space.map, ws.products);
                },
                *mine.map);
        } else if (graph_.layers[at(layer)].kind == LayerKind::norm) {
            norm_gradient<R>(first_rows(std::as_const(space.unit), ws.rows), space.spread,
                             mine.gain.row(0), d, source.adds, dx);
        } else {
            join_gradient<R>(graph_.layers[at(layer)].kind, inputs_of(layer, ws), s, d, source.adds,
                             dx);
        }
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
std::optional<std::pair<std::string, Index>> Network<R>::first_non_finite(const Workspace<R>& ws,
                                                                          Range rows) const {
    for (Index l = 0; l < layers(); ++l) {
        for (Index i = rows.begin; i < rows.end; ++i) {
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
