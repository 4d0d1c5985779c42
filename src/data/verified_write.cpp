#include <rankfold/data/verified_write.hpp>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <numeric>
#include <optional>

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include <rankfold/comm/session.hpp>
#include <rankfold/core/hash.hpp>
#include <rankfold/data/hdf5_attributes.hpp>

namespace rankfold {

namespace {

bool space_check = true;

constexpr Index read_back_bytes = Index{1} << 20;  // stay in the cache

std::string folder_of(const std::string& path) {
    const auto folder = std::filesystem::path(path).parent_path().string();
    return folder.empty() ? "." : folder;
}

/// Free bytes where `path` stands, or nothing if that cannot be told.
std::optional<double> free_bytes(const std::string& path) {
    struct statvfs about {};
    if (::statvfs(folder_of(path).c_str(), &about) != 0) return std::nullopt;
    return static_cast<double>(about.f_bavail) * static_cast<double>(about.f_frsize);
}

Error write_failure(const std::string& path, const std::string& reason, int rank) {
    std::string place;
    if (const auto left = free_bytes(path)) {
        place = concat("; ", *left / 1e6, " MB are free there");
    }
    return Error(Fault::system, concat("cannot write '", path, "': ", reason, " (rank ", rank,
                                       place, "); free space, raise the limit or write elsewhere"));
}

Index width_of(const Tensor& tensor) {
    return tensor.shape.size() > 1 ? tensor.shape[1] : 1;
}

double bytes_of(const TensorList& state) {
    double bytes = 65536.0;  // what stands around the tensors
    for (const Tensor& tensor : state.tensors) {
        const auto element = std::visit([](auto data) { return sizeof(data[0]); }, tensor.data);
        bytes += static_cast<double>(tensor.shape[0]) * static_cast<double>(width_of(tensor)) *
                 static_cast<double>(element);
    }
    return bytes;
}

/// A limit may be set on one node alone, so every rank looks.
void check_limit(const std::string& path, double needed) {
    struct rlimit limit {};
    if (!space_check || ::getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
        static_cast<double>(limit.rlim_cur) >= needed) {
        return;
    }
    throw Error(Fault::system,
                concat("cannot write '", path, "': it needs ", needed / 1e6,
                       " MB and the file-size limit is ", static_cast<double>(limit.rlim_cur) / 1e6,
                       " MB; raise the limit (ulimit -f)"));
}

void check_space(const std::string& path, double needed) {
    const std::string folder = folder_of(path);
    if (::access(folder.c_str(), W_OK | X_OK) != 0) {
        throw Error(Fault::system, concat("cannot write into the folder '", folder,
                                          "': ", std::strerror(errno), "; choose another"));
    }
    const auto left = free_bytes(path);
    if (space_check && left && *left < needed) {
        throw Error(Fault::system,
                    concat("cannot write '", path, "': it needs ", needed / 1e6, " MB and ",
                           *left / 1e6, " MB are free there; free space or write elsewhere"));
    }
}

std::string temporary_name(const Communicator& comm, const std::string& path) {
    const char* job = std::getenv("SLURM_JOB_ID");
    std::string name =
        concat(path, ".tmp.", job != nullptr ? std::string(job) : std::to_string(::getpid()));
    comm.broadcast(name);
    return name;
}

H5Id create_file(const Communicator& comm, const std::string& path) {
    const H5Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "H5Pcreate");
    check_hdf5(H5Pset_fapl_mpio(access.get(), comm.native(), MPI_INFO_NULL), "H5Pset_fapl_mpio");
    return {H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.get()), H5Fclose,
            "H5Fcreate"};
}

