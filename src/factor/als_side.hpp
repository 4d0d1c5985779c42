// The two kinds of half sweep of als(): private to src/factor/als.cpp.
#pragma once

#include <atomic>
#include <limits>
#include <vector>

#include <omp.h>

#include <rankfold/comm/reproducible_sum.hpp>
#include <rankfold/dist/row_exchange.hpp>
#include <rankfold/factor/als.hpp>
#include <rankfold/linalg/blas.hpp>
#include <rankfold/linalg/lapack.hpp>
#include <rankfold/linalg/row_kernels.hpp>

namespace rankfold {

/// Remembers the lowest row that a parallel loop could not solve.
class FirstBadRow {
public:
    void note(Index row) {
        Index seen = row_.load();
        while (row < seen && !row_.compare_exchange_weak(seen, row)) {}
    }
    /// Throws on all ranks if any noted a row. @collective
    void check(const Communicator& comm, const char* axis) const {
        const Index row = comm.all_reduce(row_.load(), Reduce::min);
        if (row == none) return;
        throw Error(Fault::check,
                    concat("the normal matrix of ", axis, " ", row,
                           " is not positive definite; raise --lambda, or ask for fewer --factors"),
                    true);
    }

private:
    static constexpr Index none = std::numeric_limits<Index>::max();
    std::atomic<Index> row_{none};
};

/// Runs body(shard) for these shards on `threads` threads. @pre body does not throw
template <class Body>
void for_each_shard(Range shards, Index threads, const Body& body) {
#pragma omp parallel for schedule(dynamic) num_threads(static_cast<int>(threads))
    for (Index s = shards.begin; s < shards.end; ++s) body(s);
}

/// alpha AᵀA of a factor matrix, upper triangle, rounded to its own precision.
template <Real R>
DenseMatrix<R> scaled_gram(const BlockRows<R>& y, double alpha) {
    const DenseMatrix<double> exact = gram(y);
    DenseMatrix<R> result(y.cols(), y.cols());
    for (std::size_t i = 0; i < exact.data().size(); ++i) {
        result.data()[i] = static_cast<R>(alpha * exact.data()[i]);
    }
    return result;
}

template <Real R>
double square_norm(std::span<const R> x) {
    double square = 0.0;
    for (const R f : x) square += static_cast<double>(f) * static_cast<double>(f);
    return square;
}

/// What one side adds to the objective.
struct SideLoss {
    double entries = 0.0;  ///< Σ over the given entries of their loss, without the α0 part
    double ridge = 0.0;    ///< Σ λ_i ‖x_i‖² over this side's rows
};

/// One side of the alternation on a sparse matrix: solves for the factors of its rows.
///
/// The matrix is borrowed. All members are collective over its communicator.
template <Real R>
class SparseSide {
public:
    SparseSide(const BlockRowCsr<R>& a, const RowProblem& problem, const ShardLayout& fixed,
               const AlsOptions& options, const char* axis)
        : a_{a}, problem_{problem}, threads_{options.threads}, axis_{axis},
          exchange_{RowExchange::all(a.comm(), fixed)} {
        for (Index t = 0; t < options.threads; ++t) solvers_.emplace_back(options.k);
    }

    /// x ← argmin with y fixed.
    void solve(const BlockRows<R>& y, BlockRows<R>& x) {
        gather(y);
        DenseMatrix<R> shared;
        if (problem_.alpha0 != 0.0) {
            const auto phase = a_.comm().ledger().phase("als gram");
            shared = scaled_gram(y, problem_.alpha0);
        }
        const auto phase = a_.comm().ledger().phase("als solve");
        FirstBadRow bad;
        for_each_shard(a_.shards(), threads_, [&](Index s) {
            RowSolver<R>& solver = solvers_[static_cast<std::size_t>(omp_get_thread_num())];
            const CsrView<R> rows = a_.shard(s);
            const MatrixView<R> out = x.shard(s);
            for (Index i = 0; i < rows.rows; ++i) {
                if (!solver.solve(problem_, rows.row_cols(i), rows.row_values(i), fixed(),
                                  std::as_const(shared).view(), out.row(i))) {
                    bad.note(a_.layout().shard_rows(s).begin + i);
                }
            }
        });
        bad.check(a_.comm(), axis_);
        a_.comm().ledger().add_flops(
            half_sweep_flops(a_.local().nnz(), a_.local().rows(), x.cols()));
    }

