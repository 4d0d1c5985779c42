#include <rankfold/data/hdf5_file.hpp>

#include <cerrno>
#include <csignal>
#include <cstring>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace rankfold {

namespace {

Index slice_bytes = Index{1} << 30;

/// deflate makes runs of zeros at most 1032 times smaller; what claims more holds no real data.
constexpr Index largest_compression = 2000;

extern "C" herr_t keep_first(unsigned n, const H5E_error2_t* error, void* text) {
    if (n == 0 && error->desc != nullptr) *static_cast<std::string*>(text) = error->desc;
    return 0;
}

/// Says what is wrong with a file that HDF5 may not even get to see.
void check_readable(const std::string& path) {
    struct stat about {};
    if (::stat(path.c_str(), &about) != 0) {
        throw input_error("cannot read '", path, "': ", std::strerror(errno),
                          "; check the name and the folder");
    }
    if (S_ISDIR(about.st_mode)) {
        throw input_error("cannot read '", path, "': it is a folder; give a file in it");
    }
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        throw input_error("cannot read '", path, "': ", std::strerror(errno),
                          "; check its permissions");
    }
    ::close(file);
    if (about.st_size == 0) throw input_error("'", path, "' is empty: not an HDF5 file");
}

H5Id access_list() {
    H5Id list(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "H5Pcreate");
    check_hdf5(H5Pset_fclose_degree(list.get(), H5F_CLOSE_STRONG), "H5Pset_fclose_degree");
#if H5_VERSION_GE(1, 10, 7) && !(H5_VERSION_GE(1, 12, 0) && !H5_VERSION_GE(1, 12, 1))
    // lock where the file system can, and do not fail where it cannot
    check_hdf5(H5Pset_file_locking(list.get(), true, true), "H5Pset_file_locking");
#endif
    return list;
}

std::vector<std::string> components(const std::string& path) {
    std::vector<std::string> parts;
    std::size_t begin = 0;
    while (begin < path.size()) {
        const std::size_t end = std::min(path.find('/', begin), path.size());
        if (end > begin) parts.push_back(path.substr(begin, end - begin));
        begin = end + 1;
    }
    return parts;
}

extern "C" herr_t keep_name(hid_t, const char* name, const H5L_info_t*, void* names) {
    static_cast<std::vector<std::string>*>(names)->emplace_back(name);
    return 0;
}

/// Refuses data that stand in other files, and filters that are not part of the library.
void check_storage(hid_t dataset, const std::string& where) {
    const H5Id list(H5Dget_create_plist(dataset), H5Pclose, "H5Dget_create_plist");
    if (H5Pget_layout(list.get()) == H5D_VIRTUAL) {
        throw input_error(where,
                          " is a virtual dataset, whose data stand in other files; copy it "
                          "into one file with h5repack");
    }
    if (H5Pget_external_count(list.get()) != 0) {
        throw input_error(where,
                          " has its data in another file (external storage); copy them into "
                          "one file with h5repack");
    }
    const int filters = H5Pget_nfilters(list.get());
    for (unsigned i = 0; static_cast<int>(i) < filters; ++i) {
        char name[64] = "";
        std::size_t values = 0;
        const auto filter =
            H5Pget_filter2(list.get(), i, nullptr, &values, nullptr, sizeof name, name, nullptr);
        if (filter < 0 || filter >= H5Z_FILTER_RESERVED || H5Zfilter_avail(filter) <= 0) {
            throw input_error(
                where, " is stored with the filter ", filter, " '", name,
                "', which needs a plugin; rewrite the file with `h5repack -f GZIP=4`");
        }
    }
}

bool set_up_hdf5() {
    std::signal(SIGXFSZ, SIG_IGN);
    return H5dont_atexit() >= 0 && H5open() >= 0 &&
           H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr) >= 0 && H5PLset_loading_state(0) >= 0;
}

/// Before main(), hence before MPI_Init: a library that wakes up later hangs its clean-up into
/// MPI_Finalize, and that crashes after a failed close.
const bool hdf5_is_set_up = set_up_hdf5();

}  // namespace

