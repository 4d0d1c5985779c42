// Solves the rows of one side of an alternation.
#pragma once

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <vector>

#include <rankfold/factor/dual_systems.hpp>
#include <rankfold/factor/row_problem.hpp>

namespace rankfold {

enum class Solver {
    /// exact: n k² + k³/3 flops for a row of n entries; n² k + n³/3 where only entries count and n
    /// is at most 3/4 k (see DualSystems)
    cholesky,
    cg,        ///< conjugate gradients from the present x: 4 n k + 2 k² flops a step
    subspace,  ///< blocks of d factors, each exact, one after the other: n k d + k d²/3 flops
};

struct SolverOptions {
    Solver solver = Solver::cholesky;
    Index cg_steps = 3;          ///< at most
    double cg_tolerance = 0.01;  ///< a row is done when its residual has shrunk by this factor
    Index block = 64;            ///< d
};

/// Solves row problems in storage that is allocated once. One per thread.
///
/// Rows are taken one by one; the linear systems are solved a batch at a time. What a row gets does
/// not depend on the rows around it.
///
/// @see Hu, Koren, Volinsky, ICDM 2008 (Cholesky); Takács, Pilászy, Tikk, RecSys 2011 (CG); Rendle,
///      Krichene, Zhang, Koren, "iALS++", 2021 (subspace)
template <Real R>
class RowSolver {
public:
    RowSolver(const RowProblem& problem, Index k, const SolverOptions& options);

    /// Begins with this fixed side, borrowed until finish().
    /// @param y        rows of Y, indexed by the entries' columns
    /// @param gram     α0 YᵀY, k x k; ignored if problem.alpha0 == 0
    /// @param offsets  o_j is added to every prediction of column j, so b becomes b − w o_j; or
    ///                 empty
    void begin(MatrixView<const R> y, MatrixView<const R> gram, std::span<const R> offsets);

    /// Adds the entries' part of a row's system, Σ w y yᵀ and Σ b y, to N and r. Any thread's
    /// solver gives the same bits.
    /// @param normal  k x k upper triangle, ld >= padded(k)
    /// @param rhs     padded(k) elements
    void add_entries(const RowData<R>& row, MatrixView<R> normal, std::span<R> rhs);

    /// Takes a row whose entries' part is known, exact whatever the solver.
    /// @pre Solver::cholesky
    void add_system(const RowData<R>& row, MatrixView<const R> normal, std::span<const R> rhs,
                    std::span<R> x);

    /// Takes one row. x (k elements, the start of the iterative solvers) holds the solution after
    /// finish(); for a row without entries and prior it is zero.
    void add(const RowData<R>& row, std::span<R> x);

    void finish();

    /// ‖gradient‖ / ‖right-hand side‖ of a row at x; 0 if nothing is given of it.
    [[nodiscard]] double relative_residual(const RowData<R>& row, std::span<const R> x);

    /// The same where the entries' part of the system is known.
    [[nodiscard]] double system_residual(const RowData<R>& row, MatrixView<const R> normal,
                                         std::span<const R> rhs, std::span<const R> x) const;

    /// Remembers a row that another begin() found bad.
    void note_bad(Index row) { first_bad_ = std::min(first_bad_, row); }

    /// The least index of a row since begin() whose matrix was not positive definite, or none.
    static constexpr Index none = std::numeric_limits<Index>::max();
    [[nodiscard]] Index first_bad() const noexcept {
        return std::min(first_bad_, duals_.first_bad());
    }

private:
    struct Pending {
        RowData<R> row;
        std::span<R> x;
    };

    void weigh(const RowData<R>& row);
    [[nodiscard]] std::span<const R> entry_weights(std::size_t first, std::size_t count) const {
        return std::span<const R>(weights_).subspan(first, count);
    }
    [[nodiscard]] std::span<const R> entry_targets(std::size_t first, std::size_t count) const {
        return std::span<const R>(targets_).subspan(first, count);
    }
    [[nodiscard]] double ridge(const RowData<R>& row) const;
    [[nodiscard]] bool is_dual(const RowData<R>& row) const;
    void start_system(const RowData<R>& row, Update entries, MatrixView<R> normal,
                      std::span<R> rhs) const;
    void add_ridge(const RowData<R>& row, MatrixView<R> normal) const;
    void gather_entries(const RowData<R>& row, MatrixView<R> normal, std::span<R> rhs,
                        Update update);
    void take(const RowData<R>& row, std::span<R> x);
    void add_dual(const RowData<R>& row, std::span<R> x);
    void solve_cg(const RowData<R>& row, std::span<R> x);
    void add_normal_product(const RowData<R>& row, bool residual, std::span<const R> x,
                            std::span<R> out, std::span<const ColIndex> ahead);
    void solve_pending();
    void solve_blocks();
    void assemble_block(const Pending& pending, Range block, std::span<const R> scores,
                        MatrixView<R> normal, std::span<R> rhs);

    RowProblem problem_;
    Index k_;
    SolverOptions options_;
    Index panel_;  // entries gathered at a time, so that the panel stays in the first-level cache
    MatrixView<const R> y_{};
    MatrixView<const R> gram_{};
    std::span<const R> offsets_{};
    Index first_bad_ = none;

    CholeskyBatch<R> batch_;
    DualSystems<R> duals_;
    std::vector<Pending> pending_;
    DenseMatrix<R> plain_;
    DenseMatrix<R> scaled_;
    AlignedVector<R> weights_;  // w and b of one row's entries; as long as the longest row so far
    AlignedVector<R> targets_;
    double ridge_ = 0.0;  // of that row
    AlignedVector<R> zeros_;
    std::array<AlignedVector<R>, 3> work_;  // of CG: residual, direction, product
    std::vector<AlignedVector<R>> scores_;  // of the subspace solver: one a pending row
    AlignedVector<R> changes_;              // of one row's scores
};

extern template class RowSolver<float>;
extern template class RowSolver<double>;

}  // namespace rankfold
