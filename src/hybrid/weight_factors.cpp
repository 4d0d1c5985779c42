#include "weight_factors.hpp"

#include <algorithm>
#include <cmath>

#include <rankfold/core/random.hpp>
#include <rankfold/core/subscript.hpp>
#include <rankfold/factor/als.hpp>
#include <rankfold/linalg/blas.hpp>

namespace rankfold {

namespace {

/// W C^½ for C = Q Λ Qᵀ as W Q Λ^½, which has the same left singular vectors and values;
/// eigenvalues that rounding made negative are cut.
DenseMatrix<double> weighted_by_moments(const DenseMatrix<double>& w,
                                        const DenseMatrix<double>& moments) {
    const SymmetricEigen eigen = symmetric_eigen(moments.view());
    DenseMatrix<double> product(w.rows(), w.cols());
    gemm<double>(Transpose::no, Transpose::no, 1.0, w.view(), eigen.vectors.view(), 0.0,
                 product.view());
    for (Index i = 0; i < product.rows(); ++i) {
        for (Index f = 0; f < product.cols(); ++f) {
            product(i, f) *= std::sqrt(std::max(0.0, eigen.values[at(f)]));
        }
    }
    return product;
}

Pair by_svd(const SmallSvd& svd, Index inner) {
    Pair pair{DenseMatrix<double>(svd.u.rows(), inner), DenseMatrix<double>(svd.vt.cols(), inner)};
    for (Index f = 0; f < inner; ++f) {
        const double root = std::sqrt(svd.s[at(f)]);
        for (Index i = 0; i < pair.u.rows(); ++i) pair.u(i, f) = root * svd.u(i, f);
        for (Index j = 0; j < pair.v.rows(); ++j) pair.v(j, f) = root * svd.vt(f, j);
    }
    return pair;
}

/// Gives each column of U and of V the same norm: gradients of like size.
Pair balanced(Pair pair) {
    const auto square = [](const DenseMatrix<double>& x, Index f) {
        double sum = 0.0;
        for (Index i = 0; i < x.rows(); ++i) sum += x(i, f) * x(i, f);
        return sum;
    };
    for (Index f = 0; f < pair.u.cols(); ++f) {
        const double u = square(pair.u, f);
        const double v = square(pair.v, f);
        if (u == 0.0 || v == 0.0) continue;
        const double scale = std::sqrt(std::sqrt(v / u));
        for (Index i = 0; i < pair.u.rows(); ++i) pair.u(i, f) *= scale;
        for (Index j = 0; j < pair.v.rows(); ++j) pair.v(j, f) /= scale;
    }
    return pair;
}

/// U = A, V = Wᵀ A with the leading left vectors A.
Pair by_projection(const WeightMatrix& matrix, Index inner) {
    const auto& w = matrix.w;
    Pair pair{DenseMatrix<double>(w.rows(), inner), DenseMatrix<double>(w.cols(), inner)};
    for (Index i = 0; i < w.rows(); ++i) {
        std::copy_n(matrix.svd.u.row(i).begin(), inner, pair.u.row(i).begin());
    }
    gemm<double>(Transpose::yes, Transpose::no, 1.0, w.view(), std::as_const(pair.u).view(), 0.0,
                 pair.v.view());
    return pair;
}

/// Visits with mean 1 and a floor: rows that are hardly read keep a say.
std::vector<double> row_weights(const std::vector<double>& visits) {
    constexpr double floor = 0.01;
    double sum = 0.0;
    for (const double c : visits) sum += c;
    const double mean = sum / static_cast<double>(visits.size());
    std::vector<double> weights;
    for (const double c : visits) weights.push_back(mean > 0.0 ? c / mean + floor : 1.0);
    return weights;
}

/// diag(c)^½ T
DenseMatrix<double> weighted_by_visits(const DenseMatrix<double>& table,
                                       const std::vector<double>& visits) {
    const std::vector<double> weights = row_weights(visits);
    DenseMatrix<double> weighted = table.clone();
    for (Index i = 0; i < weighted.rows(); ++i) {
        scale(std::sqrt(weights[at(i)]), weighted.row(i));
    }
    return weighted;
}

/// V = A, U = T A with the leading right vectors A of diag(c)^½ T.
Pair by_visits(const WeightMatrix& matrix, Index inner) {
    Pair pair{DenseMatrix<double>(matrix.w.rows(), inner),
              DenseMatrix<double>(matrix.w.cols(), inner)};
    for (Index f = 0; f < inner; ++f) {
        for (Index j = 0; j < pair.v.rows(); ++j) pair.v(j, f) = matrix.svd.vt(f, j);
    }
    gemm<double>(Transpose::no, Transpose::no, 1.0, matrix.w.view(), std::as_const(pair.v).view(),
                 0.0, pair.u.view());
    return pair;
}

/// The rows of a matrix that all ranks hold, cut over them.
BlockRows<double> cut(const Communicator& comm, const DenseMatrix<double>& whole) {
    BlockRows<double> rows(comm, ShardLayout::even(whole.rows(), 64, comm.size()), whole.cols());
    for (Index i = 0; i < rows.local().rows(); ++i) {
        std::ranges::copy(whole.row(rows.first_row() + i), rows.local().row(i).begin());
    }
    return rows;
}

/// The importance with mean 1, and a floor below which no element is forgotten: it keeps every
/// row's system definite.
DenseMatrix<double> confidences_of(const DenseMatrix<double>& importance) {
    constexpr double floor = 0.01;
    double sum = 0.0;
    for (const double x : importance.data()) sum += x;
    const double mean = sum / static_cast<double>(importance.data().size());
    DenseMatrix<double> weights = importance.clone();
    for (double& x : weights.data()) x = mean > 0.0 ? x / mean + floor : 1.0;
    return weights;
}

/// The matrix of `cols` columns that are all x.
DenseMatrix<double> in_all_columns(const std::vector<double>& x, Index cols) {
    DenseMatrix<double> all(std::ssize(x), cols);
    for (Index i = 0; i < all.rows(); ++i) std::ranges::fill(all.row(i), x[at(i)]);
    return all;
}

Pair by_als(const Communicator& comm, const WeightMatrix& matrix, Index inner,
            const CompressOptions& options) {
    // a ridge far below the weights keeps the systems definite when W has lower rank
    double square = 0.0;
    for (const double x : matrix.w.data()) square += x * x;
    const double ridge = 1e-8 * std::sqrt(square / static_cast<double>(matrix.w.data().size()));
    const AlsOptions als_options{.k = inner,
                                 .sweeps = options.sweeps,
                                 .lambda = ridge,
                                 .lambda_exponent = 0.0,
                                 .centering = Centering::none,
                                 .seed = options.seed};
    const BlockRows<double> rows = cut(comm, matrix.w);
    Factors<double> factors;
    if (matrix.importance.rows() == 0 && matrix.visits.empty()) {
        factors = als(rows, als_options, Steering{});
    } else {
        const DenseMatrix<double> confidences =
            matrix.importance.rows() > 0
                ? confidences_of(matrix.importance)
                : in_all_columns(row_weights(matrix.visits), matrix.w.cols());
        const BlockRowCsr<double> weights = sparsify(cut(comm, confidences), Zeros::stored);
        factors = als(sparsify(rows, Zeros::stored), als_options, Steering{}, &weights);
    }
    return {gather_all(factors.rows), gather_all(factors.cols)};
}

/// Hierarchical ALS (Cichocki and Phan, 2009) on a small nonnegative matrix: A ≈ U Vᵀ, U, V >= 0.
Pair small_nmf(const DenseMatrix<double>& a, Index inner, const CompressOptions& options,
               Index stream) {
    const Philox random(options.seed, Stream::weights);
    Pair pair{DenseMatrix<double>(a.rows(), inner), DenseMatrix<double>(a.cols(), inner)};
    for (Index i = 0; i < a.rows(); ++i) {
        for (Index f = 0; f < inner; ++f) pair.u(i, f) = random.uniform(i, f + 4096 * stream);
    }
    for (Index j = 0; j < a.cols(); ++j) {
        for (Index f = 0; f < inner; ++f) {
            pair.v(j, f) = random.uniform(a.rows() + j, f + 4096 * stream);
        }
    }
    const auto update = [&](Transpose side, const DenseMatrix<double>& fixed,
                            DenseMatrix<double>& x) {
        DenseMatrix<double> gram(inner, inner);
        DenseMatrix<double> product(x.rows(), inner);
        gemm<double>(Transpose::yes, Transpose::no, 1.0, fixed.view(), fixed.view(), 0.0,
                     gram.view());
        gemm<double>(side, Transpose::no, 1.0, a.view(), fixed.view(), 0.0, product.view());
        for (Index f = 0; f < inner; ++f) {
            const double scale = std::max(gram(f, f), 1e-300);
            for (Index i = 0; i < x.rows(); ++i) {
                double step = product(i, f);
                for (Index g = 0; g < inner; ++g) step -= x(i, g) * gram(g, f);
                x(i, f) = std::max(0.0, x(i, f) + step / scale);
            }
        }
    };
    for (Index sweep = 0; sweep < options.sweeps; ++sweep) {
        update(Transpose::no, pair.v, pair.u);
        update(Transpose::yes, pair.u, pair.v);
    }
    return pair;
}

/// W = W⁺ − W⁻: half of the inner dimension for each part, all of it if W has one sign.
Pair by_nmf(const DenseMatrix<double>& w, Index inner, const CompressOptions& options) {
    DenseMatrix<double> plus(w.rows(), w.cols());
    DenseMatrix<double> minus(w.rows(), w.cols());
    for (std::size_t e = 0; e < w.data().size(); ++e) {
        plus.data()[e] = std::max(0.0, w.data()[e]);
        minus.data()[e] = std::max(0.0, -w.data()[e]);
    }
    const auto is_zero = [](const DenseMatrix<double>& part) {
        return std::ranges::all_of(part.data(), [](double x) { return x == 0.0; });
    };
    const Index half = is_zero(minus) ? inner : is_zero(plus) ? 0 : (inner + 1) / 2;
    const Pair p = half > 0 ? small_nmf(plus, half, options, 0) : Pair{};
    const Pair n = half < inner ? small_nmf(minus, inner - half, options, 1) : Pair{};
    Pair pair{DenseMatrix<double>(w.rows(), inner), DenseMatrix<double>(w.cols(), inner)};
    for (Index f = 0; f < inner; ++f) {
        const bool first = f < half;
        const Pair& from = first ? p : n;
        const Index at = first ? f : f - half;
        for (Index i = 0; i < w.rows(); ++i) pair.u(i, f) = (first ? 1.0 : -1.0) * from.u(i, at);
        for (Index j = 0; j < w.cols(); ++j) pair.v(j, f) = from.v(j, at);
    }
    return pair;
}

}  // namespace

void decompose(WeightMatrix& matrix, CompressMethod method) {
    if (method != CompressMethod::activation_svd) {
        matrix.svd = small_svd(std::as_const(matrix.w).view());
        return;
    }
    if (!matrix.visits.empty()) {
        matrix.svd = small_svd(weighted_by_visits(matrix.w, matrix.visits).view());
        return;
    }
    if (matrix.moments.rows() == 0) {
        throw input_error("the activation-aware SVD needs samples to measure the layers by");
    }
    const DenseMatrix<double> weighted = weighted_by_moments(matrix.w, matrix.moments);
    matrix.svd = small_svd(weighted.view());
}

Pair factorize(const Communicator& comm, const WeightMatrix& matrix, Index inner,
               const CompressOptions& options) {
    switch (options.method) {
        case CompressMethod::svd:
            return by_svd(matrix.svd, inner);
        case CompressMethod::activation_svd:
            return balanced(matrix.visits.empty() ? by_projection(matrix, inner)
                                                  : by_visits(matrix, inner));
        case CompressMethod::als:
            return balanced(by_als(comm, matrix, inner, options));
        case CompressMethod::nmf:
            break;
    }
    return balanced(by_nmf(matrix.w, inner, options));
}

double relative_error(MatrixView<const double> w, MatrixView<const double> u,
                      MatrixView<const double> v) {
    DenseMatrix<double> product(w.rows, w.cols);
    gemm<double>(Transpose::no, Transpose::yes, 1.0, u, v, 0.0, product.view());
    double error = 0.0;
    double whole = 0.0;
    for (Index i = 0; i < w.rows; ++i) {
        for (Index j = 0; j < w.cols; ++j) {
            const double rest = w(i, j) - product(i, j);
            error += rest * rest;
            whole += w(i, j) * w(i, j);
        }
    }
    return whole > 0.0 ? std::sqrt(error / whole) : 0.0;
}

}  // namespace rankfold
