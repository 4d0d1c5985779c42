#include <rankfold/data/inspect.hpp>

#include <algorithm>
#include <bit>
#include <cmath>

#include <nlohmann/json.hpp>

#include <rankfold/core/hash.hpp>
#include <rankfold/data/hdf5_attributes.hpp>
#include <rankfold/data/hdf5_file.hpp>
#include <rankfold/data/matrix_file.hpp>
#include <rankfold/data/names.hpp>
#include <rankfold/data/tensor_file.hpp>

namespace rankfold {

namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr int deepest_group = 8;
constexpr Index block_bytes = Index{1} << 24;

/// Counts of 0, 1, 2–3, 4–7, … as an object; the name of a bin is its range.
ordered_json histogram(const Communicator& comm, std::span<const Index> degrees) {
    std::vector<Index> bins(65, 0);
    for (const Index d : degrees) ++bins[std::bit_width(static_cast<std::uint64_t>(d))];
    comm.all_reduce(std::span<Index>(bins), Reduce::sum);
    ordered_json result = ordered_json::object();
    while (!bins.empty() && bins.back() == 0) bins.pop_back();
    for (std::size_t b = 0; b < bins.size(); ++b) {
        const Index least = b == 0 ? 0 : Index{1} << (b - 1);
        const Index most = b == 0 ? 0 : 2 * least - 1;
        const std::string name = least == most ? std::to_string(least) : concat(least, "-", most);
        result[name] = bins[b];
    }
    return result;
}

template <class Values>
void add_range(const Communicator& comm, const Values& values, ordered_json& about) {
    double least = INFINITY;
    double most = -INFINITY;
    for (const double v : values) {
        least = std::min(least, v);
        most = std::max(most, v);
    }
    about["least_value"] = comm.all_reduce(least, Reduce::min);
    about["greatest_value"] = comm.all_reduce(most, Reduce::max);
}

void add_degrees(const BlockRowCsr<double>& matrix, ordered_json& about) {
    const Communicator& comm = matrix.comm();
    const auto& local = matrix.local();
    std::vector<Index> rows;
    for (Index i = 0; i < local.rows(); ++i) rows.push_back(local.view().row_nnz(i));
    std::vector<Index> cols(static_cast<std::size_t>(matrix.cols()), 0);
    for (const ColIndex j : local.col_idx) ++cols[static_cast<std::size_t>(j)];
    comm.all_reduce(std::span<Index>(cols), Reduce::sum);
    if (!comm.is_root()) cols.clear();  // each column counts once
    about["row_degrees"] = histogram(comm, rows);
    about["column_degrees"] = histogram(comm, cols);
}

void add_names(const Communicator& comm, const IdSource& ids, ordered_json& about) {
    std::string text;
    comm.agree([&] {
        if (!comm.is_root()) return;
        ordered_json names;
        for (const char* axis : {"obs", "var"}) {
            const auto list = read_axis(ids, axis);
            if (!list) continue;
            ordered_json entry{{"count", count_of(*list)},
                               {"kind", list->numbers.empty() ? "text" : "integers"}};
            for (Index i = 0; i < std::min<Index>(3, count_of(*list)); ++i) {
                entry["first"].push_back(name_text(*list, i));
            }
            names[axis] = std::move(entry);
        }
        text = names.dump();
    });
    comm.broadcast(text);
    const auto names = ordered_json::parse(text);
    if (!names.is_null()) about["names"] = names;
}

/// One of the greatest elements of a factor's column.
struct Feature {
    double value;
    Index component;
    Index column;
};

/// The columns with the greatest factors of every component, by name.
void add_components(const Communicator& comm, const std::string& path, ordered_json& about) {
    constexpr std::size_t listed = 10;
    const Factors<double> factors = read_factors<double>(comm, path);
    const auto greater = [](const Feature& a, const Feature& b) {
        if (a.component != b.component) return a.component < b.component;
        return a.value != b.value ? a.value > b.value : a.column < b.column;
    };
    std::vector<Feature> mine;
    for (Index f = 0; f < factors.k(); ++f) {
        std::vector<Feature> column;
        for (Index j = 0; j < factors.cols.local().rows(); ++j) {
            const double value = factors.cols.local()(j, f);
            if (value > 0.0) column.push_back({value, f, factors.cols.first_row() + j});
        }
        const auto kept = std::min(listed, column.size());
        std::partial_sort(column.begin(), column.begin() + static_cast<std::ptrdiff_t>(kept),
                          column.end(), greater);
        mine.insert(mine.end(), column.begin(), column.begin() + static_cast<std::ptrdiff_t>(kept));
    }
    std::vector<Feature> all = comm.all_gather(std::span<const Feature>(mine));
    std::ranges::sort(all, greater);
    std::vector<Index> columns;
    for (const Feature& feature : all) columns.push_back(feature.column);
    std::vector<std::string> names;
    comm.agree([&] { names = read_names(comm, factors.ids, "var", columns); });
    std::vector<std::string> lists(static_cast<std::size_t>(factors.k()));
    std::vector<std::size_t> counts(lists.size(), 0);
    for (std::size_t i = 0; i < names.size(); ++i) {
        const auto f = static_cast<std::size_t>(all[i].component);
        if (counts[f]++ >= listed) continue;
        lists[f] += (lists[f].empty() ? "" : " ") + names[i];
    }
    about["components"] = ordered_json::object();
    for (std::size_t f = 0; f < lists.size(); ++f) {
        comm.broadcast(lists[f]);
        about["components"][std::to_string(f)] = lists[f];
    }
}

void add_labels(const MatrixData<double>& data, ordered_json& about) {
    if (!data.labels) return;
    std::vector<Index> counts(data.class_names.size(), 0);
    for (const Index label : data.labels->local().data()) {
        if (label < static_cast<Index>(counts.size())) ++counts[static_cast<std::size_t>(label)];
    }
    data.comm().all_reduce(std::span<Index>(counts), Reduce::sum);
    about["classes"] = ordered_json::object();
    for (std::size_t c = 0; c < counts.size(); ++c) {
        about["classes"][data.class_names[c]] = counts[c];
    }
}

/// What the root says about the making of the file.
void add_provenance(const json& root, ordered_json& about) {
    for (const char* name : {"command", "options", "command_options", "input_digest", "version",
                             "git", "date", "ranks", "hosts", "digest"}) {
        if (root.contains(name)) about["provenance"][name] = root[name];
    }
}

ordered_json inspect_matrix(const Communicator& comm, const std::string& path) {
    const auto data = read_matrix<double>(comm, path);
    ordered_json about;
    about["layout"] = data.sparse ? "sparse" : "dense";
    about["rows"] = data.rows();
    about["columns"] = data.cols();
    about["entries"] = data.entries();
    about["density"] = static_cast<double>(data.entries()) / static_cast<double>(data.rows()) /
                       static_cast<double>(data.cols());
    if (data.sparse) {
        add_range(comm, data.sparse->local().values, about);
        add_degrees(*data.sparse, about);
        const auto times = read_per_entry(data, "X/time");
        if (times) about["times"] = true;
    } else {
        add_range(comm, data.dense->local().data(), about);
    }
    add_labels(data, about);
    add_names(comm, data.ids, about);
    return about;
}

ordered_json inspect_state(const Communicator& comm, const std::string& path) {
    const StateFile file(comm, path);
    ordered_json about;
    std::string group;
    if (file.kind() == "network" && file.has("factors/row_factors")) group = "factors";
    const json root = json::parse(file.attributes());
    const json factors = json::parse(file.attributes(group));
    if (factors.contains("method")) {
        for (const char* name : {"method", "options", "global_mean"}) {
            if (factors.contains(name)) about[name] = factors[name];
        }
    }
    if (root.contains("graph") && root["graph"].is_string()) {
        const auto graph = ordered_json::parse(root["graph"].get<std::string>(), nullptr, false);
        about["graph"] = graph.is_discarded() ? ordered_json(root["graph"]) : graph;
    }
    about["tensors"] = ordered_json::object();
    for (const auto& tensor : file.tensors()) about["tensors"][tensor] = file.shape(tensor);
    const History history = file.history(group);
    if (!history.rows.empty()) {
        about["steps"] = history.rows.size();
        for (std::size_t c = 0; c < history.columns.size(); ++c) {
            about["last_step"][history.columns[c]] = history.rows.back()[c];
        }
    }
    add_names(comm, file.ids(group), about);
    const bool nonnegative = about.value("method", "").starts_with("nmf");
    if (nonnegative && !file.ids(group).file.empty()) add_components(comm, path, about);
    return about;
}

void collect(const Hdf5File& file, const std::string& group, int depth,
             std::vector<std::string>& found) {
    if (depth > deepest_group) {
        throw input_error("'", file.path(), "': groups are nested too deeply at ", group);
    }
    for (const auto& member : file.members(group)) {
        const std::string path = join_path(group, member);
        if (file.has_group(path)) {
            collect(file, path, depth + 1, found);
        } else if (file.has_dataset(path)) {
            found.push_back(path);
        }
    }
}

/// Reads a part of a dataset in the type in which our files store it.
template <class T>
std::uint64_t read_part(const Hdf5Dataset& set, const std::string& name, Range mine, bool& finite) {
    std::uint64_t sum = 0;
    std::vector<T> block;
    in_slices(mine, 1, std::max<Index>(1, set.width()) * static_cast<Index>(sizeof(T)), block_bytes,
              [&](Range rows, Range) {
                  block.resize(static_cast<std::size_t>(rows.size() * set.width()));
                  set.read(rows, std::span<T>(block));
                  sum += digest_sum<T>(block, fnv1a(name), rows.begin * set.width());
                  for (const T x : block) {
                      finite = finite && std::isfinite(static_cast<double>(x));
                  }
              });
    return sum;
}

std::uint64_t read_whole(const Communicator& comm, const Hdf5Dataset& set, const std::string& name,
                         bool& finite) {
    const Range mine = even_part(set.rows(), comm.size(), comm.rank());
    if (set.is_bytes()) return read_part<std::uint8_t>(set, name, mine, finite);
    if (set.kind() == Hdf5Dataset::Kind::integer) {
        // both widths of integers have the same digest as long as they are not negative
        return set.element_bytes() == 4 ? read_part<std::int32_t>(set, name, mine, finite)
                                        : read_part<std::int64_t>(set, name, mine, finite);
    }
    return set.element_bytes() == 4 ? read_part<float>(set, name, mine, finite)
                                    : read_part<double>(set, name, mine, finite);
}

/// Checks one dataset on all ranks. Returns its checksum, or nothing if it is not numeric or bad.
std::optional<std::uint64_t> verify_dataset(const Communicator& comm, const Hdf5File& file,
                                            const std::string& name, Verification& found) {
    bool finite = true;
    bool numeric = true;
    std::uint64_t sum = 0;
    json stored;
    try {
        comm.agree([&] {
            const Hdf5Dataset set = file.dataset(name);
            numeric =
                set.kind() == Hdf5Dataset::Kind::real || set.kind() == Hdf5Dataset::Kind::integer;
            stored = read_attributes(set.id()).value("checksum", json());
            if (numeric) {
                sum = read_whole(comm, set, name, finite);
            } else if (set.kind() == Hdf5Dataset::Kind::text && comm.is_root()) {
                static_cast<void>(read_strings(set));
            }
        });
    } catch (const Error& error) {
        if (error.fault() != Fault::input && error.fault() != Fault::system) throw;
        found.problems.emplace_back(error.what());
        return std::nullopt;
    }
    found.checked.push_back(name);
    if (!numeric) return std::nullopt;
    sum = comm.all_reduce(sum, Reduce::sum);
    if (!comm.all_agree(finite)) {
        found.problems.push_back("dataset " + name + " holds numbers that are not finite");
    }
    if (!stored.is_string()) return std::nullopt;
    found.compared = true;
    if (stored != digest_text(sum)) {
        found.problems.push_back("dataset " + name + " has the checksum " + digest_text(sum) +
                                 ", and had " + stored.get<std::string>() +
                                 " when it was written: its data changed");
    }
    return sum;
}

}  // namespace

