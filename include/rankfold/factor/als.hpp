// Alternating least squares: explicit, implicit, sparse and fully given matrices.
#pragma once

#include <optional>

#include <rankfold/dist/factors.hpp>
#include <rankfold/dist/steering.hpp>
#include <rankfold/factor/half_sweep.hpp>

namespace rankfold {

/// What is subtracted from explicit values before they are factorised.
enum class Centering { mean, none };

struct AlsOptions {
    Index k = 64;                               ///< number of factors
    Index sweeps = 15;                          ///< one sweep = all rows, then all columns
    double lambda = 0.1;                        ///< ridge weight
    double lambda_exponent = 1.0;               ///< ν: λ is scaled by (entries of the row)^ν
    bool implicit = false;                      ///< values say how sure a preference is
    double alpha = 40.0;                        ///< implicit: confidence is c0 + α |v|
    double base_confidence = 1.0;               ///< implicit: c0
    std::optional<double> unobserved_weight{};  ///< implicit: α0 of Rendle's form
    Centering centering = Centering::mean;      ///< explicit only
    bool biases = false;                        ///< explicit, sparse: fit row and column biases
    SolverOptions solver{};
    Exchange exchange = Exchange::automatic;
    std::optional<Index> heavy{};  ///< entries above which a row is heavy; none: 64 a shard
    /// Otherwise no row's equations are summed in fixed pieces, and MPI sums the Gram matrices:
    /// what determinism costs is the difference in time.
    bool reproducible = true;
    /// Bytes for all that a rank holds while it works; none: no bound. Rows are solved in as many
    /// panels as that takes (see SideOptions::buffer_bytes).
    std::optional<double> memory_per_rank{};
    bool exact_last = false;       ///< the last sweep by Cholesky, whatever the solver
    double start_deviation = 0.1;  ///< of the normal start values of the columns
    std::uint64_t seed = 1;
    Index threads = 1;  ///< per rank; any number gives the same bits
};

/// Factorises a sparse m x n matrix A ≈ X Yᵀ by minimising
///
///     explicit   Σ_Ω c (a − μ − b_i − d_j − x·y)²
///                  + λ Σ n_i^ν (‖x_i‖² + b_i²) + λ Σ n_j^ν (‖y_j‖² + d_j²)
///     implicit   see RowProblem::implicit and RowProblem::implicit_unobserved
///
/// where Ω are the stored entries and μ their mean (0 without centring), b and d are 0 unless
/// `biases` are asked for, and c is 1 unless `confidences` are given: in X and b with Y and d
/// fixed, and then in Y and d, `sweeps` times. With the exact solver the objective never rises.
/// Rows and columns without entries get zero factors, so they are predicted by μ and the other
/// side's bias. After each sweep `steering` sees the objective and, for explicit values, the
/// training RMSE. The factors' certificate is SparseSide::certificate of the last half sweep.
///
/// X is laid out like the rows of `a`, Y like those of its transpose. The fixed side's rows reach
/// the other ranks through a RowExchange.
///
/// @param confidences  c: a matrix with the same entries as `a`, not negative; nullptr: all 1
/// @collective over a.comm(); `options` are the same on all ranks
/// @cost per sweep: 2 nnz k (k+1) + (m+n) k³/3 flops (see Solver for the others);
///       (p−1)/p (m+n) k words received per rank
/// @throws Error (Fault::check), agreed: a row's system is not positive definite (its index)
/// @see Zhou, Wilkinson, Schreiber, Pan, AAIM 2008; Hu, Koren, Volinsky, ICDM 2008; Rendle,
///      Krichene, Zhang, Koren, "Revisiting the performance of iALS", 2021
template <Real R>
[[nodiscard]] Factors<R> als(const BlockRowCsr<R>& a, const AlsOptions& options,
                             const Steering& steering, const BlockRowCsr<R>* confidences = nullptr);

/// The same for a matrix of which every element is given: one Gram matrix and one factorization
/// serve all rows. λ may be 0. Implicit feedback in a dense matrix has zeros where nothing was
/// observed: see sparsify().
template <Real R>
[[nodiscard]] Factors<R> als(const BlockRows<R>& a, const AlsOptions& options,
                             const Steering& steering);

/// The row problem of one side: `cols` is the number of columns of that side's matrix, and `mean`
/// what is subtracted from explicit values.
[[nodiscard]] RowProblem row_problem(const AlsOptions& options, double mean, Index cols);

/// The factors with which als() begins: zero rows, normal columns, and μ. `transposed` is Aᵀ.
template <Real R>
[[nodiscard]] Factors<R> start_factors(const BlockRowCsr<R>& a, const BlockRowCsr<R>& transposed,
                                       const AlsOptions& options);

/// What becomes of the zeros of a dense matrix.
enum class Zeros { left_out, stored };

/// The elements of a dense matrix as a sparse one. @collective over a.comm()
template <Real R>
[[nodiscard]] BlockRowCsr<R> sparsify(const BlockRows<R>& a, Zeros zeros = Zeros::left_out);

}  // namespace rankfold
