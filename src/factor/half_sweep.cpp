#include <rankfold/factor/half_sweep.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

#include <omp.h>

#include <rankfold/comm/reproducible_sum.hpp>
#include <rankfold/linalg/blas.hpp>
#include <rankfold/linalg/lapack.hpp>
#include <rankfold/linalg/row_kernels.hpp>

namespace rankfold {

namespace {

/// Throws on all ranks if any rank has a row that could not be solved; the least is named.
/// @collective
void check_rows(const Communicator& comm, Index first_bad, const char* axis) {
    const Index row = comm.all_reduce(first_bad, Reduce::min);
    if (row == RowSolver<double>::none) return;
    throw NotPositiveDefinite(axis, row);
}

/// Runs body(shard) for these shards on `threads` threads. @pre body does not throw
template <class Body>
void for_each_shard(Range shards, Index threads, const Body& body) {
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(threads))
    for (Index s = shards.begin; s < shards.end; ++s) body(s);
}

/// alpha AᵀA of a factor matrix, both triangles, rounded to its own precision.
template <Real R>
DenseMatrix<R> scaled_gram(const BlockRows<R>& y, double alpha) {
    const DenseMatrix<double> exact = gram(y);
    DenseMatrix<R> result(y.cols(), y.cols());
    for (Index i = 0; i < y.cols(); ++i) {
        for (Index j = i; j < y.cols(); ++j) {
            result(i, j) = result(j, i) = static_cast<R>(alpha * exact(i, j));
        }
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
BiasedFactors<R>::BiasedFactors(BlockRows<R>& factors, std::optional<BlockRows<R>>& bias)
    : factors_{factors}, bias_{bias} {
    if (bias_) joined_ = BlockRows<R>(factors.comm(), factors.layout(), factors.cols() + 1);
}

template <Real R>
void BiasedFactors<R>::join() {
    if (!bias_) return;
    for (Index i = 0; i < factors_.local().rows(); ++i) {
        std::ranges::copy(factors_.local().row(i), joined_.local().row(i).begin());
        joined_.local()(i, factors_.cols()) = bias_->local()(i, 0);
    }
}

template <Real R>
void BiasedFactors<R>::part() {
    if (!bias_) return;
    for (Index i = 0; i < factors_.local().rows(); ++i) {
        std::copy_n(joined_.local().row(i).begin(), factors_.cols(),
                    factors_.local().row(i).begin());
        bias_->local()(i, 0) = joined_.local()(i, factors_.cols());
    }
}

template <Real R>
SparseSide<R>::SparseSide(const BlockRowCsr<R>& a, const SideOptions& options,
                          const ShardLayout& fixed, Index k)
    : a_{a}, options_{options}, exchange_{RowExchange::all(a.comm(), fixed)} {
    for (Index t = 0; t < options.threads; ++t) {
        solvers_.emplace_back(options.problem, k, options.solver);
    }
}

template <Real R>
void SparseSide<R>::set_solver(const SolverOptions& solver) {
    options_.solver = solver;
    for (auto& one : solvers_) one = RowSolver<R>(options_.problem, fixed_.cols(), solver);
}

template <Real R>
RowData<R> SparseSide<R>::row(Index local, const SideExtras<R>& extras) const {
    const CsrView<R> rows = a_.local().view();
    RowData<R> row{.index = a_.first_row() + local,
                   .cols = rows.row_cols(local),
                   .values = rows.row_values(local)};
    const auto begin = static_cast<std::size_t>(rows.row_ptr[local]);
    const auto end = static_cast<std::size_t>(rows.row_ptr[local + 1]);
    row.following = std::span<const ColIndex>(a_.local().col_idx).subspan(end);
    row.count = extras.counts.empty() ? rows.row_nnz(local)
                                      : extras.counts[static_cast<std::size_t>(local)];
    if (!extras.confidences.empty()) {
        row.confidences = extras.confidences.subspan(begin, end - begin);
    }
    if (!extras.targets.empty()) row.targets = extras.targets.subspan(begin, end - begin);
    if (extras.prior != nullptr) row.prior = extras.prior->local().row(local);
    return row;
}

template <Real R>
void SparseSide<R>::gather(const BlockRows<R>& y) {
    const auto phase = a_.comm().ledger().phase("als exchange");
    const Index k = y.cols();
    if (fixed_.cols() != k) fixed_ = DenseMatrix<R>(exchange_.buffer_rows(), k);
    exchange_.gather(y, fixed_.view());
    if (!options_.biases) return;
    offsets_.resize(static_cast<std::size_t>(fixed_.rows()));
    for (Index j = 0; j < fixed_.rows(); ++j) {
        offsets_[static_cast<std::size_t>(j)] = std::exchange(fixed_(j, k - 1), R{1});
    }
}

template <Real R>
void SparseSide<R>::solve(const BlockRows<R>& y, BlockRows<R>& x, const SideExtras<R>& extras) {
    gather(y);
    if (options_.problem.alpha0 != 0.0) {
        const auto phase = a_.comm().ledger().phase("als gram");
        gram_ = scaled_gram(y, options_.problem.alpha0);
    }
    const auto phase = a_.comm().ledger().phase("als solve");
    for (auto& solver : solvers_) {
        solver.begin(std::as_const(fixed_).view(), std::as_const(gram_).view(), offsets_);
    }
    for_each_shard(a_.shards(), options_.threads, [&](Index s) {
        RowSolver<R>& solver = solvers_[static_cast<std::size_t>(omp_get_thread_num())];
        const Range rows = a_.layout().shard_rows(s);
        for (Index i = rows.begin - a_.first_row(); i < rows.end - a_.first_row(); ++i) {
            solver.add(row(i, extras), x.local().row(i));
        }
        solver.finish();
    });
    Index first_bad = RowSolver<R>::none;
    for (const auto& solver : solvers_) first_bad = std::min(first_bad, solver.first_bad());
    check_rows(a_.comm(), first_bad, options_.axis);
    a_.comm().ledger().add_flops(half_sweep_flops(a_.local().nnz(), a_.local().rows(), x.cols()));
}

template <Real R>
void SparseSide<R>::score_row(const RowData<R>& row, std::span<const R> x, std::span<R> out) const {
    gather_dots<R>(fixed_.view(), row.cols, x, out);
    if (offsets_.empty()) return;
    for (std::size_t e = 0; e < out.size(); ++e) {
        out[e] += offsets_[static_cast<std::size_t>(row.cols[e])];
    }
}

template <Real R>
void SparseSide<R>::scores(const BlockRows<R>& x, std::span<R> out) const {
    const CsrView<R> rows = a_.local().view();
    RANKFOLD_EXPECT(out.size() == static_cast<std::size_t>(a_.local().nnz()));
    for_each_shard(a_.shards(), options_.threads, [&](Index s) {
        const Range range = a_.layout().shard_rows(s);
        for (Index i = range.begin - a_.first_row(); i < range.end - a_.first_row(); ++i) {
            score_row(row(i, {}), x.local().row(i),
                      out.subspan(static_cast<std::size_t>(rows.row_ptr[i]),
                                  static_cast<std::size_t>(rows.row_nnz(i))));
        }
    });
}

template <Real R>
SideLoss SparseSide<R>::losses(const BlockRows<R>& x, const SideExtras<R>& extras) const {
    std::vector<double> terms(static_cast<std::size_t>(2 * a_.shards().size()));
    const RowProblem& problem = options_.problem;
    for_each_shard(a_.shards(), options_.threads, [&](Index s) {
        const Range rows = a_.layout().shard_rows(s);
        SideLoss sum;
        std::vector<R> scores;
        for (Index i = rows.begin - a_.first_row(); i < rows.end - a_.first_row(); ++i) {
            const RowData<R> data = row(i, extras);
            scores.resize(data.cols.size());
            score_row(data, x.local().row(i), scores);
            for (std::size_t e = 0; e < scores.size(); ++e) {
                const auto v = static_cast<double>(data.values[e]);
                const double c =
                    data.confidences.empty() ? 1.0 : static_cast<double>(data.confidences[e]);
                const double b = data.targets.empty() ? c * problem.target(v)
                                                      : static_cast<double>(data.targets[e]);
                sum.entries +=
                    problem.entry_loss(v, c * problem.weight(v), b, static_cast<double>(scores[e]));
            }
            sum.ridge += row_ridge(data, x.local().row(i));
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
double SparseSide<R>::certificate(const BlockRows<R>& x, const SideExtras<R>& extras) {
    for (auto& solver : solvers_) {
        solver.begin(std::as_const(fixed_).view(), std::as_const(gram_).view(), offsets_);
    }
    std::vector<double> largest(static_cast<std::size_t>(options_.threads), 0.0);
    for_each_shard(a_.shards(), options_.threads, [&](Index s) {
        const auto thread = static_cast<std::size_t>(omp_get_thread_num());
        const Range rows = a_.layout().shard_rows(s);
        for (Index i = rows.begin - a_.first_row(); i < rows.end - a_.first_row(); ++i) {
            largest[thread] = std::max(largest[thread], solvers_[thread].relative_residual(
                                                            row(i, extras), x.local().row(i)));
        }
    });
    return a_.comm().all_reduce(std::ranges::max(largest), Reduce::max);
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
    if (row.count > 0) sum = options_.problem.row_lambda(row.count) * square_norm(x);
    for (std::size_t f = 0; f < row.prior.size(); ++f) {
        const double d = static_cast<double>(x[f]) - static_cast<double>(row.prior[f]);
        sum += options_.problem.prior_weight * d * d;
    }
    return sum;
}

template <Real R>
DenseSide<R>::DenseSide(const BlockRows<R>& a, const SideOptions& options, const ShardLayout& fixed,
                        Index k)
    : a_{a},
      options_{options},
      exchange_{RowExchange::all(a.comm(), fixed)},
      fixed_(exchange_.buffer_rows(), k) {}

template <Real R>
void DenseSide<R>::solve(const BlockRows<R>& y, BlockRows<R>& x) {
    const Index k = y.cols();
    {
        const auto phase = a_.comm().ledger().phase("als exchange");
        exchange_.gather(y, fixed_.view());
    }
    const auto phase = a_.comm().ledger().phase("als solve");
    normal_ = scaled_gram(y, 1.0);
    const double lambda = options_.problem.row_lambda(a_.cols());
    for (Index f = 0; f < k; ++f) normal_(f, f) += static_cast<R>(lambda);
    DenseMatrix<R> normal = normal_.clone();
    const R tiny = lambda > 0.0 ? R{0} : static_cast<R>(k) * std::numeric_limits<R>::epsilon();
    const bool singular = cholesky_upper<R>(normal.view(), tiny) >= 0;
    check_rows(a_.comm(), singular ? 0 : RowSolver<R>::none, options_.axis);
    shift_.assign(static_cast<std::size_t>(k), R{0});
    for (Index j = 0; j < fixed_.rows(); ++j) {
        for (Index f = 0; f < k; ++f) {
            shift_[static_cast<std::size_t>(f)] +=
                static_cast<R>(options_.problem.b0) * fixed_(j, f);
        }
    }
    for_each_shard(a_.shards(), options_.threads, [&](Index s) {
        const MatrixView<R> out = x.shard(s);
        for (Index i = 0; i < out.rows; ++i) std::ranges::copy(shift_, out.row(i).begin());
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
    for_each_shard(a_.shards(), options_.threads, [&](Index s) {
        const MatrixView<const R> values = a_.shard(s);
        DenseMatrix<R> scores(values.rows, values.cols);
        gemm<R>(Transpose::no, Transpose::yes, R{1}, x.shard(s), fixed_.view(), R{0},
                scores.view());
        double sum = 0.0;
        for (Index i = 0; i < values.rows; ++i) {
            for (Index j = 0; j < values.cols; ++j) {
                const auto v = static_cast<double>(values(i, j));
                sum += options_.problem.entry_loss(v, 1.0, options_.problem.target(v),
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

template <Real R>
double DenseSide<R>::ridge(const BlockRows<R>& x) const {
    std::vector<double> terms;
    for (Index s = a_.shards().begin; s < a_.shards().end; ++s) {
        terms.push_back(shard_ridge(x.shard(s)));
    }
    return reproducible_sum(a_.comm(), terms);
}

template <Real R>
double DenseSide<R>::certificate(const BlockRows<R>& x) const {
    double largest = 0.0;
    for (Index s = a_.shards().begin; s < a_.shards().end; ++s) {
        const MatrixView<const R> rows = a_.shard(s);
        DenseMatrix<R> rhs(rows.rows, fixed_.cols());
        for (Index i = 0; i < rows.rows; ++i) std::ranges::copy(shift_, rhs.row(i).begin());
        gemm<R>(Transpose::no, Transpose::no, R{1}, rows, fixed_.view(), R{1}, rhs.view());
        DenseMatrix<R> gradient = rhs.clone();
        gemm<R>(Transpose::no, Transpose::no, R{-1}, x.shard(s), normal_.view(), R{1},
                gradient.view());
        for (Index i = 0; i < rows.rows; ++i) {
            const double size = square_norm<R>(rhs.row(i));
            if (size == 0.0) continue;
            largest = std::max(largest, std::sqrt(square_norm<R>(gradient.row(i)) / size));
        }
    }
    return a_.comm().all_reduce(largest, Reduce::max);
}

template <Real R>
double DenseSide<R>::shard_ridge(MatrixView<const R> x) const {
    double sum = 0.0;
    for (Index i = 0; i < x.rows; ++i) sum += square_norm(x.row(i));
    return options_.problem.row_lambda(a_.cols()) * sum;
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

template class BiasedFactors<float>;
template class BiasedFactors<double>;
template class SparseSide<float>;
template class SparseSide<double>;
template class DenseSide<float>;
template class DenseSide<double>;
template double all_pairs_square(const BlockRows<float>&, const BlockRows<float>&);
template double all_pairs_square(const BlockRows<double>&, const BlockRows<double>&);

}  // namespace rankfold
