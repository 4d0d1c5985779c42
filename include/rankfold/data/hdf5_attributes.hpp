// Attributes of HDF5 objects as JSON, and arrays of strings. Serial handles only.
#pragma once

#include <span>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include <rankfold/data/hdf5_file.hpp>

namespace rankfold {

/// Writes one attribute, replacing one of that name: integers as i8, reals as f8, truth values as
/// h5py does, texts and lists of texts as variable-length UTF-8, lists of integers as i8 vectors,
/// anything else as its JSON text.
/// @throws Error (Fault::system)
void write_attribute(hid_t object, const std::string& name, const nlohmann::json& value);

/// Writes all members of an object as attributes.
void write_attributes(hid_t object, const nlohmann::json& values);

/// All attributes of an object that are numbers, truth values, texts, or vectors of these.
[[nodiscard]] nlohmann::json read_attributes(hid_t object);

/// A new group with the encoding that AnnData asks for, below a group or file; or the group of that
/// name if it stands there.
[[nodiscard]] H5Id make_group(hid_t parent, const std::string& path, const std::string& encoding,
                              const std::string& version);

/// Writes `count` texts as a variable-length UTF-8 vector in AnnData's encoding.
/// @param text  gives text i
void write_strings(hid_t parent, const std::string& name, Index count,
                   const std::function<std::string(Index)>& text);

/// The texts at these positions of a dataset of strings (of fixed or variable length).
/// @throws Error (Fault::input): not strings, or a position outside
[[nodiscard]] std::vector<std::string> read_strings(const Hdf5Dataset& dataset,
                                                    std::span<const Index> positions);
/// All of them.
[[nodiscard]] std::vector<std::string> read_strings(const Hdf5Dataset& dataset);

}  // namespace rankfold
