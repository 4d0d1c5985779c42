// What a network's output is compared with.
#pragma once

#include <string>
#include <vector>

#include <rankfold/linalg/views.hpp>

namespace rankfold {

/// A loss; that of a set of samples is the mean over them.
enum class Loss {
    classes,       ///< −log softmax(z)[label]
    distribution,  ///< −Σ_j t_j log softmax(z)_j, Σ_j t_j = 1
    squared,       ///< w Σ_f (z_f − t_f)², w = 1 if no weights are given
    /// (f·g − t)² + ρ ‖f‖² + κ ‖g‖² for the output z = [f, g] of two towers of equal width
    factorization,
};

/// The targets of a micro-batch, one a row: labels, distributions or values, as the loss wants.
template <Real R>
struct Targets {
    /// The columns with t_j > 0, and t_j there.
    struct Row {
        std::span<const ColIndex> columns;
        std::span<const R> weights;
    };
    std::vector<Index> labels;
    std::vector<Row> distributions;
    std::vector<R> values;     ///< squared: one an output
    std::vector<R> weights;    ///< squared: w, or empty
    std::vector<R> row_ridge;  ///< factorization: ρ
    std::vector<R> col_ridge;  ///< factorization: κ
};

/// Replaces the output z (rows x outputs) by `factor` times the gradient of Σ_rows loss.
///
/// @return Σ_rows loss; not finite if any z is not
template <Real R>
double loss_gradient(Loss loss, const Targets<R>& targets, double factor, MatrixView<R> z);

/// Replaces every row of z by softmax(z).
template <Real R>
void softmax(MatrixView<R> z);

/// Names in files and options: classes, columns, rating, factors.
[[nodiscard]] std::string head_name(Loss loss);
/// @throws Error (Fault::input), on all ranks alike, if there is none of this name
[[nodiscard]] Loss loss_of_head(const std::string& head);

}  // namespace rankfold
