#include <rankfold/data/tensor_file.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>

#include <nlohmann/json.hpp>

#include <rankfold/data/hdf5_attributes.hpp>
#include <rankfold/data/hdf5_file.hpp>
#include <rankfold/data/names.hpp>
#include <rankfold/data/verified_write.hpp>

namespace rankfold {

namespace {

using nlohmann::json;

constexpr int deepest_group = 8;

void write_history(const Hdf5File& file, const std::string& group, const History& history) {
    if (history.columns.empty() || history.rows.empty()) return;
    const std::vector<Index> shape{static_cast<Index>(history.rows.size()),
                                   static_cast<Index>(history.columns.size())};
    std::vector<double> table;
    for (const auto& row : history.rows) {
        RANKFOLD_EXPECT(row.size() == history.columns.size());
        table.insert(table.end(), row.begin(), row.end());
    }
    const hsize_t extent[] = {static_cast<hsize_t>(shape[0]), static_cast<hsize_t>(shape[1])};
    const H5Id space(H5Screate_simple(2, extent, nullptr), H5Sclose, "H5Screate_simple");
    const H5Id parent = make_group(file.id(), join_path(group, ""), "", "");
    const H5Id set(H5Dcreate2(parent.get(), "history", H5T_IEEE_F64LE, space.get(), H5P_DEFAULT,
                              H5P_DEFAULT, H5P_DEFAULT),
                   H5Dclose, "H5Dcreate2");
    transfer(Transfer::write, set.get(), H5T_NATIVE_DOUBLE, shape, {0, shape[0]}, table.data());
    write_attribute(set.get(), "columns", history.columns);
}

/// What rank 0 writes beside the tensors.
void decorate(const Hdf5File& file, const TensorList& state, const FileNotes& notes, json root,
              std::uint64_t digest) {
    root["digest"] = digest_text(digest);
    const auto own = notes.attributes.find("");
    if (own != notes.attributes.end() && json::parse(own->second).contains("options")) {
        root["command_options"] = root["options"];  // `options` is the objective of factors
    }
    write_attributes(file.group("").get(), root);
    for (const auto& [group, text] : notes.attributes) {
        const H5Id owner = make_group(file.id(), join_path(group, ""), "", "");
        write_attributes(owner.get(), json::parse(text));
    }
    if (!state.scalars.empty()) {
        const H5Id scalars = make_group(file.id(), "scalars", "", "");
        for (const auto& [name, value] : state.scalars) {
            write_attribute(scalars.get(), name, value);
        }
    }
    for (const auto& [group, history] : notes.histories) write_history(file, group, history);
    for (const auto& [group, ids] : notes.ids) {
        const auto of_cols = notes.col_ids.find(group);
        for (const char* axis : {"obs", "var"}) {
            const bool elsewhere = axis[0] == 'v' && of_cols != notes.col_ids.end();
            const IdSource& source = elsewhere ? of_cols->second.ids : ids;
            if (source.file.empty()) continue;
            copy_axis(Hdf5File::open(source.file), source.group, file, group, axis,
                      elsewhere ? of_cols->second.axis : axis);
        }
    }
}

bool is_numeric(const Hdf5Dataset& set) {
    return set.kind() == Hdf5Dataset::Kind::real || set.kind() == Hdf5Dataset::Kind::integer;
}

/// Adds the paths of all numeric tensors below a group.
void collect(const Hdf5File& file, const std::string& group, int depth,
             std::vector<std::string>& found) {
    if (depth > deepest_group) {
        throw input_error("'", file.path(), "': groups are nested too deeply at ", group);
    }
    for (const auto& member : file.members(group)) {
        const std::string path = join_path(group, member);
        if (member == "history" || member == "obs" || member == "var" || path == "scalars") {
            continue;
        }
        if (file.has_group(path)) {
            collect(file, path, depth + 1, found);
        } else if (file.has_dataset(path) && is_numeric(file.dataset(path))) {
            found.push_back(path);
        }
    }
}

std::string shape_text(std::span<const Index> shape) {
    std::string text;
    for (const Index n : shape) text += (text.empty() ? "" : " x ") + std::to_string(n);
    return text;
}

std::string kind_of(const Hdf5File& file) {
    const json about = read_attributes(file.group("").get());
    const json kind = about.value("rankfold", json());
    if (kind.is_string()) {
        const auto name = kind.get<std::string>();
        for (const char* known : {"matrix", "factors", "network", "checkpoint"}) {
            if (name == known) return name;
        }
        throw input_error("'", file.path(), "' is of the kind '", name,
                          "', which this version does not know");
    }
    if (file.has("X")) return "matrix";
    throw input_error("'", file.path(),
                      "' is HDF5, but neither a rankfold file (no root attribute "
                      "`rankfold`) nor an AnnData matrix (no X)");
}

}  // namespace

void write_state(const Communicator& comm, const std::string& path, const TensorList& state,
                 const FileNotes& notes, const Provenance& provenance) {
    const json root = json::parse(root_attributes(comm, notes.kind, provenance));
    write_verified(comm, path, state, [&](const Hdf5File& file, auto sums) {
        decorate(file, state, notes, root,
                 std::accumulate(sums.begin(), sums.end(), std::uint64_t{0}));
    });
}

struct StateFile::Impl {
    const Communicator* comm;
    Hdf5File file;
    std::string kind;
};

StateFile::StateFile(const Communicator& comm, const std::string& path) {
    comm.agree([&] {
        Hdf5File file = Hdf5File::open(path);
        std::string kind = kind_of(file);
        if (kind == "matrix") {
            throw input_error("'", path, "' holds a matrix, not factors or a network");
        }
        impl_ = std::make_unique<Impl>(Impl{&comm, std::move(file), std::move(kind)});
    });
}

StateFile::~StateFile() = default;

const std::string& StateFile::kind() const {
    return impl_->kind;
}

const std::string& StateFile::path() const {
    return impl_->file.path();
}

std::string StateFile::attributes(const std::string& group) const {
    const std::string name = join_path(group, "");
    if (!impl_->file.has_group(name)) return "{}";
    return read_attributes(impl_->file.group(name).get()).dump();
}

bool StateFile::has(const std::string& tensor) const {
    return impl_->file.has_dataset(tensor);
}

std::vector<Index> StateFile::shape(const std::string& tensor) const {
    return impl_->file.dataset(tensor).shape();
}

std::string StateFile::checksum(const std::string& tensor) const {
    const json found = read_attributes(impl_->file.dataset(tensor).id()).value("checksum", json());
    return found.is_string() ? found.get<std::string>() : "";
}
std::vector<std::string> StateFile::tensors() const {
    std::vector<std::string> found;
    collect(impl_->file, "", 0, found);
    std::ranges::sort(found);
    return found;
}

History StateFile::history(const std::string& group) const {
    History history;
    const std::string name = join_path(group, "history");
    if (!impl_->file.has_dataset(name)) return history;
    const Hdf5Dataset set = impl_->file.dataset(name);
    const json columns = read_attributes(set.id()).value("columns", json::array());
    if (set.shape().size() != 2 || static_cast<Index>(columns.size()) != set.width() ||
        !std::ranges::all_of(columns, &json::is_string)) {
        throw input_error(set.where(), " is no table with named columns");
    }
    history.columns = columns.get<std::vector<std::string>>();
    std::vector<double> table(static_cast<std::size_t>(set.rows() * set.width()));
    set.read({0, set.rows()}, std::span<double>(table));
    for (auto from = table.begin(); from != table.end(); from += set.width()) {
        history.rows.emplace_back(from, from + set.width());
    }
    return history;
}

IdSource StateFile::ids(const std::string& group) const {
    const bool named = impl_->file.has_group(join_path(group, "obs")) ||
                       impl_->file.has_group(join_path(group, "var"));
    return named ? IdSource{path(), group.empty() ? "/" : group} : IdSource{};
}

void StateFile::read(TensorList& state) const {
    auto phase = impl_->comm->ledger().phase("read");
    impl_->comm->agree([&] {
        for (Tensor& tensor : state.tensors) {
            const Hdf5Dataset set = impl_->file.dataset(tensor.path);
            if (set.shape() != tensor.shape) {
                throw input_error(set.where(), " has the shape ", shape_text(set.shape()),
                                  " where ", shape_text(tensor.shape), " is needed");
            }
            std::visit([&](auto data) { set.read(tensor.local, data); }, tensor.data);
            std::visit(
                [&](auto data) {
                    Index element = tensor.local.begin * set.width();
                    for (const auto x : data) {
                        if (!std::isfinite(static_cast<double>(x))) {
                            throw input_error(set.where(), ": row ", element / set.width(),
                                              " holds a value that is not finite");
                        }
                        ++element;
                    }
                },
                tensor.data);
        }
        if (!state.scalars.empty()) {
            const json stored = json::parse(attributes("scalars"));
            for (auto& [name, value] : state.scalars) {
                if (!stored.contains(name) || !stored[name].is_number()) {
                    throw input_error("'", path(), "' has no number scalars/", name);
                }
                value = stored[name].get<double>();
            }
        }
    });
}

std::string file_kind(const Communicator& comm, const std::string& path) {
    std::string kind;
    comm.agree([&] {
        if (comm.is_root()) kind = kind_of(Hdf5File::open(path));
    });
    comm.broadcast(kind);
    return kind;
}

}  // namespace rankfold