void prepare_hdf5() {
    if (!hdf5_is_set_up) {
        throw Error(Fault::system,
                    "the HDF5 library did not start; is it the one that this "
                    "program was built with?",
                    true);
    }
}

std::string hdf5_reason() {
    std::string reason;
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_first, &reason);
    return reason.empty() ? "HDF5 gives no reason" : reason;
}

H5Id::H5Id(hid_t id, Close closer, const char* call) : id_{id}, close_{closer} {
    check_hdf5(id < 0 ? -1 : 0, call);
}

void H5Id::close() {
    const hid_t id = std::exchange(id_, -1);
    if (id >= 0) check_hdf5(close_(id), "closing an HDF5 object");
}

void check_hdf5(herr_t code, const char* call) {
    if (code < 0) throw Error(Fault::system, concat(call, " failed: ", hdf5_reason()));
}

Index slice_limit() {
    return slice_bytes;
}

void set_slice_limit(Index bytes) {
    RANKFOLD_EXPECT(bytes > 0);
    slice_bytes = bytes;
}

template <>
hid_t memory_type<float>() {
    return H5T_NATIVE_FLOAT;
}
template <>
hid_t memory_type<double>() {
    return H5T_NATIVE_DOUBLE;
}
template <>
hid_t memory_type<std::int32_t>() {
    return H5T_NATIVE_INT32;
}
template <>
hid_t memory_type<std::int64_t>() {
    return H5T_NATIVE_INT64;
}
template <>
hid_t memory_type<std::uint8_t>() {
    return H5T_NATIVE_UINT8;
}
template <>
hid_t file_type<float>() {
    return H5T_IEEE_F32LE;
}
template <>
hid_t file_type<double>() {
    return H5T_IEEE_F64LE;
}
template <>
hid_t file_type<std::int32_t>() {
    return H5T_STD_I32LE;
}
template <>
hid_t file_type<std::int64_t>() {
    return H5T_STD_I64LE;
}
template <>
hid_t file_type<std::uint8_t>() {
    return H5T_STD_U8LE;
}

void transfer(Transfer direction, hid_t dataset, hid_t type, std::span<const Index> shape,
              Range rows, void* data) {
    const Index width = shape.size() > 1 ? shape[1] : 1;
    const auto bytes = static_cast<Index>(H5Tget_size(type));
    const H5Id space(H5Dget_space(dataset), H5Sclose, "H5Dget_space");
    auto* at = static_cast<std::byte*>(data);
    in_slices(rows, width, bytes, slice_bytes, [&](Range i, Range j) {
        const hsize_t start[] = {static_cast<hsize_t>(i.begin), static_cast<hsize_t>(j.begin)};
        const hsize_t count[] = {static_cast<hsize_t>(i.size()), static_cast<hsize_t>(j.size())};
        const hsize_t elements = count[0] * count[1];
        if (elements == 0) return;
        check_hdf5(H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, start, nullptr, count, nullptr),
                   "H5Sselect_hyperslab");
        const H5Id memory(H5Screate_simple(1, &elements, nullptr), H5Sclose, "H5Screate_simple");
        if (direction == Transfer::read) {
            check_hdf5(H5Dread(dataset, type, memory.get(), space.get(), H5P_DEFAULT, at),
                       "H5Dread");
        } else {
            check_hdf5(H5Dwrite(dataset, type, memory.get(), space.get(), H5P_DEFAULT, at),
                       "H5Dwrite");
        }
        at += static_cast<Index>(elements) * bytes;
    });
}

