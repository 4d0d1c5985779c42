#include <rankfold/dist/tall_qr.hpp>

#include <algorithm>
#include <cmath>

#include <rankfold/core/random.hpp>
#include <rankfold/dist/inner.hpp>
#include <rankfold/linalg/blas.hpp>
#include <rankfold/linalg/lapack.hpp>

namespace rankfold {

namespace {

/// Cholesky is left for the eigenvectors when a pivot's square falls below this: the condition of
/// X is then above 1e5, and a second pass might not mend it in float.
constexpr double smallest_pivot = 1e-10;

/// Eigenvalues of the scaled Gram matrix up to this are rounding.
template <Real R>
constexpr double smallest_eigenvalue = std::same_as<R, float> ? 1e-11 : 1e-13;

/// Columns [from, k) of X become normal numbers.
template <Real R>
void draw_columns(BlockRows<R>& x, Index from, RandomColumns& fill) {
    const Philox random(fill.seed, Stream::completion);
    const double scale = 1.0 / std::sqrt(static_cast<double>(x.rows()));
    for (Index j = from; j < x.cols(); ++j, ++fill.next) {
        for (Index i = 0; i < x.local().rows(); ++i) {
            x.local()(i, j) = static_cast<R>(scale * random.normal(x.first_row() + i, fill.next));
        }
    }
}

/// Multiplies every column by a power of two that brings its greatest element to about 1, so that
/// sums of squares of long and short columns keep their digits alike. Returns what undoes it.
/// @collective
template <Real R>
std::vector<double> scale_columns(BlockRows<R>& x, Index threads) {
    const auto k = static_cast<std::size_t>(x.cols());
    std::vector<double> largest(k, 0.0);
    for (Index i = 0; i < x.local().rows(); ++i) {
        const auto row = std::as_const(x).local().row(i);
        for (std::size_t f = 0; f < k; ++f) {
            largest[f] = std::max(largest[f], std::abs(static_cast<double>(row[f])));
        }
    }
    x.comm().all_reduce(std::span<double>(largest), Reduce::max);
    std::vector<double> undo(k, 1.0);
    std::vector<R> scale(k, R{1});
    bool needed = false;
    for (std::size_t f = 0; f < k; ++f) {
        if (largest[f] == 0.0 || !std::isfinite(largest[f])) continue;
        int exponent = 0;
        std::frexp(largest[f], &exponent);
        exponent = std::clamp(exponent, -100, 100);
        undo[f] = std::ldexp(1.0, exponent);
        scale[f] = static_cast<R>(std::ldexp(1.0, -exponent));
        needed = needed || std::abs(exponent) > 10;
    }
    if (!needed) return std::vector<double>(k, 1.0);
    const Range shards = x.shards();
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(threads))
    for (Index s = shards.begin; s < shards.end; ++s) {
        const MatrixView<R> rows = x.shard(s);
        for (Index i = 0; i < rows.rows; ++i) {
            for (std::size_t f = 0; f < k; ++f) rows(i, static_cast<Index>(f)) *= scale[f];
        }
    }
    return undo;
}

/// A Gram matrix G = D S D with ones (or, for columns that count as zero, zeros) on S's diagonal.
struct ScaledGram {
    DenseMatrix<double> s;
    std::vector<double> length;  // D
    bool zeros = false;
    bool nearly_identity = true;

