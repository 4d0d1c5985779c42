// Biases of rows and columns: what is known of a value before any factor.
#pragma once

#include <rankfold/dist/block_rows.hpp>

namespace rankfold {

/// v_ij ≈ μ + b_i + c_j.
template <Real R>
struct Biases {
    BlockRows<R> rows;  ///< b, m x 1, laid out like the rows of the matrix
    BlockRows<R> cols;  ///< c, n x 1, laid out like the rows of its transpose
};

/// Damped means of what the other side leaves, alternated ten times from b = 0:
///
///     c_j = Σ_i (v_ij − μ − b_i) / (n_j + damping)
///     b_i = Σ_j (v_ij − μ − c_j) / (n_i + damping)
///
/// over the entries; a row or column without entries has the bias 0.
/// @collective over a.comm()
template <Real R>
[[nodiscard]] Biases<R> fit_biases(const BlockRowCsr<R>& a, const BlockRowCsr<R>& transposed,
                                   double mean, double damping);

/// The biases of rows for given biases of columns: the last step of fit_biases. @collective
template <Real R>
[[nodiscard]] BlockRows<R> row_biases(const BlockRowCsr<R>& a, const BlockRows<R>& cols,
                                      double mean, double damping);

/// The matrix with v_ij − b_i − c_j in place of v_ij. @collective over a.comm()
template <Real R>
[[nodiscard]] BlockRowCsr<R> subtract(const BlockRowCsr<R>& a, const Biases<R>& biases);

}  // namespace rankfold