    /// The losses of x with the fixed side as it was last gathered.
    [[nodiscard]] SideLoss losses(const BlockRows<R>& x) const {
        std::vector<double> terms(static_cast<std::size_t>(2 * a_.shards().size()));
        for_each_shard(a_.shards(), threads_, [&](Index s) {
            const CsrView<R> rows = a_.shard(s);
            const MatrixView<const R> factors = x.shard(s);
            SideLoss sum;
            std::vector<R> scores;
            for (Index i = 0; i < rows.rows; ++i) {
                const auto values = rows.row_values(i);
                scores.resize(values.size());
                gather_dots<R>(fixed(), rows.row_cols(i), factors.row(i), scores);
                for (std::size_t e = 0; e < values.size(); ++e) {
                    sum.entries += problem_.entry_loss(static_cast<double>(values[e]),
                                                       static_cast<double>(scores[e]));
                }
                sum.ridge += row_ridge(rows.row_nnz(i), factors.row(i));
            }
            const auto at = static_cast<std::size_t>(2 * (s - a_.shards().begin));
            terms[at] = sum.entries;
            terms[at + 1] = sum.ridge;
        });
        double sums[2];
        reproducible_sum(a_.comm(), terms, sums);
        return {sums[0], sums[1]};
    }

    /// Σ λ_i ‖x_i‖² alone.
    [[nodiscard]] double ridge(const BlockRows<R>& x) const {
        std::vector<double> terms;
        for (Index s = a_.shards().begin; s < a_.shards().end; ++s) {
            const CsrView<R> rows = a_.shard(s);
            double sum = 0.0;
            for (Index i = 0; i < rows.rows; ++i) {
                sum += row_ridge(rows.row_nnz(i), x.shard(s).row(i));
            }
            terms.push_back(sum);
        }
        return reproducible_sum(a_.comm(), terms);
    }

private:
    void gather(const BlockRows<R>& y) {
        const auto phase = a_.comm().ledger().phase("als exchange");
        if (fixed_.rows() == 0) fixed_ = DenseMatrix<R>(exchange_.buffer_rows(), y.cols());
        exchange_.gather(y, fixed_.view());
    }
    [[nodiscard]] MatrixView<const R> fixed() const { return fixed_.view(); }
    [[nodiscard]] double row_ridge(Index entries, std::span<const R> x) const {
        return entries == 0 ? 0.0 : problem_.row_lambda(entries) * square_norm(x);
    }

    const BlockRowCsr<R>& a_;
    RowProblem problem_;
    Index threads_;
    const char* axis_;
    RowExchange exchange_;
    DenseMatrix<R> fixed_;  // the fixed side's rows, as gathered
    std::vector<RowSolver<R>> solvers_;
};

/// One side of the alternation on a matrix of which every element is given. All rows share one
/// normal matrix: X = (A − μ) Y (YᵀY + λ n^ν I)⁻¹, one shard of rows at a time.
template <Real R>
class DenseSide {
public:
    DenseSide(const BlockRows<R>& a, const RowProblem& problem, const ShardLayout& fixed,
              const AlsOptions& options, const char* axis)
        : a_{a}, problem_{problem}, threads_{options.threads}, axis_{axis},
          exchange_{RowExchange::all(a.comm(), fixed)} {}

