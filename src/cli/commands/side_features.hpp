// Side features of rows or columns, and the prior networks that read them, in model files.
#pragma once

#include <optional>
#include <string>

#include <rankfold/cli/run.hpp>
#include <rankfold/data/matrix_file.hpp>
#include <rankfold/data/tensor_file.hpp>
#include <rankfold/nn/network.hpp>

namespace rankfold::cli {

/// Side features in the layout of one side of a matrix: rows of their own file, matched by names
/// where both have them. Rows of that side which the file lacks have no features, and are counted.
/// @param ids   of the matrix
/// @param axis  of the matrix: obs or var
/// @collective @throws Error (Fault::input), agreed: no row of the file has a name of that side
template <Real R>
[[nodiscard]] BlockRowCsr<R> load_features(Run& run, const std::string& path, const IdSource& ids,
                                           const std::string& axis, const ShardLayout& layout);

/// The entries of sparse rows as a dense matrix.
template <Real R>
[[nodiscard]] BlockRows<R> dense_rows(const BlockRowCsr<R>& a);

/// All rows of a feature file, in its own layout, dense.
template <Real R>
[[nodiscard]] BlockRows<R> feature_rows(const MatrixData<R>& features);

/// Groups of model files: the prior network of the rows and that of the columns.
inline constexpr const char* row_prior_group = "row_prior";
inline constexpr const char* col_prior_group = "col_prior";

/// Adds a prior network to what a model file holds, if there is one; borrowed.
template <Real R>
void add_prior(MoreTensors& more, const std::string& group, std::optional<Network<R>>& prior);

/// The prior network of a model file, or none. @collective
/// @throws Error (Fault::input), agreed: it does not fit k factors
template <Real R>
[[nodiscard]] std::optional<Network<R>> read_prior(const Communicator& comm,
                                                   const std::string& path,
                                                   const std::string& group, Index k);

}  // namespace rankfold::cli
