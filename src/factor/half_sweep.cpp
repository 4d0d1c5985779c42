#include <rankfold/factor/half_sweep.hpp>

#include <algorithm>
#include <atomic>
#include <limits>

#include <omp.h>

#include <rankfold/comm/reproducible_sum.hpp>
#include <rankfold/linalg/blas.hpp>
#include <rankfold/linalg/lapack.hpp>
#include <rankfold/linalg/row_kernels.hpp>

namespace rankfold {

namespace {

/// Remembers the lowest row that a parallel loop could not solve.
class FirstBadRow {
public:
    void note(Index row) {
        Index seen = row_.load();
        while (row < seen && !row_.compare_exchange_weak(seen, row)) {
        }
    }
    /// Throws on all ranks if any noted a row. @collective
    void check(const Communicator& comm, const char* axis) const {
        const Index row = comm.all_reduce(row_.load(), Reduce::min);
        if (row == none) return;
        throw NotPositiveDefinite(axis, row);
    }

private:
    static constexpr Index none = std::numeric_limits<Index>::max();
    std::atomic<Index> row_{none};
};

/// Runs body(shard) for these shards on `threads` threads. @pre body does not throw
template <class Body>
void for_each_shard(Range shards, Index threads, const Body& body) {
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(threads))
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

}  // namespace

template <Real R>
SparseSide<R>::SparseSide(const BlockRowCsr<R>& a, const RowProblem& problem,
                          const ShardLayout& fixed, Index k, Index threads, const char* axis)
    : a_{a},
      problem_{problem},
      threads_{threads},
      axis_{axis},
      exchange_{RowExchange::all(a.comm(), fixed)} {
    for (Index t = 0; t < threads; ++t) solvers_.emplace_back(k);
}

template <Real R>
RowData<R> SparseSide<R>::row(Index local, const SideExtras<R>& extras) const {
    const CsrView<R> rows = a_.local().view();
    RowData<R> row{.cols = rows.row_cols(local), .values = rows.row_values(local)};
    const Index end = rows.row_ptr[local + 1];
    row.following =
        std::span<const ColIndex>(a_.local().col_idx).subspan(static_cast<std::size_t>(end));
    row.count = extras.counts.empty() ? rows.row_nnz(local)
                                      : extras.counts[static_cast<std::size_t>(local)];
    if (!extras.targets.empty()) {
        row.targets =
            extras.targets.subspan(static_cast<std::size_t>(rows.row_ptr[local]), row.cols.size());
    }
    if (extras.prior != nullptr) row.prior = extras.prior->local().row(local);
    return row;
}

template <Real R>
void SparseSide<R>::gather(const BlockRows<R>& y) {
    const auto phase = a_.comm().ledger().phase("als exchange");
    if (fixed_.cols() != y.cols()) fixed_ = DenseMatrix<R>(exchange_.buffer_rows(), y.cols());
    exchange_.gather(y, fixed_.view());
}

template <Real R>
void SparseSide<R>::solve(const BlockRows<R>& y, BlockRows<R>& x, const SideExtras<R>& extras) {
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
        const Range rows = a_.layout().shard_rows(s);
        for (Index i = rows.begin; i < rows.end; ++i) {
            const Index local = i - a_.first_row();
            if (!solver.solve(problem_, row(local, extras), fixed_.view(),
                              std::as_const(shared).view(), x.local().row(local))) {
                bad.note(i);
            }
        }
    });
    bad.check(a_.comm(), axis_);
    a_.comm().ledger().add_flops(half_sweep_flops(a_.local().nnz(), a_.local().rows(), x.cols()));
}

template <Real R>
void SparseSide<R>::scores(const BlockRows<R>& x, std::span<R> out) const {
    const CsrView<R> rows = a_.local().view();
    RANKFOLD_EXPECT(out.size() == static_cast<std::size_t>(a_.local().nnz()));
    for_each_shard(a_.shards(), threads_, [&](Index s) {
        const Range range = a_.layout().shard_rows(s);
        for (Index i = range.begin - a_.first_row(); i < range.end - a_.first_row(); ++i) {
            gather_dots<R>(fixed_.view(), rows.row_cols(i), x.local().row(i),
                           out.subspan(static_cast<std::size_t>(rows.row_ptr[i]),
                                       static_cast<std::size_t>(rows.row_nnz(i))));
        }
    });
}

template <Real R>
SideLoss SparseSide<R>::losses(const BlockRows<R>& x, const SideExtras<R>& extras) const {
    std::vector<double> terms(static_cast<std::size_t>(2 * a_.shards().size()));
    for_each_shard(a_.shards(), threads_, [&](Index s) {
        const Range rows = a_.layout().shard_rows(s);
        SideLoss sum;
        std::vector<R> scores;
        for (Index i = rows.begin - a_.first_row(); i < rows.end - a_.first_row(); ++i) {
            const RowData<R> data = row(i, extras);
            const auto factors = x.local().row(i);
            scores.resize(data.cols.size());
            gather_dots<R>(fixed_.view(), data.cols, factors, scores);
            for (std::size_t e = 0; e < scores.size(); ++e) {
                const auto v = static_cast<double>(data.values[e]);
                const double b = data.targets.empty() ? problem_.target(v)
                                                      : static_cast<double>(data.targets[e]);
                sum.entries += problem_.entry_loss(v, b, static_cast<double>(scores[e]));
            }
            sum.ridge += row_ridge(data, factors);
        }
        const auto at = static_cast<std::size_t>(2 * (s - a_.shards().begin));
        terms[at] = sum.entries;
        terms[at + 1] = sum.ridge;
    });
    double sums[2];
    reproducible_sum(a_.comm(), terms, sums);
    return {sums[0], sums[1]};
}