    void solve(const BlockRows<R>& y, BlockRows<R>& x) {
        const Index k = y.cols();
        {
            const auto phase = a_.comm().ledger().phase("als exchange");
            if (fixed_.rows() == 0) fixed_ = DenseMatrix<R>(exchange_.buffer_rows(), k);
            exchange_.gather(y, fixed_.view());
        }
        const auto phase = a_.comm().ledger().phase("als solve");
        DenseMatrix<R> normal = scaled_gram(y, 1.0);
        const double lambda = problem_.row_lambda(a_.cols());
        for (Index f = 0; f < k; ++f) normal(f, f) += static_cast<R>(lambda);
        FirstBadRow bad;
        const R tiny = lambda > 0.0 ? R{0} : static_cast<R>(k) * std::numeric_limits<R>::epsilon();
        if (cholesky_upper<R>(normal.view(), tiny) >= 0) bad.note(0);
        bad.check(a_.comm(), axis_);
        std::vector<R> shift(static_cast<std::size_t>(k), R{0});  // −μ Σ_j y_j
        for (Index j = 0; j < fixed_.rows(); ++j) {
            for (Index f = 0; f < k; ++f) {
                shift[static_cast<std::size_t>(f)] +=
                    static_cast<R>(problem_.b0) * fixed_(j, f);
            }
        }
        for_each_shard(a_.shards(), threads_, [&](Index s) {
            const MatrixView<R> out = x.shard(s);
            for (Index i = 0; i < out.rows; ++i) std::ranges::copy(shift, out.row(i).begin());
            gemm<R>(Transpose::no, Transpose::no, R{1}, a_.shard(s), fixed(), R{1}, out);
            cholesky_solve_rows<R>(std::as_const(normal).view(), out);
        });
        const auto kd = static_cast<double>(k);
        const auto rows = static_cast<double>(a_.local().rows());
        a_.comm().ledger().add_flops(rows * static_cast<double>(a_.cols()) * 2.0 * kd +
                                     rows * 2.0 * kd * kd + kd * kd * kd / 3.0);
    }

    [[nodiscard]] SideLoss losses(const BlockRows<R>& x) const {
        std::vector<double> terms(static_cast<std::size_t>(2 * a_.shards().size()));
        for_each_shard(a_.shards(), threads_, [&](Index s) {
            const MatrixView<const R> values = a_.shard(s);
            DenseMatrix<R> scores(values.rows, values.cols);
            gemm<R>(Transpose::no, Transpose::yes, R{1}, x.shard(s), fixed(), R{0}, scores.view());
            double sum = 0.0;
            for (Index i = 0; i < values.rows; ++i) {
                for (Index j = 0; j < values.cols; ++j) {
                    sum += problem_.entry_loss(static_cast<double>(values(i, j)),
                                               static_cast<double>(scores(i, j)));
                }
            }
            const auto at = static_cast<std::size_t>(2 * (s - a_.shards().begin));
            terms[at] = sum;
            terms[at + 1] = shard_ridge(x.shard(s));
        });
        double sums[2];
        reproducible_sum(a_.comm(), terms, sums);
        return {sums[0], sums[1]};
    }

    [[nodiscard]] double ridge(const BlockRows<R>& x) const {
        std::vector<double> terms;
        for (Index s = a_.shards().begin; s < a_.shards().end; ++s) {
            terms.push_back(shard_ridge(x.shard(s)));
        }
        return reproducible_sum(a_.comm(), terms);
    }

private:
    [[nodiscard]] MatrixView<const R> fixed() const { return fixed_.view(); }
    [[nodiscard]] double shard_ridge(MatrixView<const R> x) const {
        double sum = 0.0;
        for (Index i = 0; i < x.rows; ++i) sum += square_norm(x.row(i));
        return problem_.row_lambda(a_.cols()) * sum;
    }

    const BlockRows<R>& a_;
    RowProblem problem_;
    Index threads_;
    const char* axis_;
    RowExchange exchange_;
    DenseMatrix<R> fixed_;
};

}  // namespace rankfold
