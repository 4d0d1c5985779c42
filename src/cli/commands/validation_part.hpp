// What networks are measured on while they are trained.
#pragma once

#include <memory>
#include <string>

#include <rankfold/cli/run.hpp>
#include <rankfold/data/matrix_file.hpp>

namespace rankfold::cli {

/// A training matrix, and the part that its network is measured on; null if there is none.
template <Real R>
struct ValidationSplit {
    std::shared_ptr<const MatrixData<R>> train;
    std::shared_ptr<const MatrixData<R>> validation;
};

/// Reads the validation file that `text` names, or, if it is a share, takes that share of the
/// entries (of a dense matrix: of the rows) from the training part. Empty: no validation part.
/// @collective @throws Error (Fault::input), agreed
template <Real R>
[[nodiscard]] ValidationSplit<R> split_validation(Run& run,
                                                  std::shared_ptr<const MatrixData<R>> whole,
                                                  const std::string& text);

}  // namespace rankfold::cli
