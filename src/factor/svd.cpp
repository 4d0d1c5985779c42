#include <rankfold/factor/svd.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

#include <rankfold/dist/inner.hpp>
#include <rankfold/dist/tall_qr.hpp>
#include <rankfold/linalg/lapack.hpp>

#include "krylov.hpp"

namespace rankfold {

namespace {

/// U, s and V of k triplets.
template <Real R>
struct Triplets {
    BlockRows<R> u;
    std::vector<double> s;  // rounded to R
    BlockRows<R> v;
    Certificate certificate{};
};

/// The triplets of A within the space of V (n x k, orthonormal): A V = QR, R = XΣYᵀ, U = QX, VY.
template <Real R>
Triplets<R> within(const OperatorRef<R>& a, const BlockRows<R>& v, RandomColumns& fill,
                   Index threads) {
    const Index k = v.cols();
    BlockRows<R> q;
    {
        const auto phase = a.comm().ledger().phase("svd product");
        q = a.times(v);
    }
    const auto phase = a.comm().ledger().phase("svd orthogonalise");
    double top = 0.0;
    for (const double length : column_norms(q, threads)) top = std::max(top, length);
    const double noise = 4.0 * top * static_cast<double>(std::numeric_limits<R>::epsilon());
    const TallQr qr = tall_qr(q, noise, fill, threads);
    const SmallSvd small = small_svd(qr.r.view());
    DenseMatrix<double> y(k, k);
    for (Index i = 0; i < k; ++i) {
        for (Index j = 0; j < k; ++j) y(i, j) = small.vt(j, i);
    }
    Triplets<R> result{times(q, {0, k}, small.u.view(), threads),
                       {},
                       times(v, {0, k}, std::as_const(y).view(), threads)};
    for (const double s : small.s) result.s.push_back(static_cast<double>(static_cast<R>(s)));
    return result;
}

/// From the best directions of the Krylov basis to certified triplets: what AᵀA's rounding left of
/// the small values is mended by subspace iteration with A and Aᵀ in turn.
template <Real R>
Triplets<R> finish(const OperatorRef<R>& a, BlockRows<R> v, RandomColumns& fill,
                   const SvdOptions& options) {
    constexpr int most_rounds = 10;
    Triplets<R> best;
    for (int round = 0;; ++round) {
        Triplets<R> found = within(a, v, fill, options.threads);
        found.certificate =
            certify(a, found.u, found.s, found.v, options.seed, options.threads, &v);
        const double before =
            round == 0 ? std::numeric_limits<double>::infinity() : best.certificate.residual();
        const double now = found.certificate.residual();
        if (!(now >= before)) best = std::move(found);
        if (now <= options.tolerance || now > 0.7 * before || round == most_rounds) return best;
        tall_qr(v, 0.0, fill, options.threads);
    }
}

template <Real R>
SvdResult<R> solve(const OperatorRef<R>& a, const SvdOptions& options, const Steering& steering) {
    RANKFOLD_EXPECT(options.k > 0 && options.k <= std::min(a.rows(), a.cols()));
    const bool turned = a.rows() < a.cols();
    const OperatorRef<R> tall = turned ? a.transposed() : a;
    if (!std::isfinite(a.square_norm())) {
        throw Error(Fault::check, "the matrix holds a number that is not finite", true);
    }
    KrylovBasis<R> basis(tall, options);
    const TensorList state = basis.state();
    TensorList restored = state;
    steering.restore(restored);
    basis.start();
    SvdResult<R> result;
    result.factors.history.columns = {"step", "residual", "basis"};
    while (!basis.converged() && (basis.steps() < options.max_steps || !basis.large_enough())) {
        basis.step();
        Progress progress{.unit = "step",
                          .step = basis.steps(),
                          .steps = basis.converged() ? basis.steps() : options.max_steps,
                          .values = {{"residual", basis.residual()},
                                     {"basis", static_cast<double>(basis.size())}}};
        result.factors.history.rows.push_back({static_cast<double>(basis.steps()), basis.residual(),
                                               static_cast<double>(basis.size())});
        if (steering.after(progress, state) == Verdict::stop) break;
    }
    RandomColumns fill{options.seed, Index{1} << 40};  // apart from those of the steps
    Triplets<R> found = finish(tall, basis.best(fill), fill, options);
    Certificate& certificate = found.certificate;
    if (turned) {
        std::swap(found.u, found.v);
        std::swap(certificate.left_residual, certificate.right_residual);
        std::swap(certificate.u_orthogonality, certificate.v_orthogonality);
    }
    fix_signs(found.u, found.v);
    result.factors.rows = std::move(found.u);
    result.factors.cols = std::move(found.v);
    for (const double s : found.s) result.factors.singular_values.push_back(static_cast<R>(s));
    result.factors.method = "svd";
    result.steps = basis.steps();
    result.converged = certificate.residual() <= options.tolerance;
    result.certificate = certificate;
    return result;
}

/// What a column has greatest: its magnitude, the row, and whether it is negative.
struct Greatest {
    double magnitude = -1.0;
    Index row = 0;
    bool negative = false;
};

template <Real R>
BlockRows<R> scaled_columns(const Factors<R>& factors) {
    BlockRows<R> v = factors.cols.clone();
    for (Index j = 0; j < v.local().rows(); ++j) {
        for (Index f = 0; f < v.cols(); ++f) {
            const R s = factors.singular_values[static_cast<std::size_t>(f)];
            v.local()(j, f) = s > R{0} ? v.local()(j, f) / s : R{0};
        }
    }
    return v;
}

/// u ← u − 1 (μᵀv).
template <Real R>
void take_mean_out(BlockRows<R>& u, const Factors<R>& factors, const BlockRows<R>& v,
                   Index threads) {
    if (!factors.column_mean) return;
    const BlockRows<R> mean = redistribute(*factors.column_mean, v.layout());
    const DenseMatrix<double> along = inner(mean, v, Accumulate::in_double, threads);
    for (Index i = 0; i < u.local().rows(); ++i) {
        for (Index f = 0; f < u.cols(); ++f) u.local()(i, f) -= static_cast<R>(along(0, f));
    }
}

/// See project_rows(). @param Product  SparseProduct<R> or DenseProducts<R>
template <class Product, class Matrix, Real R>
BlockRows<R> project_by(const Matrix& a, const Factors<R>& factors, Index threads) {
    const BlockRows<R> v = scaled_columns(factors);
    BlockRows<R> u(a.comm(), a.layout(), v.cols());
    Product(a, v.layout(), threads).multiply(v, u);
    take_mean_out(u, factors, v, threads);
    return u;
}

}  // namespace

template <Real R>
SvdResult<R> truncated_svd(const OperatorRef<R>& a, const SvdOptions& options,
                           const Steering& steering) {
    if (!options.center) return solve(a, options, steering);
    const CenteredOperator<R> centered(a, options.threads);
    SvdResult<R> result = solve<R>(centered, options, steering);
    result.factors.column_mean = centered.mean().clone();
    result.factors.method = "pca";
    return result;
}

template <Real R>
SvdResult<R> truncated_svd(const BlockRowCsr<R>& a, const SvdOptions& options,
                           const Steering& steering) {
    const SparseOperator<R> sparse(a, options.threads);
    return truncated_svd<R>(OperatorRef<R>(sparse), options, steering);
}

template <Real R>
SvdResult<R> truncated_svd(const BlockRows<R>& a, const SvdOptions& options,
                           const Steering& steering) {
    const DenseOperator<R> dense(a, options.threads);
    SvdResult<R> result = truncated_svd<R>(OperatorRef<R>(dense), options, steering);
    const ShardLayout layout =
        ShardLayout::even(a.cols(), shard_count(a.rows() * a.cols()), a.comm().size());
    Factors<R>& factors = result.factors;
    factors.cols = redistribute(factors.cols, layout);
    if (factors.column_mean) factors.column_mean = redistribute(*factors.column_mean, layout);
    return result;
}

template <Real R>
void fix_signs(BlockRows<R>& u, BlockRows<R>& v) {
    const Index k = u.cols();
    std::vector<Greatest> mine(static_cast<std::size_t>(k));
    for (Index i = 0; i < u.local().rows(); ++i) {
        for (Index f = 0; f < k; ++f) {
            const double value = static_cast<double>(u.local()(i, f));
            Greatest& greatest = mine[static_cast<std::size_t>(f)];
            if (std::abs(value) > greatest.magnitude) {
                greatest = {std::abs(value), u.first_row() + i, value < 0.0};
            }
        }
    }
    const auto all = u.comm().all_gather(std::span<const Greatest>(mine));
    for (Index f = 0; f < k; ++f) {
        Greatest greatest;
        for (Index q = 0; q < u.comm().size(); ++q) {  // in the order of the rows
            const Greatest& theirs = all[static_cast<std::size_t>(q * k + f)];
            if (theirs.magnitude > greatest.magnitude) greatest = theirs;
        }
        if (!greatest.negative) continue;
        for (auto* factor : {&u, &v}) {
            for (Index i = 0; i < factor->local().rows(); ++i) {
                factor->local()(i, f) = -factor->local()(i, f);
            }
        }
    }
}

template <Real R>
BlockRows<R> project_rows(const BlockRowCsr<R>& a, const Factors<R>& factors, Index threads) {
    return project_by<SparseProduct<R>>(a, factors, threads);
}

template <Real R>
BlockRows<R> project_rows(const BlockRows<R>& a, const Factors<R>& factors, Index threads) {
    return project_by<DenseProducts<R>>(a, factors, threads);
}

#define RANKFOLD_INSTANTIATE(R)                                                                   \
    template SvdResult<R> truncated_svd(const OperatorRef<R>&, const SvdOptions&,                 \
                                        const Steering&);                                         \
    template SvdResult<R> truncated_svd(const BlockRowCsr<R>&, const SvdOptions&,                 \
                                        const Steering&);                                         \
    template SvdResult<R> truncated_svd(const BlockRows<R>&, const SvdOptions&, const Steering&); \
    template void fix_signs(BlockRows<R>&, BlockRows<R>&);                                        \
    template BlockRows<R> project_rows(const BlockRowCsr<R>&, const Factors<R>&, Index);          \
    template BlockRows<R> project_rows(const BlockRows<R>&, const Factors<R>&, Index);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