/// Contiguous, allocated at once, never filled: every element is written.
H5Id create_dataset(hid_t file, const Tensor& tensor) {
    const H5Id links(H5Pcreate(H5P_LINK_CREATE), H5Pclose, "H5Pcreate");
    check_hdf5(H5Pset_create_intermediate_group(links.get(), 1),
               "H5Pset_create_intermediate_group");
    const H5Id plan(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, "H5Pcreate");
    check_hdf5(H5Pset_layout(plan.get(), H5D_CONTIGUOUS), "H5Pset_layout");
    check_hdf5(H5Pset_alloc_time(plan.get(), H5D_ALLOC_TIME_EARLY), "H5Pset_alloc_time");
    check_hdf5(H5Pset_fill_time(plan.get(), H5D_FILL_TIME_NEVER), "H5Pset_fill_time");
    check_hdf5(H5Pset_obj_track_times(plan.get(), false), "H5Pset_obj_track_times");
    const hid_t type = std::visit(
        [](auto data) { return file_type<typename decltype(data)::value_type>(); }, tensor.data);
    const hsize_t extent[] = {static_cast<hsize_t>(tensor.shape[0]),
                              static_cast<hsize_t>(width_of(tensor))};
    const H5Id space(H5Screate_simple(static_cast<int>(tensor.shape.size()), extent, nullptr),
                     H5Sclose, "H5Screate_simple");
    return {H5Dcreate2(file, tensor.path.c_str(), type, space.get(), links.get(), plan.get(),
                       H5P_DEFAULT),
            H5Dclose, "H5Dcreate2"};
}

template <class Work>
void attempt(std::optional<Error>& first, Work work) {
    try {
        work();
    } catch (const Error& error) {
        if (!first) first = error;
    }
}

/// Everybody's part of everything. Closing is collective, so all ranks reach it whatever happened
/// before. No H5Fflush: it would wait for the disk.
void write_tensors(const Communicator& comm, const std::string& path, const TensorList& state) {
    std::optional<Error> mine;
    H5Id file;
    attempt(mine, [&] { file = create_file(comm, path); });
    if (!comm.all_agree(!mine)) {
        file.release();  // closing would wait for a rank that has nothing to close
        if (mine) mine = write_failure(path, mine->what(), comm.rank());
        comm.agree(mine);
    }
    std::vector<H5Id> datasets;
    attempt(mine, [&] {
        for (const Tensor& t : state.tensors) datasets.push_back(create_dataset(file.get(), t));
    });
    const bool created = comm.all_agree(!mine);
    if (created) {
        attempt(mine, [&] {
            for (std::size_t t = 0; t < datasets.size(); ++t) {
                const Tensor& tensor = state.tensors[t];
                if (tensor.replicated && !comm.is_root()) continue;
                std::visit(
                    [&](auto data) {
                        using T = typename decltype(data)::value_type;
                        transfer(Transfer::write, datasets[t].get(), memory_type<T>(), tensor.shape,
                                 tensor.local, data.data());
                    },
                    tensor.data);
            }
        });
    }
    attempt(mine, [&] {
        for (auto& dataset : datasets) dataset.close();
    });
    attempt(mine, [&] { file.close(); });
    if (mine) mine = write_failure(path, mine->what(), comm.rank());
    comm.agree(mine);
}

/// Starts to push what the operating system holds of a file to the disk; does not wait.
void start_sync(const std::string& path) {
#ifdef SYNC_FILE_RANGE_WRITE
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    static_cast<void>(::sync_file_range(file, 0, 0, SYNC_FILE_RANGE_WRITE));  // a hint, no more
    ::close(file);
#endif
}

/// Pushes what the operating system holds of a file or folder to the disk.
void sync_to_disk(const std::string& path) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    const bool synced = file >= 0 && (::fsync(file) == 0 || errno == EINVAL);
    const int reason = errno;
    if (file >= 0) ::close(file);
    if (!synced) throw Error(Fault::system, concat("fsync failed: ", std::strerror(reason)));
}

