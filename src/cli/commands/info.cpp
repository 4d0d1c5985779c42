// rankfold info: what is in a file, and whether it is whole.
#include <fmt/format.h>

#include <rankfold/cli/run.hpp>
#include <rankfold/data/inspect.hpp>
#include <rankfold/data/tensor_file.hpp>
#include <rankfold/nn/graph.hpp>

namespace rankfold::cli {

namespace {

using nlohmann::ordered_json;

struct InfoCommand {
    std::string file;
    bool verify = false;
};

/// One line for a value that has one, else a line a member, indented.
void tell(const Run& run, const std::string& name, const ordered_json& value, int depth) {
    const std::string indent(static_cast<std::size_t>(2 * depth), ' ');
    if (!value.is_object()) {
        run.say(fmt::format("{}{:<16} {}", indent, name,
                            value.is_string() ? value.get<std::string>() : value.dump()));
        return;
    }
    run.say(indent + name);
    for (const auto& [member, inner] : value.items()) tell(run, member, inner, depth + 1);
}

/// The layers of a network file: shapes, parameters, and flops of a forward pass of one sample.
void tell_layers(Run& run, const std::string& path) {
    const StateFile file(run.comm, path);
    const auto attributes = nlohmann::json::parse(file.attributes());
    const Graph graph = Graph::parse(attributes.value("graph", ""));
    auto table = ordered_json::array();
    run.say(fmt::format("{:<20} {:<10} {:>20} {:<10} {:>12} {:>14}", "layer", "kind", "shape",
                        "activation", "parameters", "flops"));
    Index parameters = 0;
    Index flops = 0;
    for (const LayerSpec& layer : graph.layers) {
        const Index in = graph.width(layer.inputs.front());
        Index weights = 0;
        Index work = 0;
        if (layer.kind == LayerKind::dense) weights = in * layer.outputs;
        if (layer.kind == LayerKind::factored) {
            weights = layer.inner * (layer.outputs + (layer.stores_v() ? in : 0));
        }
        if (has_map(layer.kind)) {
            work = 2 * (layer.kind == LayerKind::dense ? in * layer.outputs
                                                       : layer.inner * (in + layer.outputs));
            weights += layer.outputs;
        }
        if (layer.kind == LayerKind::embedding) weights = in * layer.outputs;
        if (layer.kind == LayerKind::norm) weights = 2 * layer.outputs;
        const std::string shape =
            layer.kind == LayerKind::factored
                ? fmt::format("{} -> {} -> {}", in, layer.inner, layer.outputs)
                : fmt::format("{} -> {}", in, layer.outputs);
        run.say(fmt::format("{:<20} {:<10} {:>20} {:<10} {:>12} {:>14}", layer.name,
                            kind_name(layer.kind), shape, activation_name(layer.activation),
                            weights, work));
        table.push_back({{"layer", layer.name},
                         {"kind", kind_name(layer.kind)},
                         {"in", in},
                         {"out", layer.outputs},
                         {"parameters", weights},
                         {"flops", work}});
        parameters += weights;
        flops += work;
    }
    run.say(fmt::format("{:<20} {:<10} {:>20} {:<10} {:>12} {:>14}", "all", "", "", "", parameters,
                        flops));
    run.result["layers"] = std::move(table);
}

/// @throws Error (Fault::check) if the file is not what was written
void verify(Run& run, const std::string& path) {
    const Verification found = verify_file(run.comm, path);
    run.result["verified"] = {{"datasets", found.checked.size()},
                              {"compared", found.compared},
                              {"problems", found.problems}};
    if (!found.problems.empty()) {
        throw Error(Fault::check,
                    concat("'", path, "' is damaged: ", found.problems.front(), " (",
                           found.problems.size(), " problems in all); make it anew"),
                    true);
    }
    run.say(fmt::format("{} datasets are readable and finite; {}", found.checked.size(),
                        found.compared ? "checksums and digest are those of the writing"
                                       : "the file has no checksums to compare with"));
}

}  // namespace

Action declare_info(Options& options) {
    auto o = std::make_shared<InfoCommand>();
    options.positional("file", o->file, "Matrix, factors, network or checkpoint (HDF5)");
    options.add("verify", o->verify,
                "Read everything, and compare checksums and digest with those of the writing");
    options.examples(
        "rankfold info ratings.h5\n"
        "rankfold info factors.h5 --verify\n"
        "mpirun -n 4 rankfold info train.h5 --report info.json");
    return [o](Run& run) {
        if (o->verify) verify(run, o->file);
        const ordered_json about = inspect_file(run.comm, o->file);
        for (const auto& [name, value] : about.items()) tell(run, name, value, 0);
        run.result.update(about);
        if (file_kind(run.comm, o->file) == "network") tell_layers(run, o->file);
    };
}

}  // namespace rankfold::cli
