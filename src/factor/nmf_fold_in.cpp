// New rows for a nonnegative factorization.
#include <algorithm>
#include <limits>

#include <rankfold/factor/als.hpp>
#include <rankfold/linalg/blas.hpp>
#include <rankfold/linalg/row_kernels.hpp>

#include "nmf_given.hpp"

namespace rankfold {

namespace {

/// Passes end when they move a row by this share of what the first one did.
template <Real R>
constexpr double settled = std::is_same_v<R, float> ? 1e-5 : 1e-10;

/// HᵀH in the factors' own precision, both triangles.
template <Real R>
DenseMatrix<R> whole_gram(const BlockRows<R>& cols) {
    const DenseMatrix<double> exact = gram(cols);
    DenseMatrix<R> result(cols.cols(), cols.cols());
    for (Index i = 0; i < result.rows(); ++i) {
        for (Index j = i; j < result.cols(); ++j) {
            result(i, j) = result(j, i) = static_cast<R>(exact(i, j));
        }
    }
    return result;
}

/// w from V = A H, one shard after the other: product(shard, v) fills the shard's rows of V.
template <Real R, class Matrix, class Product>
BlockRows<R> solve_rows(const Matrix& rows, const BlockRows<R>& cols, const NmfFoldIn& options,
                        const Product& product) {
    const DenseMatrix<R> gram = whole_gram(cols);
    BlockRows<R> result(rows.comm(), rows.layout(), cols.cols());
    const Range shards = result.shards();
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(options.threads))
    for (Index s = shards.begin; s < shards.end; ++s) {
        const MatrixView<R> w = result.shard(s);
        DenseMatrix<R> v(w.rows, w.cols);
        product(s, v.view());
        hals_rows<R>(std::as_const(v).view(), gram.view(), {options.passes, settled<R>}, w);
    }
    return result;
}

/// One row by multiplicative updates, from equal factors that have the row's sum.
template <Real R>
void solve_divergence(std::span<const ColIndex> idx, std::span<const R> values,
                      MatrixView<const R> h, std::span<const double> sums, Index passes,
                      std::span<R> w) {
    double total = 0.0;
    double all = 0.0;
    for (const R v : values) total += static_cast<double>(v);
    for (const double s : sums) all += s;
    const double least = static_cast<double>(std::numeric_limits<R>::epsilon());
    std::ranges::fill(w, static_cast<R>(total / std::max(all, least)));
    std::vector<R> scores(values.size());
    std::vector<R> product(w.size());
    for (Index pass = 0; pass < passes && !values.empty(); ++pass) {
        gather_dots<R>(h, idx, w, scores);
        for (std::size_t e = 0; e < values.size(); ++e) {
            scores[e] = values[e] / std::max(scores[e], static_cast<R>(least));
        }
        weighted_row_sum<R>(h, idx, scores, product.data());
        for (std::size_t f = 0; f < w.size(); ++f) {
            w[f] *= product[f] / static_cast<R>(std::max(sums[f], least));
        }
    }
}

template <Real R>
BlockRows<R> fold_in_divergence(const BlockRowCsr<R>& rows, const BlockRows<R>& cols,
                                const NmfFoldIn& options) {
    const DenseMatrix<R> h = gather_all(cols);
    std::vector<double> sums(static_cast<std::size_t>(h.cols()), 0.0);
    for (Index j = 0; j < h.rows(); ++j) {
        for (Index f = 0; f < h.cols(); ++f) {
            sums[static_cast<std::size_t>(f)] += static_cast<double>(h(j, f));
        }
    }
    BlockRows<R> result(rows.comm(), rows.layout(), cols.cols());
    const CsrView<R> local = rows.local().view();
#pragma omp parallel for schedule(dynamic, 64) num_threads(static_cast <int>(options.threads))
    for (Index i = 0; i < local.rows; ++i) {
        solve_divergence<R>(local.row_cols(i), local.row_values(i), h.view(), sums, options.passes,
                            result.local().row(i));
    }
    return result;
}

}  // namespace

template <Real R>
BlockRows<R> fold_in_nmf(const BlockRowCsr<R>& rows, const BlockRows<R>& cols,
                         const NmfFoldIn& options) {
    RANKFOLD_EXPECT(rows.cols() == cols.rows() && options.passes > 0);
    require_nonnegative(rows, "the matrix of new rows");
    const auto phase = rows.comm().ledger().phase("fold-in");
    if (options.loss == NmfLoss::kullback_leibler) return fold_in_divergence(rows, cols, options);
    if (options.missing) {
        BlockRows<R> result(rows.comm(), rows.layout(), cols.cols());
        GivenSide<R> side(rows, cols.layout(), options.lambda, options.lambda_exponent,
                          options.threads);
        side.pass(cols, result, {options.passes, settled<R>});
        return result;
    }
    const DenseMatrix<R> h = gather_all(cols);
    return solve_rows<R>(rows, cols, options, [&](Index s, MatrixView<R> v) {
        const CsrView<R> shard = rows.shard(s);
        for (Index i = 0; i < shard.rows; ++i) {
            weighted_row_sum<R>(h.view(), shard.row_cols(i), shard.row_values(i), &v(i, 0));
        }
    });
}

template <Real R>
BlockRows<R> fold_in_nmf(const BlockRows<R>& rows, const BlockRows<R>& cols,
                         const NmfFoldIn& options) {
    RANKFOLD_EXPECT(rows.cols() == cols.rows() && options.passes > 0);
    if (options.loss == NmfLoss::kullback_leibler) {
        return fold_in_nmf(sparsify(rows), cols, options);
    }
    if (options.missing) return fold_in_nmf(sparsify(rows, Zeros::stored), cols, options);
    require_nonnegative(rows, "the matrix of new rows");
    const auto phase = rows.comm().ledger().phase("fold-in");
    const DenseMatrix<R> h = gather_all(cols);
    return solve_rows<R>(rows, cols, options, [&](Index s, MatrixView<R> v) {
        gemm<R>(Transpose::no, Transpose::no, R{1}, rows.shard(s), h.view(), R{0}, v);
    });
}

#define RANKFOLD_INSTANTIATE(R)                                                   \
    template BlockRows<R> fold_in_nmf(const BlockRowCsr<R>&, const BlockRows<R>&, \
                                      const NmfFoldIn&);                          \
    template BlockRows<R> fold_in_nmf(const BlockRows<R>&, const BlockRows<R>&, const NmfFoldIn&);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
