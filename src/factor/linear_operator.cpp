#include <rankfold/factor/linear_operator.hpp>

#include <rankfold/comm/reproducible_sum.hpp>
#include <rankfold/dist/inner.hpp>
#include <rankfold/linalg/blas.hpp>

namespace rankfold {

namespace {

/// Σ of the squares of a sparse matrix's values.
template <Real R>
double sparse_square_norm(const BlockRowCsr<R>& a) {
    std::vector<double> squares;
    const Range shards = a.shards();
    for (Index s = shards.begin; s < shards.end; ++s) {
        const CsrView<R> rows = a.shard(s);
        double square = 0.0;
        for (Index i = 0; i < rows.rows; ++i) {
            for (const R v : rows.row_values(i)) {
                square += static_cast<double>(v) * static_cast<double>(v);
            }
        }
        squares.push_back(square);
    }
    return reproducible_sum(a.comm(), squares);
}

}  // namespace

template <Real R>
SparseOperator<R>::SparseOperator(const BlockRowCsr<R>& a, Index threads) : a_{&a} {
    const auto phase = a.comm().ledger().phase("transpose");
    own_transposed_ = transpose(a);
    transposed_ = &own_transposed_;
    plan(threads);
}

template <Real R>
SparseOperator<R>::SparseOperator(const BlockRowCsr<R>& a, const BlockRowCsr<R>& transposed,
                                  Index threads)
    : a_{&a}, transposed_{&transposed} {
    plan(threads);
}

template <Real R>
void SparseOperator<R>::plan(Index threads) {
    square_norm_ = sparse_square_norm(*a_);
    times_ = std::make_unique<SparseProduct<R>>(*a_, transposed_->layout(), threads);
    times_transposed_ = std::make_unique<SparseProduct<R>>(*transposed_, a_->layout(), threads);
}

template <Real R>
DenseOperator<R>::DenseOperator(const BlockRows<R>& a, Index threads)
    : a_{&a},
      threads_{threads},
      products_{a,
                ShardLayout::even(a.cols(), std::max<Index>(64, a.cols() / 256), a.comm().size()),
                threads},
      square_norm_{rankfold::square_norm(a, {0, a.cols()}, threads)} {}

template <Real R>
std::optional<double> DenseOperator<R>::residual_square(const BlockRows<R>& u,
                                                        std::span<const double> s,
                                                        const BlockRows<R>& v) const {
    DenseMatrix<R> scaled = gather_all(v);
    for (Index j = 0; j < scaled.rows(); ++j) {
        for (Index f = 0; f < scaled.cols(); ++f) {
            scaled(j, f) = static_cast<R>(scaled(j, f) * s[static_cast<std::size_t>(f)]);
        }
    }
    const Range shards = a_->shards();
    std::vector<double> squares(static_cast<std::size_t>(shards.size()));
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(threads_))
    for (Index t = shards.begin; t < shards.end; ++t) {
        const MatrixView<const R> rows = a_->shard(t);
        DenseMatrix<R> rest(rows.rows, rows.cols);
        gemm<R>(Transpose::no, Transpose::yes, R{1}, u.shard(t), std::as_const(scaled).view(), R{0},
                rest.view());
        double square = 0.0;
        for (Index i = 0; i < rows.rows; ++i) {
            for (Index j = 0; j < rows.cols; ++j) {
                const double x = static_cast<double>(rows(i, j)) - static_cast<double>(rest(i, j));
                square += x * x;
            }
        }
        squares[static_cast<std::size_t>(t - shards.begin)] = square;
    }
    return reproducible_sum(a_->comm(), squares);
}

template <Real R>
CenteredOperator<R>::CenteredOperator(const OperatorRef<R>& a, Index threads)
    : a_{a}, threads_{threads}, ones_{a.comm(), a.row_layout(), 1} {
    ones_.local().fill(R{1});
    const BlockRows<R> sums = a_.transposed_times(ones_);
    mean_ = sums.clone();
    const double m = static_cast<double>(a.rows());
    for (R& mu : mean_.local().data()) mu = static_cast<R>(static_cast<double>(mu) / m);
    // ‖A − 1μᵀ‖² = ‖A‖² − 2 (1ᵀA)μ + m ‖μ‖²
    const double along = inner(sums, mean_, Accumulate::in_double, threads)(0, 0);
    const double mean_square = inner(mean_, mean_, Accumulate::in_double, threads)(0, 0);
    square_norm_ = std::max(0.0, a_.square_norm() - 2.0 * along + m * mean_square);
}

template <Real R>
void CenteredOperator<R>::apply(const BlockRows<R>& x, BlockRows<R>& y) const {
    y = a_.times(x);
    DenseMatrix<double> along = inner(mean_, x, Accumulate::in_double, threads_);
    add_product(R{-1}, ones_, {0, 1}, std::as_const(along).view(), y, {0, y.cols()}, threads_);
}

template <Real R>
void CenteredOperator<R>::apply_transposed(const BlockRows<R>& x, BlockRows<R>& y) const {
    y = a_.transposed_times(x);
    DenseMatrix<double> sums = inner(ones_, x, Accumulate::in_double, threads_);
    add_product(R{-1}, mean_, {0, 1}, std::as_const(sums).view(), y, {0, y.cols()}, threads_);
}

template <Real R>
std::optional<double> CenteredOperator<R>::residual_square(const BlockRows<R>& u,
                                                           std::span<const double> s,
                                                           const BlockRows<R>& v) const {
    // A − 1μᵀ − U diag(s) Vᵀ is what [U 1] diag(s, 1) [V μ]ᵀ leaves of A
    const auto with = [](const BlockRows<R>& x, const BlockRows<R>& last) {
        BlockRows<R> joined(x.comm(), x.layout(), x.cols() + 1);
        for (Index i = 0; i < x.local().rows(); ++i) {
            std::ranges::copy(x.local().row(i), joined.local().row(i).begin());
            joined.local()(i, x.cols()) = last.local()(i, 0);
        }
        return joined;
    };
    std::vector<double> scale(s.begin(), s.end());
    scale.push_back(1.0);
    return a_.residual_square(with(u, ones_), scale, with(v, mean_));
}

template class SparseOperator<float>;
template class SparseOperator<double>;
template class DenseOperator<float>;
template class DenseOperator<double>;
template class CenteredOperator<float>;
template class CenteredOperator<double>;

}  // namespace rankfold
