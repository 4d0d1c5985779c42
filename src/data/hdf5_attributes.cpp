#include <rankfold/data/hdf5_attributes.hpp>

#include <cstring>
#include <numeric>

#include <nlohmann/json.hpp>

namespace rankfold {

namespace {

using nlohmann::json;

constexpr Index strings_at_once = 65536;

H5Id string_type() {
    H5Id type(H5Tcopy(H5T_C_S1), H5Tclose, "H5Tcopy");
    check_hdf5(H5Tset_size(type.get(), H5T_VARIABLE), "H5Tset_size");
    check_hdf5(H5Tset_cset(type.get(), H5T_CSET_UTF8), "H5Tset_cset");
    return type;
}

/// The type that h5py gives to truth values.
H5Id bool_type() {
    H5Id type(H5Tenum_create(H5T_NATIVE_INT8), H5Tclose, "H5Tenum_create");
    std::int8_t value = 0;
    check_hdf5(H5Tenum_insert(type.get(), "FALSE", &value), "H5Tenum_insert");
    value = 1;
    check_hdf5(H5Tenum_insert(type.get(), "TRUE", &value), "H5Tenum_insert");
    return type;
}

void put_attribute(hid_t object, const std::string& name, hid_t type, hid_t space,
                   const void* data) {
    if (H5Aexists(object, name.c_str()) > 0) {
        check_hdf5(H5Adelete(object, name.c_str()), "H5Adelete");
    }
    H5Id attribute(H5Acreate2(object, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT),
                   H5Aclose, "H5Acreate2");
    check_hdf5(H5Awrite(attribute.get(), type, data), "H5Awrite");
    attribute.close();
}

bool all_of_kind(const json& list, bool (json::*kind)() const noexcept) {
    return std::ranges::all_of(list, [&](const json& x) { return (x.*kind)(); });
}

void put_list(hid_t object, const std::string& name, const json& list) {
    const auto length = static_cast<hsize_t>(list.size());
    const H5Id space(H5Screate_simple(1, &length, nullptr), H5Sclose, "H5Screate_simple");
    if (all_of_kind(list, &json::is_string)) {  // also an empty list: AnnData's lists are of names
        std::vector<const char*> texts;
        for (const auto& text : list) texts.push_back(text.get_ref<const std::string&>().c_str());
        texts.push_back(nullptr);  // data() of an empty list must not be null
        put_attribute(object, name, string_type().get(), space.get(), texts.data());
    } else {
        const auto numbers = list.get<std::vector<std::int64_t>>();
        put_attribute(object, name, H5T_NATIVE_INT64, space.get(), numbers.data());
    }
}

/// Reads the texts of an attribute or dataset of type `type` through `read`, which fills a buffer
/// of elements of the type it is given.
template <class Read>
std::vector<std::string> fetch_strings(hid_t type, Index count, hid_t space, Read read) {
    std::vector<std::string> texts;
    if (count == 0) return texts;
    const H5Id memory(H5Tcopy(type), H5Tclose, "H5Tcopy");
    if (H5Tis_variable_str(type) > 0) {
        std::vector<char*> buffer(static_cast<std::size_t>(count), nullptr);
        check_hdf5(read(memory.get(), buffer.data()), "reading strings");
        for (const char* text : buffer) texts.emplace_back(text == nullptr ? "" : text);
        check_hdf5(H5Dvlen_reclaim(memory.get(), space, H5P_DEFAULT, buffer.data()),
                   "H5Dvlen_reclaim");
        return texts;
    }
    const std::size_t length = H5Tget_size(type);
    const bool padded = H5Tget_strpad(type) == H5T_STR_SPACEPAD;
    std::vector<char> buffer(static_cast<std::size_t>(count) * length);
    check_hdf5(read(memory.get(), buffer.data()), "reading strings");
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
        const char* text = buffer.data() + i * length;
        std::size_t used = strnlen(text, length);
        while (padded && used > 0 && text[used - 1] == ' ') --used;
        texts.emplace_back(text, used);
    }
    return texts;
}

template <class T>
json numbers_of(hid_t attribute, hid_t type, Index count) {
    std::vector<T> numbers(static_cast<std::size_t>(count));
    if (count > 0) check_hdf5(H5Aread(attribute, type, numbers.data()), "H5Aread");
    return numbers;
}

/// An attribute as JSON; null if it is of no kind that we know.
json get_attribute(hid_t attribute) {
    const H5Id type(H5Aget_type(attribute), H5Tclose, "H5Aget_type");
    const H5Id space(H5Aget_space(attribute), H5Sclose, "H5Aget_space");
    const bool scalar = H5Sget_simple_extent_type(space.get()) == H5S_SCALAR;
    const hssize_t count = H5Sget_simple_extent_npoints(space.get());
    if (count < 0 || count > (hssize_t{1} << 20)) return nullptr;
    json list;
    switch (H5Tget_class(type.get())) {
        case H5T_INTEGER:
            list = numbers_of<std::int64_t>(attribute, H5T_NATIVE_INT64, count);
            break;
        case H5T_FLOAT:
            list = numbers_of<double>(attribute, H5T_NATIVE_DOUBLE, count);
            break;
        case H5T_ENUM: {
            list = json::array();
            if (H5Tget_size(type.get()) != 1) return nullptr;
            std::vector<std::int8_t> values(static_cast<std::size_t>(count));
            if (count > 0) check_hdf5(H5Aread(attribute, type.get(), values.data()), "H5Aread");
            for (const auto value : values) list.push_back(value != 0);
            break;
        }
        case H5T_STRING:
            list = fetch_strings(type.get(), count, space.get(), [&](hid_t memory, void* buffer) {
                return H5Aread(attribute, memory, buffer);
            });
            break;
        default:
            return nullptr;
    }
    return scalar ? list.at(0) : list;
}

}  // namespace

