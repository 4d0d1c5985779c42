#include <rankfold/nn/graph.hpp>

#include <algorithm>
#include <array>
#include <set>

#include <nlohmann/json.hpp>

namespace rankfold {

namespace {

using Json = nlohmann::ordered_json;

/// The names of an enumeration's values, in their order.
template <class Enum, std::size_t N>
std::string name_of(const std::array<const char*, N>& names, Enum value) {
    return names[static_cast<std::size_t>(value)];
}

template <class Enum, std::size_t N>
Enum value_of(const std::array<const char*, N>& names, const std::string& name, const char* what) {
    for (std::size_t i = 0; i < N; ++i) {
        if (name == names[i]) return static_cast<Enum>(i);
    }
    throw input_error("unknown ", what, " \"", name, "\"");
}

constexpr std::array activations{"identity", "relu", "tanh", "sigmoid", "gelu", "softmax"};
constexpr std::array kinds{"dense",   "factored", "embedding", "concat",
                           "product", "dot",      "sum",       "norm"};
constexpr std::array origins{"trained", "fixed", "external"};

LayerSpec layer_of(const Json& json) {
    LayerSpec layer;
    layer.name = json.at("name").get<std::string>();
    layer.kind = value_of<LayerKind>(kinds, json.at("kind"), "layer kind");
    layer.inputs = json.at("inputs").get<std::vector<std::string>>();
    layer.outputs = json.at("outputs").get<Index>();
    layer.activation = activation_of(json.value("activation", "identity"));
    layer.dropout = json.value("dropout", 0.0);
    if (layer.kind == LayerKind::factored) {
        layer.inner = json.at("inner").get<Index>();
        layer.u = value_of<Origin>(origins, json.value("u", "trained"), "origin");
        layer.v = value_of<Origin>(origins, json.value("v", "trained"), "origin");
        layer.v_of = json.value("v_of", "");
    }
    return layer;
}

Json json_of(const LayerSpec& layer) {
    Json json{{"name", layer.name},
              {"kind", name_of(kinds, layer.kind)},
              {"inputs", layer.inputs},
              {"outputs", layer.outputs},
              {"activation", activation_name(layer.activation)}};
    if (layer.dropout > 0.0) json["dropout"] = layer.dropout;
    if (layer.kind == LayerKind::factored) {
        json["inner"] = layer.inner;
        json["u"] = name_of(origins, layer.u);
        json["v"] = name_of(origins, layer.v);
        if (!layer.v_of.empty()) json["v_of"] = layer.v_of;
    }
    return json;
}

}  // namespace

std::string kind_name(LayerKind kind) {
    return name_of(kinds, kind);
}

std::string activation_name(Activation f) {
    return name_of(activations, f);
}

Activation activation_of(const std::string& name) {
    return value_of<Activation>(activations, name, "activation");
}

Graph Graph::parse(const std::string& text) {
    Graph graph;
    try {
        const Json json = Json::parse(text);
        for (const Json& input : json.at("inputs")) {
            graph.inputs.push_back({.name = input.at("name"),
                                    .width = input.at("width"),
                                    .index = input.value("index", false),
                                    .sparse = input.value("sparse", false)});
        }
        for (const Json& layer : json.at("layers")) graph.layers.push_back(layer_of(layer));
    } catch (const Json::exception& error) {
        throw input_error("the network's graph cannot be read: ", error.what());
    }
    graph.check();
    return graph;
}

std::string Graph::text() const {
    Json json;
    json["inputs"] = Json::array();
    for (const InputSpec& input : inputs) {
        json["inputs"].push_back({{"name", input.name}, {"width", input.width}});
        if (input.index) json["inputs"].back()["index"] = true;
        if (input.sparse) json["inputs"].back()["sparse"] = true;
    }
    json["layers"] = Json::array();
    for (const LayerSpec& layer : layers) json["layers"].push_back(json_of(layer));
    return json.dump();
}

Index Graph::width(const std::string& name) const {
    for (const InputSpec& input : inputs) {
        if (input.name == name) return input.width;
    }
    for (const LayerSpec& layer : layers) {
        if (layer.name == name) return layer.outputs;
    }
    throw input_error("the network has no layer or input \"", name, "\"");
}

bool Graph::names_rows(const std::string& name) const {
    for (const InputSpec& input : inputs) {
        if (input.name == name) return input.index || input.sparse;
    }
    return false;
}

void Graph::check_inputs(const LayerSpec& layer) {
    const std::size_t n = layer.inputs.size();
    const bool joins = layer.kind == LayerKind::concat || layer.kind == LayerKind::product ||
                       layer.kind == LayerKind::sum;
    if (layer.kind == LayerKind::dot ? n != 2 : joins ? n == 0 : n != 1) {
        throw input_error("layer \"", layer.name, "\" must have ",
                          layer.kind == LayerKind::dot ? "two inputs"
                          : joins                      ? "inputs"
                                                       : "one input");
    }
}

void Graph::check_widths(const LayerSpec& layer) const {
    Index total = 0;
    bool equal = true;
    for (const std::string& input : layer.inputs) {
        total += width(input);
        equal = equal && width(input) == width(layer.inputs.front());
    }
    const Index first = width(layer.inputs.front());
    Index wanted = layer.outputs;
    if (layer.kind == LayerKind::concat) wanted = total;
    if (layer.kind == LayerKind::dot) wanted = 1;
    if (layer.kind == LayerKind::product || layer.kind == LayerKind::sum ||
        layer.kind == LayerKind::norm) {
        wanted = first;
    }
    const bool alike = layer.kind == LayerKind::concat || equal;
    if (layer.outputs == wanted && alike) return;
    throw input_error("layer \"", layer.name, "\" has ", layer.outputs,
                      " outputs, which do not fit its inputs");
}

void Graph::check_shared(const LayerSpec& layer) const {
    if (layer.v_of.empty()) return;
    const auto owner = std::ranges::find(layers, layer.v_of, &LayerSpec::name);
    const bool earlier = owner != layers.end() && &*owner < &layer;
    if (earlier && owner->stores_v() && owner->v == Origin::fixed && layer.v == Origin::fixed &&
        owner->inner == layer.inner &&
        width(owner->inputs.front()) == width(layer.inputs.front())) {
        return;
    }
    throw input_error("layer \"", layer.name, "\" cannot share the factor V of \"", layer.v_of,
                      "\": that is no earlier layer with a fixed one of its shape");
}

void Graph::check() const {
    constexpr Index most = 1 << 30;  // widths that fit an int, as BLAS wants them
    const auto fits = [](Index size) { return size > 0 && size <= most; };
    std::set<std::string> known;
    for (const InputSpec& input : inputs) {
        if (!fits(input.width)) throw input_error("input \"", input.name, "\" has no proper width");
        if (!known.insert(input.name).second) {
            throw input_error("the name \"", input.name, "\" stands twice in the network");
        }
        if (input.index && input.sparse) {
            throw input_error("input \"", input.name, "\" cannot be both index and sparse");
        }
    }
    if (inputs.empty() || layers.empty()) throw input_error("the network has no layers");
    for (const LayerSpec& layer : layers) {
        const auto wrong = [&](const std::string& what) {
            return input_error("layer \"", layer.name, "\" ", what);
        };
        if (layer.name.empty() || layer.name.find('/') != std::string::npos) {
            throw wrong("has no proper name");
        }
        check_inputs(layer);
        for (const std::string& input : layer.inputs) {
            if (!known.contains(input)) throw wrong("uses \"" + input + "\" before it is known");
            if (names_rows(input) != (layer.kind == LayerKind::embedding)) {
                throw wrong("cannot read \"" + input +
                            "\": indices and sparse rows are for embeddings only");
            }
        }
        if (!fits(layer.outputs)) throw wrong("has no proper number of outputs");
        if (!(layer.dropout >= 0.0 && layer.dropout < 1.0))
            throw wrong("has dropout not in [0, 1)");
        if (layer.kind == LayerKind::factored && !fits(layer.inner)) {
            throw wrong("has no proper inner size");
        }
        check_widths(layer);
        check_shared(layer);
        const bool plain = !has_map(layer.kind) && layer.kind != LayerKind::norm;
        if (plain && (layer.activation != Activation::identity || layer.dropout > 0.0)) {
            throw wrong("can have neither activation nor dropout");
        }
        if (!known.insert(layer.name).second) throw wrong("stands twice in the network");
    }
}

Graph dense_chain(Index width, const std::vector<Index>& hidden, Index outputs,
                  Activation activation, double dropout) {
    Graph graph;
    graph.inputs.push_back({.name = "input", .width = width});
    std::string before = "input";
    for (std::size_t l = 0; l < hidden.size(); ++l) {
        graph.layers.push_back({.name = "hidden" + std::to_string(l + 1),
                                .inputs = {before},
                                .outputs = hidden[l],
                                .activation = activation,
                                .dropout = dropout});
        before = graph.layers.back().name;
    }
    graph.layers.push_back({.name = "output", .inputs = {before}, .outputs = outputs});
    return graph;
}

Graph with_layer_norms(const Graph& chain) {
    Graph graph{.inputs = chain.inputs, .layers = {}};
    std::string before = chain.inputs.front().name;
    for (LayerSpec layer : chain.layers) {
        layer.inputs = {before};
        if (layer.name != "output") {
            graph.layers.push_back(layer);
            graph.layers.back().activation = Activation::identity;
            graph.layers.back().dropout = 0.0;
            layer.kind = LayerKind::norm;
            layer.inputs = {layer.name};
            layer.name += "_norm";
        }
        before = layer.name;
        graph.layers.push_back(layer);
    }
    return graph;
}

}  // namespace rankfold