    /// @param unit  the columns are these times longer than those that `gram` is of
    ScaledGram(DenseMatrix<double> gram, std::span<const double> unit, double noise)
        : s{std::move(gram)} {
        const Index k = s.rows();
        for (Index i = 0; i < k; ++i) {
            for (Index j = 0; j < k; ++j) {
                if (!(std::abs(s(i, j) - (i == j ? 1.0 : 0.0)) <= 0.01)) nearly_identity = false;
            }
            const double square = s(i, i);
            const double shortest = noise / unit[static_cast<std::size_t>(i)];
            if (!std::isfinite(square)) {
                throw Error(Fault::check,
                            "a number in a matrix that is to be made orthonormal is not finite",
                            true);
            }
            length.push_back(square > shortest * shortest ? std::sqrt(square) : 0.0);
            zeros = zeros || length.back() == 0.0;
        }
        for (Index i = 0; i < k; ++i) {
            for (Index j = 0; j < k; ++j) {
                const double scale = inverse(i) * inverse(j);
                s(i, j) = i == j ? (scale > 0.0 ? 1.0 : 0.0) : s(i, j) * scale;
            }
        }
    }
    [[nodiscard]] double inverse(Index i) const {
        const double d = length[static_cast<std::size_t>(i)];
        return d > 0.0 ? 1.0 / d : 0.0;
    }
};

}  // namespace

template <Real R>
TallQr qr_pass(BlockRows<R>& x, double noise, RandomColumns& fill, Index threads) {
    const Index k = x.cols();
    RANKFOLD_EXPECT(k <= x.rows());
    const std::vector<double> unit = scale_columns(x, threads);
    const ScaledGram gram(inner(x, x, Accumulate::in_double, threads), unit, noise);
    TallQr result{DenseMatrix<double>(k, k), k, gram.nearly_identity};
    DenseMatrix<double> u = gram.s.clone();
    if (!gram.zeros && cholesky_upper<double>(u.view(), smallest_pivot) < 0) {
        for (Index i = 0; i < k; ++i) {
            for (Index j = 0; j < k; ++j) {
                if (j < i) u(i, j) = 0.0;
                result.r(i, j) = u(i, j) * gram.length[static_cast<std::size_t>(j)] *
                                 unit[static_cast<std::size_t>(j)];
            }
        }
        invert_upper(u.view());
        for (Index i = 0; i < k; ++i) {
            for (double& value : u.row(i)) value *= gram.inverse(i);
        }
        times_in_place<R>(x, std::as_const(u).view(), threads);
        return result;
    }
    const SymmetricEigen eigen = symmetric_eigen(gram.s.view());
    Index rank = 0;
    while (rank < k && eigen.values[static_cast<std::size_t>(rank)] > smallest_eigenvalue<R>) {
        ++rank;
    }
    DenseMatrix<double> w(k, rank);
    for (Index j = 0; j < rank; ++j) {
        const double root = std::sqrt(eigen.values[static_cast<std::size_t>(j)]);
        for (Index i = 0; i < k; ++i) {
            w(i, j) = gram.inverse(i) * eigen.vectors(i, j) / root;
            result.r(j, i) = root * eigen.vectors(i, j) * gram.length[static_cast<std::size_t>(i)] *
                             unit[static_cast<std::size_t>(i)];
        }
    }
    if (rank > 0) times_in_place<R>(x, std::as_const(w).view(), threads);
    draw_columns(x, rank, fill);
    result.rank = rank;
    result.was_nearly = false;
    return result;
}

template <Real R>
TallQr tall_qr(BlockRows<R>& x, double noise, RandomColumns& fill, Index threads) {
    const Index k = x.cols();
    TallQr result = qr_pass(x, noise, fill, threads);
    constexpr int most_passes = 8;
    for (int pass = 1; pass < most_passes; ++pass) {
        if (result.was_nearly || k == 0) return result;
        const TallQr again = qr_pass(x, 0.0, fill, threads);
        DenseMatrix<double> r(k, k);
        gemm<double>(Transpose::no, Transpose::no, 1.0, again.r.view(),
                     std::as_const(result.r).view(), 0.0, r.view());
        result = {std::move(r), std::min(result.rank, again.rank), again.was_nearly};
    }
    throw Error(Fault::check,
                concat("no orthonormal basis of ", k, " columns was found for a matrix of ",
                       x.rows(), " rows"),
                true);
}

#define RANKFOLD_INSTANTIATE(R)                                            \
    template TallQr qr_pass(BlockRows<R>&, double, RandomColumns&, Index); \
    template TallQr tall_qr(BlockRows<R>&, double, RandomColumns&, Index);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