void write_attribute(hid_t object, const std::string& name, const json& value) {
    const H5Id space(H5Screate(H5S_SCALAR), H5Sclose, "H5Screate");
    if (value.is_boolean()) {
        const auto number = static_cast<std::int8_t>(value.get<bool>());
        put_attribute(object, name, bool_type().get(), space.get(), &number);
    } else if (value.is_number_integer()) {
        const auto number = value.get<std::int64_t>();
        put_attribute(object, name, H5T_NATIVE_INT64, space.get(), &number);
    } else if (value.is_number()) {
        const auto number = value.get<double>();
        put_attribute(object, name, H5T_NATIVE_DOUBLE, space.get(), &number);
    } else if (value.is_array() && (all_of_kind(value, &json::is_string) ||
                                    all_of_kind(value, &json::is_number_integer))) {
        put_list(object, name, value);
    } else {
        const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
        const char* characters = text.c_str();
        put_attribute(object, name, string_type().get(), space.get(), &characters);
    }
}

void write_attributes(hid_t object, const json& values) {
    for (const auto& [name, value] : values.items()) write_attribute(object, name, value);
}

json read_attributes(hid_t object) {
    json values = json::object();
    std::vector<std::string> names;
    hsize_t at = 0;
    const H5A_operator2_t keep = [](hid_t, const char* name, const H5A_info_t*, void* list) {
        static_cast<std::vector<std::string>*>(list)->emplace_back(name);
        return herr_t{0};
    };
    check_hdf5(H5Aiterate2(object, H5_INDEX_NAME, H5_ITER_INC, &at, keep, &names), "H5Aiterate2");
    for (const auto& name : names) {
        const H5Id attribute(H5Aopen(object, name.c_str(), H5P_DEFAULT), H5Aclose, "H5Aopen");
        json value = get_attribute(attribute.get());
        if (!value.is_null()) values[name] = std::move(value);
    }
    return values;
}

