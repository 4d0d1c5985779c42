#include <rankfold/factor/warm_start.hpp>

#include <algorithm>
#include <cmath>

#include <rankfold/dist/row_exchange.hpp>
#include <rankfold/linalg/blas.hpp>
#include <rankfold/linalg/lapack.hpp>

namespace rankfold {

namespace {

/// A root A of a Gram matrix G = A Aᵀ and A⁻ᵀ (of its range), both k x k.
struct GramRoot {
    DenseMatrix<double> root;
    DenseMatrix<double> inverse;  // A⁻ᵀ
};

template <Real R>
GramRoot root_of(const BlockRows<R>& x) {
    DenseMatrix<double> g = gram(x);
    const Index k = g.rows();
    for (Index i = 0; i < k; ++i) {
        for (Index j = 0; j < i; ++j) g(i, j) = g(j, i);
    }
    const SmallSvd svd = small_svd(std::as_const(g).view());
    GramRoot result{DenseMatrix<double>(k, k), DenseMatrix<double>(k, k)};
    constexpr double negligible = 1e-12;  // of the largest: rounding, not signal
    for (Index f = 0; f < k; ++f) {
        const double s = svd.s[static_cast<std::size_t>(f)];
        const bool counts = s > negligible * svd.s.front();
        const double root = counts ? std::sqrt(s) : 0.0;
        for (Index i = 0; i < k; ++i) {
            result.root(i, f) = svd.u(i, f) * root;
            result.inverse(i, f) = counts ? svd.u(i, f) / root : 0.0;
        }
    }
    return result;
}

/// x M for a k0 x k matrix M.
template <Real R>
BlockRows<R> times(const BlockRows<R>& x, const DenseMatrix<double>& m) {
    BlockRows<R> result(x.comm(), x.layout(), m.cols());
    for (Index i = 0; i < x.local().rows(); ++i) {
        for (Index c = 0; c < m.cols(); ++c) {
            double sum = 0.0;
            for (Index f = 0; f < m.rows(); ++f) {
                sum += static_cast<double>(x.local()(i, f)) * m(f, c);
            }
            result.local()(i, c) = static_cast<R>(sum);
        }
    }
    return result;
}

template <Real R>
void scale_columns(BlockRows<R>& x, std::span<const R> s) {
    for (Index i = 0; i < x.local().rows(); ++i) {
        for (Index f = 0; f < x.cols(); ++f) {
            x.local()(i, f) *= std::sqrt(s[static_cast<std::size_t>(f)]);
        }
    }
}

/// The first k columns of inverse · u · √Σ.
DenseMatrix<double> rotation(const DenseMatrix<double>& inverse, const DenseMatrix<double>& u,
                             const std::vector<double>& s, Index k) {
    DenseMatrix<double> result(inverse.rows(), k);
    for (Index i = 0; i < inverse.rows(); ++i) {
        for (Index c = 0; c < k; ++c) {
            for (Index f = 0; f < inverse.cols(); ++f) {
                result(i, c) += inverse(i, f) * u(f, c) * std::sqrt(s[static_cast<std::size_t>(c)]);
            }
        }
    }
    return result;
}

}  // namespace

template <Real R>
Factors<R> cut_factors(const Factors<R>& factors, Index k) {
    Factors<R> result;
    result.rows = factors.rows.clone();
    result.cols = factors.cols.clone();
    result.ids = factors.ids;
    if (!factors.singular_values.empty()) {
        scale_columns<R>(result.rows, factors.singular_values);
        scale_columns<R>(result.cols, factors.singular_values);
    }
    if (factors.k() <= k) return result;
    const GramRoot a = root_of(result.rows);
    const GramRoot b = root_of(result.cols);
    DenseMatrix<double> product(factors.k(), factors.k());
    gemm<double>(Transpose::yes, Transpose::no, 1.0, a.root.view(), b.root.view(), 0.0,
                 product.view());
    const SmallSvd svd = small_svd(std::as_const(product).view());
    DenseMatrix<double> v(factors.k(), factors.k());
    for (Index i = 0; i < v.rows(); ++i) {
        for (Index j = 0; j < v.cols(); ++j) v(i, j) = svd.vt(j, i);
    }
    result.rows = times(result.rows, rotation(a.inverse, svd.u, svd.s, k));
    result.cols = times(result.cols, rotation(b.inverse, v, svd.s, k));
    return result;
}

template <Real R>
void place_rows(const BlockRows<R>& from, std::span<const Index> map, MatrixView<R> to) {
    RANKFOLD_EXPECT(std::ssize(map) == to.rows && from.cols() <= to.cols);
    std::vector<Index> needed(map.begin(), map.end());
    std::erase(needed, Index{-1});
    std::ranges::sort(needed);
    needed.erase(std::ranges::unique(needed).begin(), needed.end());
    const RowExchange exchange(from.comm(), from.layout(), ExchangeScheme::needed,
                               std::move(needed));
    DenseMatrix<R> buffer(exchange.buffer_rows(), from.cols());
    exchange.gather(from, buffer.view());
    for (Index i = 0; i < to.rows; ++i) {
        const Index source = map[static_cast<std::size_t>(i)];
        if (source < 0) continue;
        std::ranges::copy(buffer.row(exchange.position(source)), to.row(i).begin());
    }
}

#define RANKFOLD_INSTANTIATE(R)                                \
    template Factors<R> cut_factors(const Factors<R>&, Index); \
    template void place_rows(const BlockRows<R>&, std::span<const Index>, MatrixView<R>);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
