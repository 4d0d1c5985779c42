#include <algorithm>
#include <cmath>
#include <limits>

#include <rankfold/comm/reproducible_sum.hpp>
#include <rankfold/linalg/blas.hpp>
#include <rankfold/linalg/lapack.hpp>

#include "side_parts.hpp"

namespace rankfold {

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

template class DenseSide<float>;
template class DenseSide<double>;

}  // namespace rankfold
