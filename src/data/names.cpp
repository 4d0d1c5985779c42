#include <rankfold/data/names.hpp>

#include <charconv>
#include <numeric>
#include <unordered_map>

#include <nlohmann/json.hpp>

#include <rankfold/data/hdf5_attributes.hpp>

namespace rankfold {

namespace {

using nlohmann::json;

std::string index_column(const json& attributes) {
    const auto name = attributes.value("_index", json("_index"));
    return name.is_string() ? name.get<std::string>() : "_index";
}

/// Where the list of names stands, or "" if there is none.
std::string index_dataset(const Hdf5File& file, const std::string& group, const std::string& axis) {
    const std::string frame = join_path(group, axis);
    if (!file.has_group(frame)) return "";
    const std::string name =
        join_path(frame, index_column(read_attributes(file.group(frame).get())));
    return file.has_dataset(name) ? name : "";
}

/// True if the column `id` holds the names as numbers: it does in our files; in others a column of
/// that name may be anything.
bool has_numbers(const Hdf5File& file, const std::string& group, const std::string& axis) {
    return read_attributes(file.group("").get()).contains("rankfold") &&
           file.has_dataset(join_path(group, axis + "/id"));
}

template <class Key>
std::unordered_map<Key, Index> positions_of(const std::vector<Key>& names,
                                            const std::string& file) {
    std::unordered_map<Key, Index> positions;
    positions.reserve(names.size());
    for (const Key& name : names) {
        if (!positions.emplace(name, static_cast<Index>(positions.size())).second) {
            throw input_error("'", file, "' has the name ", name,
                              " twice; names must differ to be matched");
        }
    }
    return positions;
}

template <class Key>
std::vector<Index> match(const std::vector<Key>& from, const std::vector<Key>& to,
                         const std::string& to_file) {
    if (from == to) return {};
    const auto known = positions_of(to, to_file);
    std::vector<Index> map;
    map.reserve(from.size());
    for (const Key& name : from) {
        const auto found = known.find(name);
        map.push_back(found == known.end() ? -1 : found->second);
    }
    return map;
}

std::vector<std::string> texts(Names names) {
    for (const auto number : names.numbers) names.text.push_back(std::to_string(number));
    return std::move(names.text);
}

void check_count(Index named, Index count, const IdSource& ids, const std::string& axis) {
    if (named != count) {
        throw input_error("'", ids.file, "': ", axis, " names ", named,
                          " elements where there are ", count, "; make the file anew");
    }
}

/// On rank 0: see match_names.
std::vector<Index> match_here(const IdSource& from, const IdSource& to, const std::string& axis,
                              Index count, Index to_count, const std::string& to_axis) {
    auto names = read_axis(from, axis);
    auto others = read_axis(to, to_axis);
    if (names && others) {
        check_count(count_of(*names), count, from, axis);
        check_count(count_of(*others), to_count, to, to_axis);
        if (!names->numbers.empty() && !others->numbers.empty()) {
            return match(names->numbers, others->numbers, to.file);
        }
        return match(texts(std::move(*names)), texts(std::move(*others)), to.file);
    }
    std::vector<Index> map;
    if (count == to_count) return map;
    for (Index i = 0; i < count; ++i) map.push_back(i < to_count ? i : -1);
    return map;
}

}  // namespace

std::optional<Names> read_axis(const Hdf5File& file, const std::string& group,
                               const std::string& axis) {
    const std::string index = index_dataset(file, group, axis);
    if (index.empty()) return std::nullopt;
    const Hdf5Dataset list = file.dataset(index);
    Names names;
    if (has_numbers(file, group, axis)) {
        const Hdf5Dataset numbers = file.dataset(join_path(group, axis + "/id"));
        if (numbers.shape() != list.shape()) {
            throw input_error(numbers.where(), " is not as long as the list of names");
        }
        names.numbers.resize(static_cast<std::size_t>(numbers.rows()));
        numbers.read({0, numbers.rows()}, std::span<std::int64_t>(names.numbers));
    } else if (list.kind() == Hdf5Dataset::Kind::integer) {
        names.numbers.resize(static_cast<std::size_t>(list.rows()));
        list.read({0, list.rows()}, std::span<std::int64_t>(names.numbers));
    } else {
        names.text = read_strings(list);
    }
    return names;
}

std::optional<Names> read_axis(const IdSource& ids, const std::string& axis) {
    if (ids.file.empty()) return std::nullopt;
    return read_axis(Hdf5File::open(ids.file), ids.group, axis);
}

Names numbered_names(Index count) {
    Names names;
    names.numbers.resize(static_cast<std::size_t>(count));
    std::iota(names.numbers.begin(), names.numbers.end(), std::int64_t{0});
    return names;
}

void write_axis(const Hdf5File& file, const std::string& group, const std::string& axis,
                const Names& names) {
    const H5Id frame = make_group(file.id(), join_path(group, axis), "dataframe", "0.2.0");
    write_strings(frame.get(), "_index", count_of(names),
                  [&](Index i) { return name_text(names, i); });
    if (!names.numbers.empty()) {
        const auto extent = static_cast<hsize_t>(names.numbers.size());
        const H5Id space(H5Screate_simple(1, &extent, nullptr), H5Sclose, "H5Screate_simple");
        const H5Id ids(H5Dcreate2(frame.get(), "id", H5T_STD_I64LE, space.get(), H5P_DEFAULT,
                                  H5P_DEFAULT, H5P_DEFAULT),
                       H5Dclose, "H5Dcreate2");
        const Index shape = count_of(names);
        auto copy = names.numbers;
        transfer(Transfer::write, ids.get(), H5T_NATIVE_INT64, std::span<const Index>(&shape, 1),
                 {0, shape}, copy.data());
        write_attribute(ids.get(), "encoding-type", "array");
        write_attribute(ids.get(), "encoding-version", "0.2.0");
    }
    json columns = json::array();
    for (const auto& member : file.members(join_path(group, axis))) {
        if (member != "_index") columns.push_back(member);
    }
    write_attribute(frame.get(), "_index", "_index");
    write_attribute(frame.get(), "column-order", columns);
}

void copy_axis(const Hdf5File& from, const std::string& from_group, const Hdf5File& to,
               const std::string& to_group, const std::string& axis, const std::string& from_axis) {
    const std::string index = index_dataset(from, from_group, from_axis);
    if (index.empty()) return;
    const std::string source = join_path(from_group, from_axis);
    const H5Id target = make_group(to.id(), join_path(to_group, axis), "dataframe", "0.2.0");
    const std::string index_name = index.substr(source.size() + 1);
    json columns = json::array();
    for (const auto& member : to.members(join_path(to_group, axis))) columns.push_back(member);
    for (const auto& member : from.members(source)) {
        const std::string column = join_path(source, member);
        if (H5Lexists(target.get(), member.c_str(), H5P_DEFAULT) > 0) continue;
        const bool categorical = from.has_group(column);
        if (categorical) {
            for (const auto& part : from.members(column)) {
                static_cast<void>(from.dataset(join_path(column, part)));  // checks it
            }
        } else {
            static_cast<void>(from.dataset(column));
        }
        check_hdf5(H5Ocopy(from.id(), column.c_str(), target.get(), member.c_str(), H5P_DEFAULT,
                           H5P_DEFAULT),
                   "H5Ocopy");
        if (member != index_name) columns.push_back(member);
    }
    write_attribute(target.get(), "_index", index_name);
    write_attribute(target.get(), "column-order", columns);
}

std::vector<Index> match_names(const Communicator& comm, const IdSource& from, const IdSource& to,
                               const std::string& axis, Index count, Index to_count,
                               const std::string& to_axis) {
    if (from.file == to.file && from.group == to.group && count == to_count) return {};
    std::vector<Index> map;
    comm.agree([&] {
        if (comm.is_root())
            map = match_here(from, to, axis, count, to_count, to_axis.empty() ? axis : to_axis);
    });
    auto length = static_cast<Index>(map.size());
    comm.broadcast(std::span<Index>(&length, 1));
    map.resize(static_cast<std::size_t>(length));
    comm.broadcast(std::span<Index>(map));
    return map;
}

std::vector<std::string> read_names(const Communicator& comm, const IdSource& ids,
                                    const std::string& axis, const std::vector<Index>& positions) {
    std::vector<std::string> names;
    if (!comm.is_root()) return names;
    if (!ids.file.empty()) {
        const Hdf5File file = Hdf5File::open(ids.file);
        const std::string index = index_dataset(file, ids.group, axis);
        if (!index.empty()) {
            const Hdf5Dataset list = file.dataset(index);
            if (list.kind() == Hdf5Dataset::Kind::text) return read_strings(list, positions);
            const auto all = read_axis(file, ids.group, axis);
            for (const Index i : positions) names.push_back(name_text(*all, i));
            return names;
        }
    }
    for (const Index i : positions) names.push_back(std::to_string(i));
    return names;
}

Index find_name(const Communicator& comm, const IdSource& ids, const std::string& axis,
                const std::string& name) {
    Index position = -1;
    comm.agree([&] {
        if (!comm.is_root()) return;
        const auto names = read_axis(ids, axis);
        if (!names) {  // elements without names are called by their position
            const auto [end, error] =
                std::from_chars(name.data(), name.data() + name.size(), position);
            if (error != std::errc{} || end != name.data() + name.size()) position = -1;
            return;
        }
        for (Index i = 0; i < count_of(*names) && position < 0; ++i) {
            if (name_text(*names, i) == name) position = i;
        }
    });
    comm.broadcast(std::span<Index>(&position, 1));
    return position;
}

}  // namespace rankfold
