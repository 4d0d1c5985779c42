// Factors of rows that were not trained on.
#pragma once

#include <rankfold/factor/als.hpp>

namespace rankfold {

/// What is thought of new rows before their entries are seen.
template <Real R>
struct FoldInPrior {
    const BlockRows<R>* rows = nullptr;  ///< p; null: nothing
    double weight = 0.0;                 ///< μ
};

/// Solves for the factors of new rows with the columns of `model` held fixed: for every row exactly
/// what the last half sweep over rows gives it (see RowProblem), with its bias where the model has
/// biases. A row without entries gets zeros, or its prior where there is one: nothing else is
/// known.
///
/// @param a        new rows, over the model's columns
/// @param options  those with which the model was made
/// @param prior    p, laid out like the rows: μ ‖x_i − p_i‖² is added to the objective
/// @return the new rows with the model's columns, method, options and mean
/// @collective over a.comm()
/// @throws NotPositiveDefinite: a row's system, agreed
template <Real R>
[[nodiscard]] Factors<R> fold_in_als(const BlockRowCsr<R>& a, const Factors<R>& model,
                                     const AlsOptions& options, const FoldInPrior<R>& prior = {});
/// The same for rows of which every element is given.
template <Real R>
[[nodiscard]] Factors<R> fold_in_als(const BlockRows<R>& a, const Factors<R>& model,
                                     const AlsOptions& options);

}  // namespace rankfold
