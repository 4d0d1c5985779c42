// The one least-squares problem that every ALS half sweep solves, row by row.
#pragma once

#include <cmath>
#include <span>

#include <rankfold/linalg/views.hpp>

namespace rankfold {

/// For every row i of a sparse matrix, over x in R^k with the factors Y of the columns held fixed,
///
///     min_x  Σ_j (w_ij (x·y_j)² − 2 b_ij x·y_j)  +  α0 ‖Y x‖²  +  λ_i ‖x‖²  +  μ ‖x − p_i‖²
///
/// where j runs over the stored entries v_ij of the row, and λ_i = λ (n_i + n_offset)^ν with n_i
/// entries in row i. Its solution is
///
///     (Σ_j w_ij y_j y_jᵀ + α0 YᵀY + (λ_i + μ) I) x = Σ_j b_ij y_j + μ p_i.
///
/// Values are targets, w = 1 and b = v + b0 (or w = c and b = c (v + b0) with a confidence c given
/// entry by entry, or b given entry by entry); or, as `preference`, they say how sure a preference
/// is: w = w0 + w1 |v|, and b = b0 + b1 |v| for v > 0, else 0: negative values are dislikes.
///
/// Explicit and implicit factorization, and those whose residuals or priors come from a network,
/// differ in these numbers only.
struct RowProblem {
    double w0 = 1.0, w1 = 0.0;  ///< weight of an entry's squared prediction
    double b0 = 0.0, b1 = 1.0;  ///< weight of an entry's prediction
    double alpha0 = 0.0;        ///< weight of every prediction, of entries and of all others
    double lambda = 0.0;
    double exponent = 1.0;      ///< ν
    double n_offset = 0.0;      ///< what an empty row counts as, in entries
    double prior_weight = 0.0;  ///< μ
    bool preference = false;    ///< implicit: entries stand for a preference of 1

    /// Σ_Ω (v − mean − x·y)² + λ Σ n_i^ν ‖x_i‖² (Zhou et al., AAIM 2008: ν = 1).
    static RowProblem explicit_values(double lambda, double exponent, double mean);
    /// Σ over all pairs of c (p − x·y)² + λ Σ n_i^ν ‖x_i‖² with c = c0 + α |v| at entries and 1
    /// elsewhere, p = 1 at entries v > 0 and 0 elsewhere. c0 = 1: Hu, Koren, Volinsky, ICDM 2008.
    static RowProblem implicit(double c0, double alpha, double lambda, double exponent);
    /// Σ_Ω (p − x·y)² + α0 Σ over all pairs of (x·y)² + λ Σ (n_i + α0 n)^ν ‖x_i‖² for a matrix of
    /// n columns (Rendle, Krichene, Zhang, Koren, 2021).
    static RowProblem implicit_unobserved(double alpha0, double lambda, double exponent, Index n);

    /// λ_i of a row with this many entries.
    [[nodiscard]] double row_lambda(Index entries) const;
    [[nodiscard]] double weight(double value) const { return w0 + w1 * std::abs(value); }
    [[nodiscard]] double target(double value) const {
        if (!preference) return b0 + b1 * value;
        return value > 0.0 ? b0 + b1 * value : 0.0;
    }
    /// c of the loss c (p − s)² that an entry stands for: 1 for targets.
    [[nodiscard]] double confidence(double value) const {
        return preference ? b0 + b1 * std::abs(value) : 1.0;
    }
    /// The loss of an entry with these w and b and prediction s, without the α0 part, w s² − 2 b s,
    /// and b² / c, which makes it c (p − s)².
    [[nodiscard]] double entry_loss(double value, double w, double b, double score) const {
        const double c = preference ? confidence(value) : w;
        return w * score * score - 2.0 * b * score + (c > 0.0 ? b * b / c : 0.0);
    }
};

/// Flops of an exact half sweep: nnz k (k + 1) + rows k³ / 3.
[[nodiscard]] double half_sweep_flops(Index nnz, Index rows, Index k);

/// What is given of one row.
template <Real R>
struct RowData {
    Index index = 0;  ///< of the row, for messages
    std::span<const ColIndex> cols;
    std::span<const R> values;
    std::span<const R> confidences{};  ///< c entry by entry; empty: 1
    std::span<const R> targets{};      ///< b entry by entry; empty: from the values
    std::span<const R> prior{};        ///< p_i, k elements; empty: none
    Index count = 0;                   ///< n_i
    /// Columns of the entries that follow in later rows: fetched ahead. May be empty.
    std::span<const ColIndex> following{};
};

}  // namespace rankfold
