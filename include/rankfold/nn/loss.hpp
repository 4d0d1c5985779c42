// What a network's output is compared with.
#pragma once

#include <string>
#include <vector>

#include <rankfold/linalg/views.hpp>

namespace rankfold {

/// A loss; that of a set of samples is the mean over them. w is a sample's weight, 1 if none is
/// given.
enum class Loss {
    classes,       ///< −w log softmax(z)[label]
    distribution,  ///< −Σ_j t_j log softmax(z)_j, Σ_j t_j = 1
    squared,       ///< w Σ_f (z_f − t_f)²
    /// Σ_e (w_e s_e² − 2 b_e s_e) + zᵀ H z + ρ ‖z‖² + const, s_e = z·y_e over a row's pairs e, for
    /// the factors z of a row beside factors y of columns held fixed
    factorization,
    /// Σ_e (w_e log(1 + exp s_e) − b_e s_e) + ρ ‖z‖², the same for preferences b / w in [0, 1]
    logistic_factorization,
    logistic,          ///< w Σ_f (log(1 + exp z_f) − t_f z_f), t in [0, 1]
    logistic_columns,  ///< the same where t_j = 1 for the row's entries, else 0
    masked,            ///< Σ_{j with an entry} (z_j − t_j)²
    /// −log σ(z⁺ − z⁻): a sample is two rows, that of an entry and that of a pair without one (BPR,
    /// Rendle et al., UAI 2009)
    ranking,
};

/// The targets of a micro-batch, one a row: labels, entries or values, as the loss wants.
template <Real R>
struct Targets {
    /// The columns with an entry, and t_j there.
    struct Row {
        std::span<const ColIndex> columns;
        std::span<const R> weights;
    };
    /// The pairs of a row of factors, whose columns are rows of `other`.
    struct Pairs {
        std::span<const ColIndex> columns;
        std::span<const R> w;
        std::span<const R> b;
        double ridge = 0.0;     ///< ρ
        double constant = 0.0;  ///< what makes the squares whole
    };
    std::vector<Index> labels;
    std::vector<Row> distributions;
    std::vector<R> values;            ///< squared, logistic: one an output
    std::vector<R> weights;           ///< classes, squared, logistic: w, or empty
    std::vector<Pairs> pairs;         ///< of factorizations
    MatrixView<const R> other{};      ///< their y
    MatrixView<const R> all_pairs{};  ///< H, symmetric; or empty: 0
};

/// Replaces the output z (rows x outputs) by `factor` times the gradient of Σ_rows loss.
///
/// @return Σ_rows loss; not finite if any z is not
template <Real R>
double loss_gradient(Loss loss, const Targets<R>& targets, double factor, MatrixView<R> z);

/// Replaces every row of z by softmax(z).
template <Real R>
void softmax(MatrixView<R> z);

/// What a network tells, as files and options name it: classes, columns, rating, factors, pairs.
[[nodiscard]] std::string head_name(Loss loss);
/// cross-entropy, squared, masked, logistic, ranking.
[[nodiscard]] std::string loss_name(Loss loss);
/// The loss of a head; an empty name stands for the head's first one.
/// @throws Error (Fault::input), on all ranks alike, if there is none of this name
[[nodiscard]] Loss loss_of(const std::string& head, const std::string& loss);

}  // namespace rankfold
