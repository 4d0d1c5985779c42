// The one way in which files are written: beside the final name, verified, renamed.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <rankfold/data/hdf5_file.hpp>
#include <rankfold/data/provenance.hpp>
#include <rankfold/dist/tensor_list.hpp>

namespace rankfold {

/// What rank 0 adds to a file whose tensors are written: attributes, names, tables. It gets the
/// file, opened by rank 0 alone, and the checksum of every tensor.
using Decorate =
    std::function<void(const Hdf5File& file, std::span<const std::uint64_t> checksums)>;

/// Writes the tensors of `state` into a new file, each rank its own part, and puts it under `path`
/// only when all of it has been read back and found right.
///
///     NAME.tmp.<job>: parallel create, independent slices, flush, close      all ranks
///     decorate, flush, close, fsync                                          rank 0
///     read back, compare checksums                                           all ranks
///     rename to NAME, fsync the folder                                       rank 0
///
/// The ranks agree after each step; on the first failure the temporary file is removed and what
/// stood under `path` is left alone. Each dataset gets its checksum as attribute `checksum`.
///
/// @return the checksum of every tensor: what it adds to the digest of the state
/// @collective over comm
/// @throws Error (Fault::system), agreed: the first reason and its rank
std::vector<std::uint64_t> write_verified(const Communicator& comm, const std::string& path,
                                          const TensorList& state, const Decorate& decorate);

/// The root attributes that every file has: kind, format, provenance, digest. Made on all ranks.
/// @collective over comm
[[nodiscard]] std::string root_attributes(const Communicator& comm, const std::string& kind,
                                          const Provenance& provenance);

/// Switches the check of free space before writing off, to test what comes after it.
void set_space_check(bool on);

}  // namespace rankfold
