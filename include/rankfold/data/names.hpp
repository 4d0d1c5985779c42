// The names of rows (obs) and columns (var) in a file.
#pragma once

#include <optional>
#include <string>

#include <rankfold/data/hdf5_file.hpp>
#include <rankfold/data/matrix_file.hpp>

namespace rankfold {

/// The names of an axis ("obs" or "var") below a group, if they stand there.
/// @throws Error (Fault::input)
[[nodiscard]] std::optional<Names> read_axis(const Hdf5File& file, const std::string& group,
                                             const std::string& axis);

/// The names at an IdSource; nothing if it names no file, or the file has none.
[[nodiscard]] std::optional<Names> read_axis(const IdSource& ids, const std::string& axis);

/// Writes an axis as an AnnData dataframe. Columns that stand in the group already (obs/label) are
/// listed too.
void write_axis(const Hdf5File& file, const std::string& group, const std::string& axis,
                const Names& names);

/// Copies an axis with all of its columns that stand in the source file itself; a column that the
/// target has already is kept. In the source it may be the other axis.
void copy_axis(const Hdf5File& from, const std::string& from_group, const Hdf5File& to,
               const std::string& to_group, const std::string& axis, const std::string& from_axis);

/// The names 0 … count − 1.
[[nodiscard]] Names numbered_names(Index count);

[[nodiscard]] inline Index count_of(const Names& names) {
    return static_cast<Index>(names.numbers.empty() ? names.text.size() : names.numbers.size());
}

/// Name i as text.
[[nodiscard]] inline std::string name_text(const Names& names, Index i) {
    const auto at = static_cast<std::size_t>(i);
    return names.numbers.empty() ? names.text[at] : std::to_string(names.numbers[at]);
}

}  // namespace rankfold