template <class T>
void Hdf5Dataset::read(Range rows, std::span<T> out) const {
    RANKFOLD_EXPECT(static_cast<Index>(out.size()) == rows.size() * width());
    if (kind_ != Kind::integer && (kind_ != Kind::real || std::integral<T>)) {
        throw input_error(where_,
                          std::integral<T> ? " does not hold integers" : " does not hold numbers");
    }
    try {
        if constexpr (std::integral<T> && sizeof(T) < 8) {
            const bool fits = std::same_as<T, std::uint8_t> ? bytes_ : narrow_;
            if (!fits) {  // HDF5 would clip without a word
                std::vector<std::int64_t> wide;
                T* to = out.data();
                in_slices(rows, width(), 8, Index{1} << 23, [&](Range i, Range) {
                    wide.resize(static_cast<std::size_t>(i.size() * width()));
                    transfer(Transfer::read, id(), memory_type<std::int64_t>(), shape_, i,
                             wide.data());
                    for (const std::int64_t x : wide) {
                        if (!std::in_range<T>(x)) {
                            throw input_error(where_, " holds the number ", x,
                                              ", which is out of range");
                        }
                        *to++ = static_cast<T>(x);
                    }
                });
                return;
            }
        }
        transfer(Transfer::read, id(), memory_type<T>(), shape_, rows, out.data());
    } catch (const Error& error) {
        if (error.fault() == Fault::input) throw;
        throw input_error(where_, " cannot be read (", error.what(), "); the file is damaged");
    }
}

template void Hdf5Dataset::read(Range, std::span<float>) const;
template void Hdf5Dataset::read(Range, std::span<double>) const;
template void Hdf5Dataset::read(Range, std::span<std::int32_t>) const;
template void Hdf5Dataset::read(Range, std::span<std::int64_t>) const;
template void Hdf5Dataset::read(Range, std::span<std::uint8_t>) const;

Hdf5File Hdf5File::open(const std::string& path) {
    prepare_hdf5();
    check_readable(path);
    if (H5Fis_hdf5(path.c_str()) <= 0) {
        throw input_error("'", path,
                          "' is not an HDF5 file; text, images and arrays are turned "
                          "into one by `rankfold import`");
    }
    const H5Id list = access_list();
    const hid_t id = H5Fopen(path.c_str(), H5F_ACC_RDONLY, list.get());
    if (id < 0) {
        throw input_error("'", path, "' cannot be opened as HDF5 (", hdf5_reason(),
                          "); it is truncated or damaged, make it anew");
    }
    Hdf5File file;
    file.id_ = H5Id(id, H5Fclose, "H5Fopen");
    file.path_ = path;
    hsize_t size = 0;
    check_hdf5(H5Fget_filesize(id, &size), "H5Fget_filesize");
    file.size_ = static_cast<Index>(size);
    return file;
}

Hdf5File Hdf5File::open_for_update(const std::string& path) {
    prepare_hdf5();
    const H5Id list = access_list();
    Hdf5File file;
    file.id_ = H5Id(H5Fopen(path.c_str(), H5F_ACC_RDWR, list.get()), H5Fclose, "H5Fopen");
    file.path_ = path;
    return file;
}

void Hdf5File::close() {
    const herr_t flushed = H5Fflush(id_.get(), H5F_SCOPE_GLOBAL);
    const std::string reason = flushed < 0 ? hdf5_reason() : "";
    id_.close();
    if (flushed < 0) throw Error(Fault::system, concat("H5Fflush failed: ", reason));
}

bool Hdf5File::has(const std::string& object) const {
    std::string way;
    for (const auto& part : components(object)) {
        way += way.empty() ? part : "/" + part;
        H5L_info_t link{};
        if (H5Lexists(id(), way.c_str(), H5P_DEFAULT) <= 0) return false;
        check_hdf5(H5Lget_info(id(), way.c_str(), &link, H5P_DEFAULT), "H5Lget_info");
        if (link.type != H5L_TYPE_HARD) {
            throw input_error("'", path_, "': ", way, " is a link to elsewhere (",
                              link.type == H5L_TYPE_SOFT ? "soft" : "external",
                              "), which is not followed; copy the data into one file");
        }
    }
    return true;
}

bool Hdf5File::is_kind(const std::string& object, H5I_type_t kind) const {
    if (!has(object)) return false;
    const hid_t opened = H5Oopen(id(), object.empty() ? "/" : object.c_str(), H5P_DEFAULT);
    if (opened < 0) {
        throw input_error("'", path_, "': ", object, " cannot be opened (", hdf5_reason(),
                          "); the file is damaged");
    }
    const H5Id owner(opened, H5Oclose, "H5Oopen");
    return H5Iget_type(opened) == kind;
}