ordered_json inspect_file(const Communicator& comm, const std::string& path) {
    auto phase = comm.ledger().phase("inspect");
    ordered_json about;
    const std::string kind = file_kind(comm, path);
    about["file"] = path;
    about["kind"] = kind;
    about.update(kind == "matrix" ? inspect_matrix(comm, path) : inspect_state(comm, path));
    json root;
    comm.agree([&] { root = read_attributes(Hdf5File::open(path).group("").get()); });
    add_provenance(root, about);
    return about;
}

Verification verify_file(const Communicator& comm, const std::string& path) {
    auto phase = comm.ledger().phase("verify");
    std::optional<Hdf5File> file;
    std::vector<std::string> names;
    json root;
    comm.agree([&] {
        file.emplace(Hdf5File::open(path));
        collect(*file, "", 0, names);
        root = read_attributes(file->group("").get());
    });
    Verification found;
    std::uint64_t digest = 0;
    const bool is_matrix = root.value("rankfold", json("matrix")) == "matrix";
    for (const auto& name : names) {
        const auto sum = verify_dataset(comm, *file, name, found);
        if (sum && (!is_matrix || name == "X" || name == "X/data" || name == "X/indices" ||
                    name == "X/indptr")) {
            digest += *sum;
        }
    }
    const json stored = root.value("digest", json());
    if (stored.is_string() && stored != digest_text(digest)) {
        found.problems.push_back("the digest is " + digest_text(digest) + ", and was " +
                                 stored.get<std::string>() + " when the file was written");
    }
    return found;
}

}  // namespace rankfold
