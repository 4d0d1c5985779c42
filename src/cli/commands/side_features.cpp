#include "side_features.hpp"

#include <algorithm>

#include <fmt/format.h>

#include <rankfold/cli/network_file.hpp>
#include <rankfold/factor/als.hpp>

#include "scoring.hpp"

namespace rankfold::cli {

template <Real R>
BlockRows<R> dense_rows(const BlockRowCsr<R>& a) {
    BlockRows<R> dense(a.comm(), a.layout(), a.cols());
    const CsrView<R> rows = a.local().view();
    for (Index i = 0; i < rows.rows; ++i) {
        for (std::size_t e = 0; e < rows.row_cols(i).size(); ++e) {
            dense.local()(i, rows.row_cols(i)[e]) = rows.row_values(i)[e];
        }
    }
    return dense;
}

template <Real R>
BlockRowCsr<R> load_features(Run& run, const std::string& path, const IdSource& ids,
                             const std::string& axis, const ShardLayout& layout) {
    const auto features = load_matrix<R>(run, path);
    const auto map =
        match_names(run.comm, features->ids, ids, "obs", features->rows(), layout.rows(), axis);
    Aligned<R> aligned =
        align(features->sparse ? *features->sparse : sparsify(*features->dense, Zeros::left_out),
              layout, features->cols(), map, {});
    const Index known =
        map.empty() ? layout.rows() : std::ssize(map) - std::ranges::count(map, Index{-1});
    run.result["features"][axis] = {
        {"width", features->cols()}, {"matched", known}, {"without", layout.rows() - known}};
    if (known == 0) {
        throw input_error("no row of ", path, " has a name that the matrix has (", axis,
                          "); import the features with the same ids");
    }
    if (known < layout.rows()) {
        run.say(fmt::format("{} of {} {} have no features in {}: theirs are 0",
                            layout.rows() - known, layout.rows(),
                            axis == "obs" ? "rows" : "columns", path));
    }
    return std::move(aligned.matrix);
}

template <Real R>
BlockRows<R> feature_rows(const MatrixData<R>& features) {
    return features.dense ? features.dense->clone() : dense_rows(*features.sparse);
}

template <Real R>
void add_prior(MoreTensors& more, const std::string& group, std::optional<Network<R>>& prior) {
    if (!prior) return;
    for (Tensor tensor : prior->arena().list().tensors) {
        tensor.path = group + "/" + tensor.path;
        more.list.tensors.push_back(std::move(tensor));
    }
    more.attributes[group] = nlohmann::json{{"graph", prior->graph().text()}}.dump();
}

template <Real R>
std::optional<Network<R>> read_prior(const Communicator& comm, const std::string& path,
                                     const std::string& group, Index k) {
    const StateFile file(comm, path);
    const auto about = nlohmann::json::parse(file.attributes(group), nullptr, false);
    if (!about.is_object() || !about.contains("graph") || !about["graph"].is_string()) return {};
    Graph graph = Graph::parse(about["graph"].template get<std::string>());
    if (graph.inputs.size() != 1 || graph.inputs.front().index ||
        graph.layers.back().outputs != k) {
        throw input_error("'", path, "': ", group, " is no network from features to ", k,
                          " factors");
    }
    check_shapes(file, graph, group + "/");
    Network<R> network(std::move(graph));
    TensorList list = network.arena().list();
    for (Tensor& tensor : list.tensors) tensor.path = group + "/" + tensor.path;
    file.read(list);
    return network;
}

#define RANKFOLD_INSTANTIATE(R)                                                            \
    template BlockRows<R> dense_rows(const BlockRowCsr<R>&);                               \
    template BlockRowCsr<R> load_features(Run&, const std::string&, const IdSource&,       \
                                          const std::string&, const ShardLayout&);         \
    template BlockRows<R> feature_rows(const MatrixData<R>&);                              \
    template void add_prior(MoreTensors&, const std::string&, std::optional<Network<R>>&); \
    template std::optional<Network<R>> read_prior(const Communicator&, const std::string&, \
                                                  const std::string&, Index);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold::cli
