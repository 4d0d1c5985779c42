// Half sweeps: all rows of one side of an alternation, solved with the other side held fixed.
#pragma once

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <rankfold/factor/fixed_rows.hpp>
#include <rankfold/factor/heavy_rows.hpp>

namespace rankfold {

/// A row's system that could not be solved: which one, so that a caller can say its name. Agreed.
class NotPositiveDefinite : public Error {
public:
    /// @param axis  "row" or "column"
    /// @param name  what the row is called, beside its number; may be empty
    NotPositiveDefinite(const std::string& axis, Index index, const std::string& name = {})
        : Error(Fault::check,
                concat("the normal matrix of ", axis, " ", index,
                       name.empty() ? "" : " (\"" + name + "\")",
                       " is not positive definite; raise --lambda, or ask for fewer --factors"),
                true),
          axis_{axis},
          index_{index} {}

    [[nodiscard]] const std::string& axis() const noexcept { return axis_; }
    [[nodiscard]] Index index() const noexcept { return index_; }

private:
    std::string axis_;
    Index index_;
};

/// What one side adds to an objective.
struct SideLoss {
    double entries = 0.0;  ///< Σ over the given entries of their loss, without the α0 part
    double ridge = 0.0;    ///< Σ λ_i ‖x_i‖² (+ μ ‖x_i − p_i‖²) over this side's rows
};

/// What may be given beside the matrix itself; everything is borrowed and may be absent.
template <Real R>
struct SideExtras {
    std::span<const R> confidences{};     ///< c of every local entry, instead of 1
    std::span<const R> targets{};         ///< b of every local entry, instead of the values'
    std::span<const Index> counts{};      ///< n_i of every local row, instead of its entries
    const BlockRows<R>* prior = nullptr;  ///< p, laid out like the rows
    std::span<const R> scores{};          ///< for losses(): what scores() gives, if it is known
};

/// How the fixed side reaches those who need it; all give the same bits.
enum class Exchange {
    automatic,  ///< the one that sends least
    all,        ///< every rank gets all factor rows
    needed,     ///< every rank gets the factor rows of its columns
    reduced,    ///< the same, but heavy rows' normal equations are summed where the factors live
};

/// What a side is beside its matrix.
struct SideOptions {
    RowProblem problem;
    SolverOptions solver{};
    /// The last column of x is the row's bias, and that of y the column's: scores are
    /// Σ_{f<k} x_f y_f + x_k + y_k.
    bool biases = false;
    Index threads = 1;
    const char* axis = "row";  ///< "row" or "column", for messages
    Exchange exchange = Exchange::automatic;
    /// Rows with more entries are heavy (see HeavyRows); none: no row is. For Solver::cholesky and
    /// entries without confidences and targets of their own.
    std::optional<Index> heavy{};
    bool reproducible = true;  ///< false: MPI's sums, whose bits depend on the ranks
    /// Bytes on every rank for the rows of the fixed side. If all that are needed do not fit, rows
    /// are solved in as many panels as it takes (see FixedRows), and heavy rows by
    /// Exchange::reduced.
    double buffer_bytes = std::numeric_limits<double>::infinity();
};

/// One side's factors as a SparseSide wants them: with biases, these are one column more. Without,
/// it works on the factors themselves. Both arguments are borrowed.
template <Real R>
class BiasedFactors {
public:
    BiasedFactors(BlockRows<R>& factors, std::optional<BlockRows<R>>& bias);

    [[nodiscard]] BlockRows<R>& get() { return bias_ ? joined_ : factors_; }
    /// Takes over what stands in factors and bias.
    void join();
    /// Gives back what the solver made.
    void part();

private:
    BlockRows<R>& factors_;
    std::optional<BlockRows<R>>& bias_;
    BlockRows<R> joined_;
};

/// One side on a sparse matrix. The matrix is borrowed; all members are collective over its
/// communicator, and their bits depend neither on its ranks nor on the threads.
template <Real R>
class SparseSide {
public:
    /// @param fixed       layout of the other side's factors
    /// @param k           columns of x and y
    /// @param transposed  Aᵀ with that layout: what Exchange::reduced works on; or nullptr
    SparseSide(const BlockRowCsr<R>& a, const SideOptions& options, const ShardLayout& fixed,
               Index k, const BlockRowCsr<R>* transposed = nullptr);

    /// The scheme in use, and the bytes that all ranks send in a half sweep under each of
    /// all, needed, reduced (only what could be chosen).
    [[nodiscard]] Exchange exchange() const noexcept { return options_.exchange; }
    [[nodiscard]] const std::vector<double>& exchange_bytes() const noexcept { return bytes_; }