H5Id make_group(hid_t parent, const std::string& path, const std::string& encoding,
                const std::string& version) {
    H5Id group;
    if (path.empty()) {
        group = H5Id(H5Gopen2(parent, "/", H5P_DEFAULT), H5Gclose, "H5Gopen2");
    } else if (H5Lexists(parent, path.c_str(), H5P_DEFAULT) > 0) {
        group = H5Id(H5Gopen2(parent, path.c_str(), H5P_DEFAULT), H5Gclose, "H5Gopen2");
    } else {
        group = H5Id(H5Gcreate2(parent, path.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
                     H5Gclose, "H5Gcreate2");
    }
    if (!encoding.empty()) {
        write_attribute(group.get(), "encoding-type", encoding);
        write_attribute(group.get(), "encoding-version", version);
    }
    return group;
}

void write_strings(hid_t parent, const std::string& name, Index count,
                   const std::function<std::string(Index)>& text) {
    const H5Id type = string_type();
    const auto extent = static_cast<hsize_t>(count);
    const H5Id space(H5Screate_simple(1, &extent, nullptr), H5Sclose, "H5Screate_simple");
    const H5Id set(H5Dcreate2(parent, name.c_str(), type.get(), space.get(), H5P_DEFAULT,
                              H5P_DEFAULT, H5P_DEFAULT),
                   H5Dclose, "H5Dcreate2");
    std::vector<std::string> texts;
    std::vector<const char*> pointers;
    for (Index done = 0; done < count; done += strings_at_once) {
        texts.clear();
        pointers.clear();
        const auto start = static_cast<hsize_t>(done);
        const auto length = static_cast<hsize_t>(std::min(strings_at_once, count - done));
        for (hsize_t i = 0; i < length; ++i) texts.push_back(text(static_cast<Index>(start + i)));
        for (const auto& t : texts) pointers.push_back(t.c_str());
        const H5Id memory(H5Screate_simple(1, &length, nullptr), H5Sclose, "H5Screate_simple");
        check_hdf5(
            H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, &start, nullptr, &length, nullptr),
            "H5Sselect_hyperslab");
        check_hdf5(H5Dwrite(set.get(), type.get(), memory.get(), space.get(), H5P_DEFAULT,
                            pointers.data()),
                   "H5Dwrite");
    }
    write_attribute(set.get(), "encoding-type", "string-array");
    write_attribute(set.get(), "encoding-version", "0.2.0");
}

std::vector<std::string> read_strings(const Hdf5Dataset& dataset,
                                      std::span<const Index> positions) {
    if (dataset.kind() != Hdf5Dataset::Kind::text || dataset.shape().size() != 1) {
        throw input_error(dataset.where(), " is not a list of strings");
    }
    const H5Id type(H5Dget_type(dataset.id()), H5Tclose, "H5Dget_type");
    const H5Id space(H5Dget_space(dataset.id()), H5Sclose, "H5Dget_space");
    std::vector<std::string> texts;
    std::vector<hsize_t> chosen;
    for (std::size_t done = 0; done < positions.size(); done += strings_at_once) {
        const auto part = positions.subspan(
            done, std::min<std::size_t>(strings_at_once, positions.size() - done));
        chosen.clear();
        bool consecutive = true;
        for (const Index i : part) {
            if (i < 0 || i >= dataset.rows()) {
                throw input_error(dataset.where(), " has no element ", i);
            }
            consecutive = consecutive && i == part[0] + static_cast<Index>(chosen.size());
            chosen.push_back(static_cast<hsize_t>(i));
        }
        const auto length = static_cast<hsize_t>(part.size());
        const H5Id memory(H5Screate_simple(1, &length, nullptr), H5Sclose, "H5Screate_simple");
        check_hdf5(consecutive ? H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, chosen.data(),
                                                     nullptr, &length, nullptr)
                               : H5Sselect_elements(space.get(), H5S_SELECT_SET, chosen.size(),
                                                    chosen.data()),
                   "selecting strings");
        auto some = fetch_strings(type.get(), static_cast<Index>(part.size()), memory.get(),
                                  [&](hid_t memory_type, void* buffer) {
                                      return H5Dread(dataset.id(), memory_type, memory.get(),
                                                     space.get(), H5P_DEFAULT, buffer);
                                  });
        std::ranges::move(some, std::back_inserter(texts));
    }
    return texts;
}

std::vector<std::string> read_strings(const Hdf5Dataset& dataset) {
    std::vector<Index> all(static_cast<std::size_t>(dataset.rows()));
    std::iota(all.begin(), all.end(), Index{0});
    return read_strings(dataset, all);
}

}  // namespace rankfold
