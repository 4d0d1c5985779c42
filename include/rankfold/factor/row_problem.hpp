// The one least-squares problem that every ALS half sweep solves, row by row.
#pragma once

#include <span>
#include <vector>

#include <rankfold/linalg/dense.hpp>
#include <rankfold/linalg/views.hpp>

namespace rankfold {

/// For every row i of a sparse matrix, over x in R^k with the factors Y of the columns held fixed,
///
///     min_x  Σ_j (w_ij (x·y_j)² − 2 b_ij x·y_j)  +  α0 ‖Y x‖²  +  λ_i ‖x‖²  +  μ ‖x − p_i‖²
///
/// where j runs over the stored entries v_ij of the row, w = w0 + w1 v, b = b0 + b1 v (or given
/// entry by entry), and λ_i = λ (n_i + n_offset)^ν with n_i entries in row i. Its solution is
///
///     (Σ_j w_ij y_j y_jᵀ + α0 YᵀY + (λ_i + μ) I) x = Σ_j b_ij y_j + μ p_i.
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
    /// Σ over all pairs of c (p − x·y)² + λ Σ n_i^ν ‖x_i‖² with c = 1 + α v and p = 1 at entries,
    /// else c = 1 and p = 0 (Hu, Koren, Volinsky, ICDM 2008).
    static RowProblem implicit(double alpha, double lambda, double exponent);
    /// Σ_Ω (1 − x·y)² + α0 Σ over all pairs of (x·y)² + λ Σ (n_i + α0 n)^ν ‖x_i‖² for a matrix of
    /// n columns (Rendle, Krichene, Zhang, Koren, 2021).
    static RowProblem implicit_unobserved(double alpha0, double lambda, double exponent, Index n);

    /// λ_i of a row with this many entries.
    [[nodiscard]] double row_lambda(Index entries) const;
    [[nodiscard]] double weight(double value) const { return w0 + w1 * value; }
    [[nodiscard]] double target(double value) const { return b0 + b1 * value; }
    /// c of an entry's loss c (p − s)², where b = c p: 1 for explicit values.
    [[nodiscard]] double confidence(double value) const {
        return preference ? b0 + b1 * value : 1.0;
    }
    /// The loss of an entry with this value, b and prediction s, without the α0 part:
    /// w s² − 2 b s + b² / c.
    [[nodiscard]] double entry_loss(double value, double b, double score) const {
        return weight(value) * score * score - 2.0 * b * score + b * b / confidence(value);
    }
};

/// Flops of an exact half sweep: nnz k (k + 1) + rows k³ / 3.
[[nodiscard]] double half_sweep_flops(Index nnz, Index rows, Index k);

/// What is given of one row.
template <Real R>
struct RowData {
    std::span<const ColIndex> cols;
    std::span<const R> values;
    std::span<const R> targets{};  ///< b entry by entry; empty: from the values
    std::span<const R> prior{};    ///< p_i, k elements; empty: none
    Index count = 0;               ///< n_i
    /// Columns of the entries that follow in later rows: fetched ahead. May be empty.
    std::span<const ColIndex> following{};
};

/// Solves row problems one after the other in storage that is allocated once. One per thread.
template <Real R>
class RowSolver {
public:
    explicit RowSolver(Index k);

    /// Solves for one row; a row without entries and prior gets zero.
    ///
    /// @param y     rows of Y, indexed by the entries' columns
    /// @param gram  α0 YᵀY, k x k upper triangle; ignored if problem.alpha0 == 0
    /// @param x     k elements, overwritten
    /// @return false if the row's matrix is not positive definite
    [[nodiscard]] bool solve(const RowProblem& problem, const RowData<R>& row,
                             MatrixView<const R> y, MatrixView<const R> gram, std::span<R> x);

private:
    Index k_;
    Index panel_;  // entries gathered at a time, so that the panel stays in the first-level cache
    DenseMatrix<R> normal_;
    DenseMatrix<R> plain_;
    DenseMatrix<R> scaled_;
    AlignedVector<R> weights_;
    AlignedVector<R> targets_;
};

}  // namespace rankfold
