// HDF5 files: owners of identifiers, opening, and checked reading of datasets in untrusted files.
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <hdf5.h>

#include <rankfold/comm/communicator.hpp>

namespace rankfold {

/// Makes sure that the HDF5 library is set up, which happens when the program is loaded.
///
/// No clean-up at exit (it crashes after a failed close and hides our exit code), no plugins (a
/// file could name code to load), no messages of its own, and SIGXFSZ ignored, so that a file-size
/// limit is an error instead of a signal.
/// @throws Error (Fault::system) if the library did not start
void prepare_hdf5();

/// The innermost reason that HDF5 gives for its last failure.
[[nodiscard]] std::string hdf5_reason();

/// Owns one HDF5 identifier, of any kind.
class H5Id {
public:
    using Close = herr_t (*)(hid_t);

    H5Id() = default;
    /// @throws Error (Fault::system) if `id` is negative: `call` failed, with HDF5's reason
    H5Id(hid_t id, Close closer, const char* call);
    H5Id(H5Id&& other) noexcept : id_{std::exchange(other.id_, -1)}, close_{other.close_} {}
    H5Id& operator=(H5Id&& other) noexcept {
        std::swap(id_, other.id_);
        std::swap(close_, other.close_);
        return *this;
    }
    ~H5Id() {
        if (id_ >= 0) close_(id_);
    }

    [[nodiscard]] hid_t get() const noexcept { return id_; }
    /// Closes now. @throws Error (Fault::system) if that fails; the identifier is given up then
    void close();
    /// Gives the identifier up without closing it.
    void release() noexcept { id_ = -1; }

private:
    hid_t id_ = -1;
    Close close_ = nullptr;
};

/// Throws Error (Fault::system) with HDF5's reason if `code` says that `call` failed.
void check_hdf5(herr_t code, const char* call);

/// Bytes that one transfer may move: 1 GiB, since HDF5 fails above 2 GiB under MPI.
[[nodiscard]] Index slice_limit();
/// Lowers it, to test the slicing.
void set_slice_limit(Index bytes);

/// The HDF5 type of T in memory.
template <class T>
[[nodiscard]] hid_t memory_type();
/// The HDF5 type of T in files: little-endian.
template <class T>
[[nodiscard]] hid_t file_type();

/// Calls part(rows, cols) for consecutive pieces of the rows of a matrix that hold at most
/// `bytes` each; a row is only cut if it alone is larger.
template <class Part>
void in_slices(Range rows, Index width, Index element_bytes, Index bytes, Part part) {
    const Index most = std::max<Index>(1, bytes / element_bytes);
    if (width <= most) {
        const Index step = std::max<Index>(1, most / std::max<Index>(1, width));
        for (Index i = rows.begin; i < rows.end; i += step) {
            part(Range{i, std::min(rows.end, i + step)}, Range{0, width});
        }
        return;
    }
    for (Index i = rows.begin; i < rows.end; ++i) {
        for (Index j = 0; j < width; j += most) {
            part(Range{i, i + 1}, Range{j, std::min(width, j + most)});
        }
    }
}

enum class Transfer { read, write };

/// Moves a block of a dataset of one or two dimensions to or from contiguous memory, in independent
/// slices. @throws Error (Fault::system)
void transfer(Transfer direction, hid_t dataset, hid_t type, std::span<const Index> shape,
              Range rows, void* data);

/// A dataset of a file that nobody vouches for, checked when it was opened: no data outside the
/// file, no filter that needs a plugin, not more elements than the file can hold.
class Hdf5Dataset {
public:
    enum class Kind { real, integer, text, other };

    [[nodiscard]] const std::vector<Index>& shape() const noexcept { return shape_; }
    [[nodiscard]] Index rows() const { return shape_.front(); }
    /// Elements of a row; 1 for a vector.
    [[nodiscard]] Index width() const { return shape_.size() > 1 ? shape_[1] : 1; }
    [[nodiscard]] Kind kind() const noexcept { return kind_; }
    [[nodiscard]] Index element_bytes() const noexcept { return element_bytes_; }
    /// True if elements are unsigned integers of one byte.
    [[nodiscard]] bool is_bytes() const noexcept { return bytes_; }
    /// "'FILE': dataset NAME", for messages.
    [[nodiscard]] const std::string& where() const noexcept { return where_; }
    [[nodiscard]] hid_t id() const noexcept { return id_.get(); }

    /// Reads rows, converting numbers to T.
    /// @throws Error (Fault::input): unreadable; T is integral and the elements are real, or a
    ///         number does not fit T
    template <class T>
    void read(Range rows, std::span<T> out) const;

private:
    friend class Hdf5File;
    H5Id id_;
    std::string where_;
    std::vector<Index> shape_;
    Kind kind_ = Kind::other;
    Index element_bytes_ = 0;
    bool bytes_ = false;
    bool narrow_ = false;  // signed and at most 4 bytes, or unsigned and less
};

/// One HDF5 file, opened by this rank for itself.
///
/// Reading needs no MPI-IO: every rank opens the file and reads its own part, so one rank's trouble
/// never blocks another, and closing is nobody else's business. Only writing (see
/// verified_write.hpp) opens a file on all ranks together.
class Hdf5File {
public:
    /// Opens for reading. @throws Error (Fault::input): absent, unreadable, not HDF5, truncated
    [[nodiscard]] static Hdf5File open(const std::string& path);
    /// Opens for reading and writing. @throws Error (Fault::system)
    [[nodiscard]] static Hdf5File open_for_update(const std::string& path);

    [[nodiscard]] hid_t id() const noexcept { return id_.get(); }
    [[nodiscard]] const std::string& path() const noexcept { return path_; }

    /// True if the object stands in this file. "" is the root.
    /// @throws Error (Fault::input) if the way there leads over a soft or an external link
    [[nodiscard]] bool has(const std::string& object) const;
    [[nodiscard]] bool has_group(const std::string& object) const;
    [[nodiscard]] bool has_dataset(const std::string& object) const;

    /// Opens a group, or the root for "". @throws Error (Fault::input) if it does not stand there
    [[nodiscard]] H5Id group(const std::string& name) const;
    /// Opens and checks a dataset. @throws Error (Fault::input)
    [[nodiscard]] Hdf5Dataset dataset(const std::string& name) const;
    /// Names of the members of a group, sorted; empty if there is no such group.
    [[nodiscard]] std::vector<std::string> members(const std::string& group) const;

    /// Flushes and closes. @throws Error (Fault::system)
    void close();

private:
    [[nodiscard]] bool is_kind(const std::string& object, H5I_type_t kind) const;

    H5Id id_;
    std::string path_;
    Index size_ = 0;
};

/// `group` and `name` as one path without leading or doubled slashes; the root is "" or "/".
[[nodiscard]] std::string join_path(const std::string& group, const std::string& name);

}  // namespace rankfold