bool Hdf5File::has_group(const std::string& object) const {
    return is_kind(object, H5I_GROUP);
}

bool Hdf5File::has_dataset(const std::string& object) const {
    return is_kind(object, H5I_DATASET);
}

H5Id Hdf5File::group(const std::string& name) const {
    if (!has_group(name)) throw input_error("'", path_, "' has no group ", name);
    return {H5Gopen2(id(), name.empty() ? "/" : name.c_str(), H5P_DEFAULT), H5Gclose, "H5Gopen2"};
}

Hdf5Dataset Hdf5File::dataset(const std::string& name) const {
    if (!has_dataset(name)) throw input_error("'", path_, "' has no dataset ", name);
    Hdf5Dataset set;
    set.where_ = concat("'", path_, "': dataset ", name);
    set.id_ = H5Id(H5Dopen2(id(), name.c_str(), H5P_DEFAULT), H5Dclose, "H5Dopen2");
    check_storage(set.id(), set.where_);

    const H5Id type(H5Dget_type(set.id()), H5Tclose, "H5Dget_type");
    const H5T_class_t kind = H5Tget_class(type.get());
    set.kind_ = kind == H5T_FLOAT                         ? Hdf5Dataset::Kind::real
                : kind == H5T_INTEGER || kind == H5T_ENUM ? Hdf5Dataset::Kind::integer
                : kind == H5T_STRING                      ? Hdf5Dataset::Kind::text
                                                          : Hdf5Dataset::Kind::other;
    set.element_bytes_ = static_cast<Index>(H5Tget_size(type.get()));
    const bool is_signed = kind == H5T_INTEGER && H5Tget_sign(type.get()) == H5T_SGN_2;
    set.bytes_ = kind == H5T_INTEGER && !is_signed && set.element_bytes_ == 1;
    set.narrow_ = kind == H5T_INTEGER && set.element_bytes_ <= (is_signed ? 4 : 2);

    const H5Id space(H5Dget_space(set.id()), H5Sclose, "H5Dget_space");
    const int dimensions = H5Sget_simple_extent_ndims(space.get());
    if (dimensions < 1 || dimensions > 2) {
        throw input_error(set.where_, " has ", dimensions, " dimensions, not 1 or 2");
    }
    hsize_t extent[2] = {1, 1};
    check_hdf5(H5Sget_simple_extent_dims(space.get(), extent, nullptr) < 0 ? -1 : 0,
               "H5Sget_simple_extent_dims");
    // a file of a few kilobytes may claim 2^50 elements
    const H5Id list(H5Dget_create_plist(set.id()), H5Pclose, "H5Dget_create_plist");
    const bool chunked = H5Pget_layout(list.get()) == H5D_CHUNKED;
    const auto stored = static_cast<double>(
        chunked ? H5Dget_storage_size(set.id()) * largest_compression
                : (H5Dget_storage_size(set.id()) == 0 ? 0 : static_cast<hsize_t>(size_)));
    const double claimed = static_cast<double>(extent[0]) * static_cast<double>(extent[1]) *
                           static_cast<double>(set.element_bytes_);
    if (claimed > stored && kind != H5T_STRING) {
        throw input_error(set.where_, " claims ", claimed,
                          " bytes, more than the file holds; it "
                          "is damaged or was never filled");
    }
    for (int d = 0; d < dimensions; ++d) set.shape_.push_back(static_cast<Index>(extent[d]));
    return set;
}

std::vector<std::string> Hdf5File::members(const std::string& name) const {
    std::vector<std::string> names;
    if (!has_group(name)) return names;
    const H5Id owner = group(name);
    hsize_t at = 0;
    check_hdf5(H5Literate(owner.get(), H5_INDEX_NAME, H5_ITER_INC, &at, keep_name, &names),
               "H5Literate");
    return names;
}

std::string join_path(const std::string& group, const std::string& name) {
    std::string path;
    for (const auto& part : components(group + "/" + name)) {
        path += path.empty() ? part : "/" + part;
    }
    return path;
}

}  // namespace rankfold