template <Real R>
double SparseSide<R>::ridge(const BlockRows<R>& x, const SideExtras<R>& extras) const {
    std::vector<double> terms;
    for (Index s = a_.shards().begin; s < a_.shards().end; ++s) {
        const Range rows = a_.layout().shard_rows(s);
        double sum = 0.0;
        for (Index i = rows.begin - a_.first_row(); i < rows.end - a_.first_row(); ++i) {
            sum += row_ridge(row(i, extras), x.local().row(i));
        }
        terms.push_back(sum);
    }
    return reproducible_sum(a_.comm(), terms);
}

template <Real R>
double SparseSide<R>::row_ridge(const RowData<R>& row, std::span<const R> x) const {
    double sum = 0.0;
    if (row.count > 0) sum = problem_.row_lambda(row.count) * square_norm(x);
    for (std::size_t f = 0; f < row.prior.size(); ++f) {
        const double d = static_cast<double>(x[f]) - static_cast<double>(row.prior[f]);
        sum += problem_.prior_weight * d * d;
    }
    return sum;
}

template <Real R>
DenseSide<R>::DenseSide(const BlockRows<R>& a, const RowProblem& problem, const ShardLayout& fixed,
                        Index /*k*/, Index threads, const char* axis)
    : a_{a},
      problem_{problem},
      threads_{threads},
      axis_{axis},
      exchange_{RowExchange::all(a.comm(), fixed)} {}

template <Real R>
void DenseSide<R>::solve(const BlockRows<R>& y, BlockRows<R>& x) {
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
            shift[static_cast<std::size_t>(f)] += static_cast<R>(problem_.b0) * fixed_(j, f);
        }
    }
    for_each_shard(a_.shards(), threads_, [&](Index s) {
        const MatrixView<R> out = x.shard(s);
        for (Index i = 0; i < out.rows; ++i) std::ranges::copy(shift, out.row(i).begin());
        gemm<R>(Transpose::no, Transpose::no, R{1}, a_.shard(s), fixed_.view(), R{1}, out);
        cholesky_solve_rows<R>(std::as_const(normal).view(), out);
    });
    const auto kd = static_cast<double>(k);
    const auto rows = static_cast<double>(a_.local().rows());
    a_.comm().ledger().add_flops(rows * static_cast<double>(a_.cols()) * 2.0 * kd +
                                 rows * 2.0 * kd * kd + kd * kd * kd / 3.0);
}

template <Real R>
SideLoss DenseSide<R>::losses(const BlockRows<R>& x) const {
    std::vector<double> terms(static_cast<std::size_t>(2 * a_.shards().size()));
    for_each_shard(a_.shards(), threads_, [&](Index s) {
        const MatrixView<const R> values = a_.shard(s);
        DenseMatrix<R> scores(values.rows, values.cols);
        gemm<R>(Transpose::no, Transpose::yes, R{1}, x.shard(s), fixed_.view(), R{0},
                scores.view());
        double sum = 0.0;
        for (Index i = 0; i < values.rows; ++i) {
            for (Index j = 0; j < values.cols; ++j) {
                const auto v = static_cast<double>(values(i, j));
                sum +=
                    problem_.entry_loss(v, problem_.target(v), static_cast<double>(scores(i, j)));
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

template <Real R>
double DenseSide<R>::ridge(const BlockRows<R>& x) const {
    std::vector<double> terms;
    for (Index s = a_.shards().begin; s < a_.shards().end; ++s) {
        terms.push_back(shard_ridge(x.shard(s)));
    }
    return reproducible_sum(a_.comm(), terms);
}

template <Real R>
double DenseSide<R>::shard_ridge(MatrixView<const R> x) const {
    double sum = 0.0;
    for (Index i = 0; i < x.rows; ++i) sum += square_norm(x.row(i));
    return problem_.row_lambda(a_.cols()) * sum;
}

template <Real R>
double all_pairs_square(const BlockRows<R>& x, const BlockRows<R>& y) {
    const DenseMatrix<double> gx = gram(x);
    const DenseMatrix<double> gy = gram(y);
    double sum = 0.0;
    for (Index i = 0; i < gx.rows(); ++i) {
        sum += gx(i, i) * gy(i, i);
        for (Index j = i + 1; j < gx.cols(); ++j) sum += 2.0 * gx(i, j) * gy(i, j);
    }
    return sum;
}

template class SparseSide<float>;
template class SparseSide<double>;
template class DenseSide<float>;
template class DenseSide<double>;
template double all_pairs_square(const BlockRows<float>&, const BlockRows<float>&);
template double all_pairs_square(const BlockRows<double>&, const BlockRows<double>&);

}  // namespace rankfold