/// Reads everything back, in even parts, and compares.
void verify(const Communicator& comm, const std::string& temporary, const TensorList& state,
            std::span<const std::uint64_t> expected) {
    std::vector<std::uint64_t> found(expected.size(), 0);
    comm.agree([&] {
        try {
            const Hdf5File file = Hdf5File::open(temporary);
            for (std::size_t t = 0; t < found.size(); ++t) {
                const Tensor& tensor = state.tensors[t];
                if (tensor.shape[0] * width_of(tensor) == 0) continue;
                const Hdf5Dataset dataset = file.dataset(tensor.path);
                std::visit(
                    [&]<class T>(std::span<T>) {
                        std::vector<T> block;
                        in_slices(even_part(tensor.shape[0], comm.size(), comm.rank()), 1,
                                  width_of(tensor) * static_cast<Index>(sizeof(T)), read_back_bytes,
                                  [&](Range rows, Range) {
                                      block.resize(
                                          static_cast<std::size_t>(rows.size() * width_of(tensor)));
                                      dataset.read(rows, std::span<T>(block));
                                      found[t] += digest_sum<T>(block, fnv1a(tensor.path),
                                                                rows.begin * width_of(tensor));
                                  });
                    },
                    tensor.data);
            }
        } catch (const Error& error) {
            throw write_failure(temporary, concat("reading back gave: ", error.what()),
                                comm.rank());
        }
    });
    comm.all_reduce(std::span<std::uint64_t>(found), Reduce::sum);
    for (std::size_t t = 0; t < found.size(); ++t) {
        if (found[t] == expected[t]) continue;
        comm.agree(write_failure(temporary,
                                 concat("dataset ", state.tensors[t].path,
                                        " reads back other than it was written (a full disk?)"),
                                 comm.rank()));
    }
}

std::vector<std::uint64_t> checksums(const Communicator& comm, const TensorList& state) {
    std::vector<std::uint64_t> sums;
    for (const Tensor& tensor : state.tensors) sums.push_back(local_digest(comm, tensor));
    comm.all_reduce(std::span<std::uint64_t>(sums), Reduce::sum);
    return sums;
}

/// Rank 0's part between the writing and the reading back.
void finish(const std::string& temporary, const TensorList& state,
            std::span<const std::uint64_t> sums, const Decorate& decorate) {
    try {
        Hdf5File file = Hdf5File::open_for_update(temporary);
        decorate(file, sums);
        for (std::size_t t = 0; t < sums.size(); ++t) {
            const H5Id dataset(H5Dopen2(file.id(), state.tensors[t].path.c_str(), H5P_DEFAULT),
                               H5Dclose, "H5Dopen2");
            write_attribute(dataset.get(), "checksum", digest_text(sums[t]));
        }
        file.close();
    } catch (const Error& error) {
        if (error.fault() == Fault::input) throw;  // a source of names is bad, not the disk
        throw write_failure(temporary, error.what(), 0);
    }
}

}  // namespace

void set_space_check(bool on) {
    space_check = on;
}

std::string root_attributes(const Communicator& comm, const std::string& kind,
                            const Provenance& provenance) {
    auto hosts = comm.all_gather(host_name());
    std::ranges::sort(hosts);
    hosts.erase(std::unique(hosts.begin(), hosts.end()), hosts.end());
    const std::time_t now = std::time(nullptr);
    char date[32];
    std::strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now));
    return nlohmann::json{{"rankfold", kind},
                          {"format", 1},
                          {"command", provenance.command},
                          {"options", provenance.options},
                          {"input_digest", provenance.input_digest},
                          {"version", RANKFOLD_VERSION},
                          {"git", RANKFOLD_GIT_HASH},
                          {"date", date},
                          {"ranks", comm.size()},
                          {"hosts", hosts}}
        .dump();
}

std::vector<std::uint64_t> write_verified(const Communicator& comm, const std::string& path,
                                          const TensorList& state, const Decorate& decorate) {
    prepare_hdf5();
    auto phase = comm.ledger().phase("write");
    comm.agree([&] {
        check_limit(path, bytes_of(state));
        if (comm.is_root()) check_space(path, bytes_of(state));
    });
    const std::string temporary = temporary_name(comm, path);
    try {
        write_tensors(comm, temporary, state);
        start_sync(temporary);  // the disk works while the sums are made
        const auto sums = checksums(comm, state);
        comm.agree([&] {
            if (comm.is_root()) finish(temporary, state, sums, decorate);
        });
        verify(comm, temporary, state, sums);
        comm.agree([&] {  // every host has its own pages of it
            try {
                sync_to_disk(temporary);
            } catch (const Error& error) {
                throw write_failure(temporary, error.what(), comm.rank());
            }
        });
        comm.agree([&] {
            if (!comm.is_root()) return;
            if (::rename(temporary.c_str(), path.c_str()) != 0) {
                throw write_failure(path, std::strerror(errno), 0);
            }
            sync_to_disk(folder_of(path));
        });
        return sums;
    } catch (const Error&) {
        if (comm.is_root()) ::unlink(temporary.c_str());
        throw;
    }
}

}  // namespace rankfold
