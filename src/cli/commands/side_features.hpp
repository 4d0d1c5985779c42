// What the commands that read side features share.
#pragma once

#include <string>

#include <rankfold/cli/run.hpp>
#include <rankfold/dist/block_rows.hpp>

namespace rankfold::cli {

/// Side features in the layout of one side of a matrix: rows of their own file, matched by names
/// where both have them. Rows of that side which the file lacks have no features, and are counted.
/// @param ids   of the matrix
/// @param axis  of the matrix: obs or var
/// @collective @throws Error (Fault::input), agreed: no row of the file has a name of that side
template <Real R>
[[nodiscard]] BlockRowCsr<R> load_features(Run& run, const std::string& path, const IdSource& ids,
                                           const std::string& axis, const ShardLayout& layout);

}  // namespace rankfold::cli
