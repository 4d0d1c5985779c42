// Factors of rows that were not trained on.
#pragma once

#include <rankfold/factor/als.hpp>

namespace rankfold {

/// Solves for the factors of new rows with the columns of `model` held fixed: for every row exactly
/// what the last half sweep over rows gives it (see RowProblem), with its bias where the model has
/// biases. A row without entries gets zeros.
///
/// @param a        new rows, over the model's columns
/// @param options  those with which the model was made
/// @return the new rows with the model's columns, method, options and mean
/// @collective over a.comm()
/// @throws NotPositiveDefinite: a row's system, agreed
template <Real R>
[[nodiscard]] Factors<R> fold_in_als(const BlockRowCsr<R>& a, const Factors<R>& model,
                                     const AlsOptions& options);
/// The same for rows of which every element is given.
template <Real R>
[[nodiscard]] Factors<R> fold_in_als(const BlockRows<R>& a, const Factors<R>& model,
                                     const AlsOptions& options);

}  // namespace rankfold