    /// Rows of the fixed side that this rank makes room for.
    [[nodiscard]] Index received_rows() const noexcept { return fixed_.buffer_rows(); }

    /// x ← argmin with y fixed, or nearer to it (see Solver), from the present x.
    /// @throws Error (Fault::check), agreed: a row's system is not positive definite (its index)
    void solve(const BlockRows<R>& y, BlockRows<R>& x, const SideExtras<R>& extras = {});

    /// Uses another solver from now on.
    void set_solver(const SolverOptions& solver);

    /// The losses of x with the fixed side as solve() or gather() last fetched it.
    [[nodiscard]] SideLoss losses(const BlockRows<R>& x, const SideExtras<R>& extras = {}) const;

    /// The ridge part of losses() alone.
    [[nodiscard]] double ridge(const BlockRows<R>& x, const SideExtras<R>& extras = {}) const;

    /// The largest ‖gradient‖ / ‖right-hand side‖ of a row: how exactly the last solve() solved.
    [[nodiscard]] double certificate(const BlockRows<R>& x, const SideExtras<R>& extras = {});

    /// Fetches the fixed side, borrowed until the next time.
    void gather(const BlockRows<R>& y);

    /// The scores of every local entry, in the entries' order, with the fixed side as last fetched.
    void scores(const BlockRows<R>& x, std::span<R> out) const;

private:
    [[nodiscard]] RowData<R> row(Index local, const SideExtras<R>& extras) const;
    [[nodiscard]] double row_ridge(const RowData<R>& row, std::span<const R> x) const;
    void score_row(const RowData<R>& row, std::span<const R> x, std::span<R> out) const;

    void choose_exchange(const ShardLayout& fixed, Index k, const BlockRowCsr<R>* transposed);
    void plan_panels(const ShardLayout& fixed, double row_bytes);
    [[nodiscard]] Range panel_shards(Index panel, Index panels) const;
    [[nodiscard]] std::vector<std::vector<Index>> needed_rows(bool heavy_too, Index panels) const;
    void renumber_columns();
    void begin_solvers();
    [[nodiscard]] const char* exchange_phase() const;
    template <class Body>
    void for_each_row_block(const Body& body) const;
    void solve_heavy(BlockRows<R>& x);
    [[nodiscard]] RowData<R> piece(const typename HeavyRows<R>::Piece& piece) const;
    void add_heavy_losses(const BlockRows<R>& x, std::vector<double>& terms) const;

    const BlockRowCsr<R>& a_;
    SideOptions options_;
    HeavyRows<R> heavy_;
    Index k_;
    mutable FixedRows<R> fixed_;  // as last fetched; bounded, it fetches again while it is read
    std::vector<double> bytes_;
    std::vector<ColIndex> cols_;        // columns of the entries as rows of fixed_, unless all
    std::vector<ColIndex> heavy_cols_;  // the same of the heavy rows' pieces
    DenseMatrix<R> own_fixed_;          // this rank's, where heavy rows' pieces are made of them
    std::vector<R> own_offsets_;
    double heavy_residual_ = 0.0;        // the certificate of this rank's heavy rows
    DenseMatrix<R> gram_;                // α0 YᵀY of the last solve()
    std::vector<RowSolver<R>> solvers_;  // one a thread
};

/// One side on a matrix of which every element is given. All rows share one normal matrix:
/// X = (A − μ) Y (YᵀY + λ n^ν I)⁻¹, one shard of rows at a time.
template <Real R>
class DenseSide {
public:
    DenseSide(const BlockRows<R>& a, const SideOptions& options, const ShardLayout& fixed, Index k);

    void solve(const BlockRows<R>& y, BlockRows<R>& x);
    [[nodiscard]] SideLoss losses(const BlockRows<R>& x) const;
    [[nodiscard]] double ridge(const BlockRows<R>& x) const;
    [[nodiscard]] double certificate(const BlockRows<R>& x) const;

private:
    [[nodiscard]] double shard_ridge(MatrixView<const R> x) const;

    const BlockRows<R>& a_;
    SideOptions options_;
    RowExchange exchange_;
    DenseMatrix<R> fixed_;
    DenseMatrix<R> normal_;  // of the last solve(): YᵀY + λ n^ν I, before it was factorised
    std::vector<R> shift_;   // −μ Σ_j y_j
};

/// Σ over all pairs of (x·y)², that is ⟨XᵀX, YᵀY⟩. @collective over the communicator of both
template <Real R>
[[nodiscard]] double all_pairs_square(const BlockRows<R>& x, const BlockRows<R>& y);

}  // namespace rankfold
