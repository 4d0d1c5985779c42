#include <rankfold/cli/network_file.hpp>

#include <algorithm>
#include <array>

#include <rankfold/eval/scorer.hpp>
#include <rankfold/hybrid/towers.hpp>

namespace rankfold::cli {

namespace {

using nlohmann::json;

constexpr std::array inputs{NetworkInput::matrix, NetworkInput::factors,
                            NetworkInput::reconstruction, NetworkInput::indices,
                            NetworkInput::towers};

std::string text_of(const json& about, const char* name, const std::string& path) {
    const json value = about.value(name, json());
    if (!value.is_string()) {
        throw input_error("'", path, "' is not a complete network file: it has no attribute ",
                          name);
    }
    return value.get<std::string>();
}

double scale_of(const json& about, const char* name, const std::string& path) {
    const json value = about.value(name, json(1.0));
    if (!value.is_number() || !std::isfinite(value.get<double>())) {
        throw input_error("'", path, "': the attribute ", name, " is not a finite number");
    }
    return value.get<double>();
}

std::vector<std::string> names_of(const json& about, const std::string& path) {
    json names = about.value("class_names", json::array());
    if (names.is_string()) names = json::parse(names.get<std::string>(), nullptr, false);
    if (!names.is_array() || !std::ranges::all_of(names, &json::is_string)) {
        throw input_error("'", path, "': class_names is not a list of names");
    }
    return names.get<std::vector<std::string>>();
}

/// Refuses a network whose parts do not fit together.
template <Real R>
void check_model(const NetworkModel<R>& model, const std::string& path) {
    const Graph& graph = model.network.graph();
    const auto wrong = [&](const std::string& what) { return input_error("'", path, "': ", what); };
    if (model.input == NetworkInput::indices) {
        if (graph.inputs.size() != 2 || !graph.inputs[0].index || !graph.inputs[1].index) {
            throw wrong("a network on indices must have two: of a row and of a column");
        }
        const std::string head = head_name(model.head);
        if (head == "classes" || head == "columns") {
            throw wrong("a network on indices cannot have the head " + head);
        }
        if (scores_pairs(model) && model.network.outputs() != 1) {
            throw wrong("a network for pairs must have one output");
        }
        return;
    }
    if (model.input == NetworkInput::towers || head_name(model.head) == "factors") {
        if (model.input != NetworkInput::towers || head_name(model.head) != "factors") {
            throw wrong("towers have the head factors, and no other network has");
        }
        for (const char* side : {"row", "column"}) static_cast<void>(widths_in(graph, side));
        return;
    }
    if (scores_pairs(model)) throw wrong("a network for pairs must read indices");
    if (graph.inputs.size() != 1) throw wrong("the network must have one input");
    if (model.head == Loss::squared && model.network.outputs() != 1) {
        throw wrong("a network for ratings must have one output");
    }
    if (model.head == Loss::classes && std::ssize(model.class_names) != model.network.outputs()) {
        throw wrong("there must be one class name for each output");
    }
    const auto external = std::ranges::count(graph.layers, Origin::external, &LayerSpec::v);
    const bool first = graph.layers.front().v == Origin::external;
    if (external != (model.input == NetworkInput::reconstruction ? 1 : 0) ||
        (external == 1 && !first)) {
        throw wrong(
            "only the first layer of a network on the reconstruction is factored by the "
            "factors");
    }
}

/// The width of what a network on these factors reads. @collective
template <Real R>
Index factor_width(const NetworkModel<R>& model) {
    if (model.input == NetworkInput::reconstruction)
        return score_product(*model.factors).rows.cols();
    const Index rows = row_features(*model.factors).cols();
    return model.head == Loss::squared ? rows + col_features(*model.factors).cols() : rows;
}

}  // namespace

void check_shapes(const StateFile& file, const Graph& graph, const std::string& prefix) {
    const auto expect = [&](const std::string& tensor, const std::vector<Index>& wanted) {
        if (file.shape(tensor) != wanted) {
            throw input_error("'", file.path(), "': ", tensor,
                              " does not have the shape that the "
                              "graph says");
        }
    };
    for (const LayerSpec& layer : graph.layers) {
        if (layer.kind == LayerKind::embedding) {
            expect(prefix + "embeddings/" + layer.name,
                   {graph.width(layer.inputs.front()), layer.outputs});
        }
        const std::string path = prefix + "layers/" + layer.name + "/";
        const Index in = graph.width(layer.inputs.front());
        if (layer.kind == LayerKind::norm) expect(path + "gain", {layer.outputs});
        if (has_map(layer.kind) || layer.kind == LayerKind::norm) {
            expect(path + "bias", {layer.outputs});
        }
        if (layer.kind == LayerKind::dense) {
            expect(path + "weight", {layer.outputs, in});
        } else if (layer.kind == LayerKind::factored) {
            expect(path + "u", {layer.outputs, layer.inner});
            if (layer.stores_v()) expect(path + "v", {in, layer.inner});
        }
    }
}

std::string input_name(NetworkInput input) {
    switch (input) {
        case NetworkInput::matrix:
            return "matrix";
        case NetworkInput::factors:
            return "factors";
        case NetworkInput::indices:
            return "indices";
        case NetworkInput::towers:
            return "towers";
        case NetworkInput::reconstruction:
            break;
    }
    return "reconstruction";
}

NetworkInput input_of_name(const std::string& name) {
    for (const NetworkInput input : inputs) {
        if (input_name(input) == name) return input;
    }
    throw input_error("unknown input \"", name,
                      "\"; known are matrix, factors, reconstruction, indices and towers");
}

template <Real R>
TensorList NetworkModel<R>::tensors() {
    TensorList list = network.arena().list();
    if (factors) {
        TensorList more = factors->tensors("factors/");
        std::ranges::move(more.tensors, std::back_inserter(list.tensors));
    }
    if (!standard.mean.empty()) {
        const Index width = std::ssize(standard.mean);
        list.add_replicated("input/mean", {width}, std::span<R>(standard.mean));
        list.add_replicated("input/deviation", {width}, std::span<R>(standard.deviation));
    }
    return list;
}

template <Real R>
void write_network(const Communicator& comm, const std::string& path, NetworkModel<R>& model,
                   const Provenance& provenance, const MoreTensors& more) {
    FileNotes notes;
    notes.kind = "network";
    notes.attributes[""] = json{{"graph", model.network.graph().text()},
                                {"head", head_name(model.head)},
                                {"loss", loss_name(model.head)},
                                {"input", input_name(model.input)},
                                {"scale", model.scale},
                                {"col_scale", model.col_scale},
                                {"class_names", json(model.class_names).dump()}}
                               .dump();
    notes.histories[""] = model.history;
    if (!model.ids.file.empty()) notes.ids[""] = model.ids;
    if (model.factors) note_factors(notes, "factors", *model.factors);
    TensorList state = model.tensors();
    more.append_to(state, notes);
    write_state(comm, path, state, notes, provenance);
    if (!model.ids.file.empty()) model.ids = {path, "/"};
}

template <Real R>
std::shared_ptr<NetworkModel<R>> load_network(Run& run, const std::string& path) {
    if (auto held = run.handover.find<NetworkModel<R>>(path)) return held;
    const auto phase = run.comm.ledger().phase("read");
    const StateFile file(run.comm, path);
    if (file.kind() != "network") {
        throw input_error("'", path, "' holds ", file.kind(), ", not a network");
    }
    const json about = json::parse(file.attributes());
    Graph graph = Graph::parse(text_of(about, "graph", path));
    check_shapes(file, graph);
    auto model = std::make_shared<NetworkModel<R>>(
        NetworkModel<R>{.head = loss_of(text_of(about, "head", path), text_of(about, "loss", path)),
                        .input = input_of_name(text_of(about, "input", path)),
                        .scale = scale_of(about, "scale", path),
                        .col_scale = scale_of(about, "col_scale", path),
                        .class_names = names_of(about, path),
                        .network = Network<R>(std::move(graph)),
                        .factors = nullptr,
                        .ids = file.ids(),
                        .history = file.history()});
    check_model(*model, path);
    if (file.has("input/mean")) {
        const Index width = model->network.graph().inputs.front().width;
        for (const char* part : {"input/mean", "input/deviation"}) {
            if (file.shape(part) != std::vector<Index>{width}) {
                throw input_error("'", path, "': ", part, " is not as wide as the input");
            }
        }
        model->standard.mean.assign(static_cast<std::size_t>(width), R{0});
        model->standard.deviation.assign(static_cast<std::size_t>(width), R{1});
    }
    TensorList parameters = model->tensors();
    file.read(parameters);
    if (model->input == NetworkInput::matrix || scores_pairs(*model)) return model;
    model->factors = std::make_shared<Factors<R>>(read_factors<R>(run.comm, path));
    if (model->input == NetworkInput::indices) {
        const auto& names = model->network.graph().inputs;
        if (names[0].width != model->factors->rows.rows() ||
            names[1].width != model->factors->cols.rows()) {
            throw input_error("'", path,
                              "': the network's embeddings are not of the factors' rows "
                              "and columns");
        }
        return model;
    }
    if (model->input == NetworkInput::towers) {
        if (2 * model->factors->k() != model->network.outputs()) {
            throw input_error("'", path, "': the factors are not the towers' outputs");
        }
        return model;
    }
    if (factor_width(*model) != model->network.graph().inputs.front().width) {
        throw input_error("'", path, "': the factors are not as wide as what the network reads");
    }
    attach_factors(*model);
    return model;
}

template <Real R>
void attach_factors(NetworkModel<R>& model) {
    if (model.input != NetworkInput::reconstruction) return;
    const LayerSpec& first = model.network.graph().layers.front();
    const DenseMatrix<R> cols = gather_all(score_product(*model.factors).cols);
    if (cols.rows() != first.inner) {
        throw input_error("the network's first layer reads ", first.inner,
                          " columns, but the factors "
                          "have ",
                          cols.rows());
    }
    DenseMatrix<R> v(cols.cols(), cols.rows());
    for (Index j = 0; j < cols.rows(); ++j) {
        for (Index f = 0; f < cols.cols(); ++f) v(f, j) = cols(j, f);
    }
    model.network.attach(first.name, std::move(v));
}

template <Real R>
std::vector<Index> rows_in_factors(const MatrixData<R>& data, const Factors<R>& factors) {
    const Communicator& comm = data.comm();
    const Index known = factors.rows.rows();
    const auto map = match_names(comm, data.ids, factors.ids, "obs", data.rows(), known);
    const Range mine = data.layout().rank_rows(comm.rank());
    std::vector<Index> rows;
    comm.agree([&] {
        for (Index i = mine.begin; i < mine.end; ++i) {
            rows.push_back(map.empty() ? i : map[static_cast<std::size_t>(i)]);
            if (rows.back() >= 0 && rows.back() < known) continue;
            throw input_error("row ", i, " of ", data.file, " is not among the ", known,
                              " rows of the factors; use factors of "
                              "the same rows");
        }
    });
    return rows;
}

template <Real R>
NetworkScorer<R> network_scorer(NetworkModel<R>& model, const MatrixData<R>* data) {
    if (model.input == NetworkInput::indices || model.input == NetworkInput::towers) {
        throw input_error("this network scores pairs of rows and columns (head ",
                          head_name(model.head), "); use `rankfold evaluate` or `recommend`");
    }
    if (needs_data(model) && data == nullptr) {
        throw input_error("this network (head ", head_name(model.head), ", input ",
                          input_name(model.input), ") needs a matrix whose rows it is to read");
    }
    const Index width = model.network.graph().inputs.front().width;
    if (model.input == NetworkInput::matrix) {
        if (data->cols() != width) {
            throw input_error(data->file, " has ", data->cols(), " columns, but the network reads ",
                              width);
        }
        InputRows<R> rows = data->sparse ? InputRows<R>(*data->sparse, data->layout(), model.scale)
                                         : InputRows<R>(*data->dense, data->layout(), model.scale);
        if (!model.standard.mean.empty()) {
            rows.standardise(model.standard.mean, model.standard.deviation);
        }
        return {model.network, std::move(rows), tile_rows(model.network.outputs())};
    }
    BlockRows<R> features = model.input == NetworkInput::reconstruction
                                ? score_product(*model.factors).rows
                                : row_features(*model.factors);
    if (needs_data(model)) {
        features = take_rows(features, data->layout(), rows_in_factors(*data, *model.factors));
    }
    InputRows<R> rows(features, features.layout(), model.scale);
    if (model.head != Loss::squared) {
        return {model.network, std::move(rows), tile_rows(model.network.outputs())};
    }
    DenseMatrix<R> cols = gather_all(col_features(*model.factors));
    for (R& x : cols.data()) x *= static_cast<R>(model.col_scale);
    return {model.network, std::move(rows), std::move(cols)};
}

#define RANKFOLD_INSTANTIATE(R)                                                            \
    template struct NetworkModel<R>;                                                       \
    template void write_network(const Communicator&, const std::string&, NetworkModel<R>&, \
                                const Provenance&, const MoreTensors&);                    \
    template std::shared_ptr<NetworkModel<R>> load_network(Run&, const std::string&);      \
    template void attach_factors(NetworkModel<R>&);                                        \
    template std::vector<Index> rows_in_factors(const MatrixData<R>&, const Factors<R>&);  \
    template NetworkScorer<R> network_scorer(NetworkModel<R>&, const MatrixData<R>*);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold::cli
