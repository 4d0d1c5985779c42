#include <rankfold/factor/certificate.hpp>

#include <algorithm>
#include <cmath>
#include <numbers>

#include <rankfold/core/random.hpp>
#include <rankfold/dist/inner.hpp>

namespace rankfold {

namespace {

constexpr Index probes = 8;  // each makes a wrong bound 10 times less likely

/// [X Y], row by row.
template <Real R>
BlockRows<R> side_by_side(const BlockRows<R>& x, const BlockRows<R>& y) {
    BlockRows<R> joined(x.comm(), x.layout(), x.cols() + y.cols());
    for (Index i = 0; i < x.local().rows(); ++i) {
        const auto row = joined.local().row(i);
        std::ranges::copy(x.local().row(i), row.begin());
        std::ranges::copy(y.local().row(i), row.begin() + x.cols());
    }
    return joined;
}

template <Real R>
BlockRows<R> columns(const BlockRows<R>& x, Range cols) {
    BlockRows<R> part(x.comm(), x.layout(), cols.size());
    for (Index i = 0; i < x.local().rows(); ++i) {
        std::ranges::copy(x.local().view().col_block(cols).row(i), part.local().row(i).begin());
    }
    return part;
}

/// max over i of ‖(product of x's partner)_i − s_i x_i‖.
template <Real R>
double worst_residual(const BlockRows<R>& product, std::span<const double> s, const BlockRows<R>& x,
                      Index threads) {
    BlockRows<R> rest = product.clone();
    for (Index i = 0; i < rest.local().rows(); ++i) {
        for (Index f = 0; f < rest.cols(); ++f) {
            const double expected =
                s[static_cast<std::size_t>(f)] * static_cast<double>(x.local()(i, f));
            rest.local()(i, f) = static_cast<R>(static_cast<double>(rest.local()(i, f)) - expected);
        }
    }
    const auto norms = column_norms(rest, threads);
    return norms.empty() ? 0.0 : std::ranges::max(norms);
}

/// XᵀX.
template <Real R>
DenseMatrix<double> gram_of(const BlockRows<R>& x, Index threads) {
    return inner(x, x, Accumulate::in_double, threads);
}

double distance_from_identity(const DenseMatrix<double>& gram) {
    double square = 0.0;
    for (Index i = 0; i < gram.rows(); ++i) {
        for (Index j = 0; j < gram.cols(); ++j) {
            const double x = gram(i, j) - (i == j ? 1.0 : 0.0);
            square += x * x;
        }
    }
    return std::sqrt(square);
}

/// y ← y − left diag(s) (rightᵀ x): what is left of a product once the factors' part is taken away.
template <Real R>
void take_away(BlockRows<R>& y, const BlockRows<R>& left, std::span<const double> s,
               const BlockRows<R>& right, const BlockRows<R>& x, Index threads) {
    DenseMatrix<double> w = inner(right, x, Accumulate::in_double, threads);
    for (Index f = 0; f < w.rows(); ++f) {
        for (double& value : w.row(f)) value *= s[static_cast<std::size_t>(f)];
    }
    add_product(R{-1}, left, {0, left.cols()}, std::as_const(w).view(), y, {0, y.cols()}, threads);
}

/// Divides by the greatest column's length, which it returns (1 for a zero matrix).
template <Real R>
double normalize(BlockRows<R>& x, Index threads) {
    const double largest = std::ranges::max(column_norms(x, threads));
    if (largest == 0.0) return 1.0;
    for (R& value : x.local().data()) {
        value = static_cast<R>(static_cast<double>(value) / largest);
    }
    return largest;
}

/// ‖A‖² − 2 Σ s_i u_i·(A v_i) + Σ s_i s_j (UᵀU)_ij (VᵀV)_ij.
double error_square(double norm_square, std::span<const double> s, std::span<const double> along,
                    const DenseMatrix<double>& u_gram, const DenseMatrix<double>& v_gram) {
    double square = norm_square;
    for (std::size_t i = 0; i < s.size(); ++i) {
        square -= 2.0 * s[i] * along[i];
        for (std::size_t j = 0; j < s.size(); ++j) {
            square += s[i] * s[j] * u_gram(static_cast<Index>(i), static_cast<Index>(j)) *
                      v_gram(static_cast<Index>(i), static_cast<Index>(j));
        }
    }
    return std::max(0.0, square);
}

}  // namespace

std::vector<std::pair<std::string, double>> Certificate::entries() const {
    return {{"left_residual", left_residual},
            {"right_residual", right_residual},
            {"u_orthogonality", u_orthogonality},
            {"v_orthogonality", v_orthogonality},
            {"norm", norm},
            {"error", error},
            {"relative_error", relative_error()},
            {"spectral_bound", spectral_bound}};
}

template <Real R>
Certificate certify(const OperatorRef<R>& a, const BlockRows<R>& u, std::span<const double> s,
                    const BlockRows<R>& v, std::uint64_t seed, Index threads,
                    BlockRows<R>* transposed_u) {
    const auto phase = a.comm().ledger().phase("svd certificate");
    const Index k = u.cols();
    RANKFOLD_EXPECT(v.cols() == k && s.size() == static_cast<std::size_t>(k) && k > 0);
    const double unit = s[0] > 0.0 ? s[0] : 1.0;
    BlockRows<R> omega(a.comm(), a.col_layout(), probes);
    const Philox random(seed + 1, Stream::sketch);
    for (Index i = 0; i < omega.local().rows(); ++i) {
        for (Index f = 0; f < probes; ++f) {
            omega.local()(i, f) = static_cast<R>(random.normal(omega.first_row() + i, f));
        }
    }
    Certificate result;
    const auto product = [&](const BlockRows<R>& x, bool transposed) {
        const auto inside = a.comm().ledger().phase("svd product");
        return transposed ? a.transposed_times(x) : a.times(x);
    };
    const BlockRows<R> forward = product(side_by_side(v, omega), false);
    const BlockRows<R> av = columns(forward, {0, k});
    result.left_residual = worst_residual(av, s, u, threads) / unit;
    BlockRows<R> e = columns(forward, {k, k + probes});
    take_away(e, u, s, v, omega, threads);
    double scale = normalize(e, threads);

    const BlockRows<R> backward = product(side_by_side(u, e), true);
    BlockRows<R> atu = columns(backward, {0, k});
    result.right_residual = worst_residual(atu, s, v, threads) / unit;
    BlockRows<R> f = columns(backward, {k, k + probes});
    take_away(f, v, s, u, e, threads);
    scale *= normalize(f, threads);
    e = product(f, false);
    take_away(e, u, s, v, f, threads);
    scale *= std::ranges::max(column_norms(e, threads));
    result.spectral_bound = std::cbrt(10.0 * std::sqrt(2.0 / std::numbers::pi) * scale);

    const DenseMatrix<double> u_gram = gram_of(u, threads);
    const DenseMatrix<double> v_gram = gram_of(v, threads);
    result.u_orthogonality = distance_from_identity(u_gram);
    result.v_orthogonality = distance_from_identity(v_gram);
    result.norm = std::sqrt(a.square_norm());
    double square = error_square(a.square_norm(), s, column_dots(u, av, threads), u_gram, v_gram);
    const double cancelled = std::same_as<R, float> ? 1e-4 : 1e-10;
    if (square < cancelled * a.square_norm()) {
        if (const auto exact = a.residual_square(u, s, v)) square = *exact;
    }
    result.error = std::sqrt(square);
    if (transposed_u != nullptr) *transposed_u = std::move(atu);
    return result;
}

template Certificate certify(const OperatorRef<float>&, const BlockRows<float>&,
                             std::span<const double>, const BlockRows<float>&, std::uint64_t, Index,
                             BlockRows<float>*);
template Certificate certify(const OperatorRef<double>&, const BlockRows<double>&,
                             std::span<const double>, const BlockRows<double>&, std::uint64_t,
                             Index, BlockRows<double>*);

}  // namespace rankfold
