// Layers without a matrix: rows of tables, several inputs made one, and layer norm.
#pragma once

#include <vector>

#include <rankfold/nn/graph.hpp>

namespace rankfold {

/// Row i of z ← the row rows[i] of the table.
template <Real R>
void copy_table_rows(MatrixView<const R> table, std::span<const Index> rows, MatrixView<R> z);

/// Row i of z ← Σ_e value_e times the table's row column_e, over the entries e of rows[i].
template <Real R>
void sum_table_rows(MatrixView<const R> table, std::span<const SparseRow<R>> rows, Index threads,
                    MatrixView<R> z);

/// z ← the inputs side by side (concat), their elementwise product, their sum, or, for two inputs,
/// the dot product of their rows.
/// @pre kind is one of these
template <Real R>
void join_forward(LayerKind kind, const std::vector<MatrixView<const R>>& x, MatrixView<R> z);

/// dx ← the gradient with respect to input `which` (or dx + it), for the gradient d with respect
/// to z.
template <Real R>
void join_gradient(LayerKind kind, const std::vector<MatrixView<const R>>& x, std::size_t which,
                   MatrixView<const R> d, bool add, MatrixView<R> dx);

/// Layer norm (Ba, Kiros, Hinton, 2016), row by row: x̂ = (x − mean) / √(variance + 1e-5),
/// z ← gain ∘ x̂. The bias is added with the activation.
/// @param unit    x̂, for the backward pass
/// @param spread  1 / √(variance + 1e-5) of every row
template <Real R>
void norm_forward(MatrixView<const R> x, std::span<const R> gain, MatrixView<R> unit,
                  std::vector<R>& spread, MatrixView<R> z);

/// dx ← the gradient with respect to x (or dx + it): spread (e − mean(e) − x̂ mean(e ∘ x̂)), e = gain
/// ∘ d.
template <Real R>
void norm_gradient(MatrixView<const R> unit, const std::vector<R>& spread, std::span<const R> gain,
                   MatrixView<const R> d, bool add, MatrixView<R> dx);

/// z ← softmax of every row of z + bias.
template <Real R>
void bias_softmax(MatrixView<R> z, std::span<const R> bias);

/// d ← a ∘ (d − Σ_j d_j a_j), row by row: from the gradient with respect to a = softmax(z) to that
/// with respect to z.
template <Real R>
void softmax_gradient(MatrixView<const R> a, MatrixView<R> d);

}  // namespace rankfold
