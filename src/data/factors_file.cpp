#include <nlohmann/json.hpp>

#include <rankfold/data/hdf5_file.hpp>
#include <rankfold/data/tensor_file.hpp>

namespace rankfold {

namespace {

using nlohmann::json;

template <Real R>
BlockRows<R> empty_rows(const Communicator& comm, Index rows, Index cols) {
    return {comm, ShardLayout::even(rows, shard_count(rows * cols), comm.size()), cols};
}

/// A factor matrix of the shape that the file says, still without its numbers.
template <Real R>
BlockRows<R> shaped(const Communicator& comm, const StateFile& file, const std::string& tensor) {
    const auto shape = file.shape(tensor);
    if (shape.size() != 2 || shape[0] < 1 || shape[1] < 1) {
        throw input_error("'", file.path(), "': ", tensor, " must be a matrix that is not empty");
    }
    return empty_rows<R>(comm, shape[0], shape[1]);
}

std::string text_of(const json& about, const char* name) {
    const json value = about.value(name, json(""));
    return value.is_string() ? value.get<std::string>() : value.dump();
}

}  // namespace

template <Real R>
Factors<R> read_factors(const Communicator& comm, const std::string& path) {
    const StateFile file(comm, path);
    const std::string group = file.kind() == "factors" ? "" : "factors";
    const std::string prefix = group.empty() ? "" : group + "/";
    if (!file.has(prefix + "row_factors") || !file.has(prefix + "col_factors")) {
        throw input_error("'", path, "' (", file.kind(), ") holds no factors: ", prefix,
                          "row_factors and col_factors are needed");
    }
    Factors<R> factors;
    factors.rows = shaped<R>(comm, file, prefix + "row_factors");
    factors.cols = shaped<R>(comm, file, prefix + "col_factors");
    if (factors.rows.cols() != factors.cols.cols()) {
        throw input_error("'", path, "': row_factors have ", factors.rows.cols(),
                          " columns and col_factors ", factors.cols.cols(), "; they must agree");
    }
    const Index m = factors.rows.rows();
    const Index n = factors.cols.rows();
    if (file.has(prefix + "singular_values")) {
        factors.singular_values.resize(static_cast<std::size_t>(factors.k()));
    }
    if (file.has(prefix + "row_bias")) factors.row_bias = empty_rows<R>(comm, m, 1);
    if (file.has(prefix + "col_bias")) factors.col_bias = empty_rows<R>(comm, n, 1);
    if (file.has(prefix + "column_mean")) factors.column_mean = empty_rows<R>(comm, n, 1);
    TensorList list = factors.tensors(prefix);
    file.read(list);

    const json about = json::parse(file.attributes(group));
    const json mean = about.value("global_mean", json(0.0));
    if (!mean.is_number()) throw input_error("'", path, "': global_mean is not a number");
    factors.global_mean = mean.get<double>();
    factors.method = text_of(about, "method");
    factors.options = text_of(about, "options");
    const json certificate = json::parse(text_of(about, "certificate"), nullptr, false);
    for (const auto& [name, value] : certificate.items()) {
        if (certificate.is_object() && value.is_number())
            factors.certificate.emplace_back(name, value.template get<double>());
    }
    factors.ids = file.ids(group);
    factors.history = file.history(group);
    return factors;
}

template <Real R>
void note_factors(FileNotes& notes, const std::string& group, const Factors<R>& factors) {
    const auto known = notes.attributes.find(group);
    json about = known == notes.attributes.end() ? json::object() : json::parse(known->second);
    about["method"] = factors.method;
    about["options"] = factors.options;
    about["global_mean"] = factors.global_mean;
    if (!factors.certificate.empty()) {
        json certificate = json::object();
        for (const auto& [name, value] : factors.certificate) certificate[name] = value;
        about["certificate"] = certificate.dump();
    }
    notes.attributes[group] = about.dump();
    notes.histories[group] = factors.history;
    if (!factors.ids.file.empty()) notes.ids[group] = factors.ids;
}

void MoreTensors::append_to(TensorList& state, FileNotes& notes) const {
    state.tensors.insert(state.tensors.end(), list.tensors.begin(), list.tensors.end());
    for (const auto& [group, text] : attributes) notes.attributes[group] = text;
}

template <Real R>
void write_factors(const std::string& path, Factors<R>& factors, const Provenance& provenance,
                   const std::optional<ColumnIds>& col_ids, const MoreTensors& more) {
    FileNotes notes;
    notes.kind = "factors";
    note_factors(notes, "", factors);
    if (col_ids) {
        notes.ids[""] = factors.ids;
        notes.col_ids[""] = *col_ids;
    }
    TensorList state = factors.tensors();
    more.append_to(state, notes);
    write_state(factors.rows.comm(), path, state, notes, provenance);
    const bool named = !factors.ids.file.empty() || (col_ids && !col_ids->ids.file.empty());
    if (named) factors.ids = {path, "/"};
}

#define RANKFOLD_INSTANTIATE(R)                                                     \
    template Factors<R> read_factors(const Communicator&, const std::string&);      \
    template void note_factors(FileNotes&, const std::string&, const Factors<R>&);  \
    template void write_factors(const std::string&, Factors<R>&, const Provenance&, \
                                const std::optional<ColumnIds>&, const MoreTensors&);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
