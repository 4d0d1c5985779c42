#include <rankfold/factor/row_problem.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

#include <rankfold/linalg/row_kernels.hpp>

namespace rankfold {

RowProblem RowProblem::explicit_values(double lambda, double exponent, double mean) {
    return {.b0 = -mean, .lambda = lambda, .exponent = exponent};
}

RowProblem RowProblem::implicit(double alpha, double lambda, double exponent) {
    return {.w0 = 0.0,
            .w1 = alpha,
            .b0 = 1.0,
            .b1 = alpha,
            .alpha0 = 1.0,
            .lambda = lambda,
            .exponent = exponent,
            .preference = true};
}

RowProblem RowProblem::implicit_unobserved(double alpha0, double lambda, double exponent, Index n) {
    return {.b0 = 1.0,
            .b1 = 0.0,
            .alpha0 = alpha0,
            .lambda = lambda,
            .exponent = exponent,
            .n_offset = alpha0 * static_cast<double>(n),
            .preference = true};
}

double RowProblem::row_lambda(Index entries) const {
    return lambda * std::pow(static_cast<double>(entries) + n_offset, exponent);
}

double half_sweep_flops(Index nnz, Index rows, Index k) {
    const auto kd = static_cast<double>(k);
    return static_cast<double>(nnz) * kd * (kd + 1.0) +
           static_cast<double>(rows) * kd * kd * kd / 3.0;
}

namespace {

/// The columns after the first `done` entries of a row: in the row itself, or else behind it.
template <Real R>
std::span<const ColIndex> upcoming(const RowData<R>& row, std::size_t done) {
    return done < row.cols.size() ? row.cols.subspan(done) : row.following;
}

}  // namespace

template <Real R>
RowSolver<R>::RowSolver(Index k)
    : k_{k},
      panel_{std::clamp<Index>(16384 / (padded(k) * Index{sizeof(R)}), 32, 64)},
      normal_(k, padded(k) + 16),
      plain_(panel_, padded(k)),
      scaled_(panel_, padded(k)),
      weights_(static_cast<std::size_t>(panel_)),
      targets_(static_cast<std::size_t>(panel_)) {}

template <Real R>
bool RowSolver<R>::solve(const RowProblem& problem, const RowData<R>& row, MatrixView<const R> y,
                         MatrixView<const R> gram, std::span<R> x) {
    std::ranges::fill(x, R{0});
    const auto cols = row.cols;
    const double mu = row.prior.empty() ? 0.0 : problem.prior_weight;
    if (cols.empty() && mu == 0.0) return true;
    const MatrixView<R> a = normal_.view();
    const MatrixView<R> normal{a.data, k_, k_, a.ld};
    for (Index i = 0; i < k_; ++i) {
        if (problem.alpha0 != 0.0) {
            std::copy_n(gram.data + i * gram.ld, k_, normal.data + i * normal.ld);
        } else {
            std::fill_n(normal.data + i * normal.ld, normal.ld, R{0});
        }
    }
    const double ridge = problem.row_lambda(row.count) + mu;
    for (Index i = 0; i < k_; ++i) normal(i, i) += static_cast<R>(ridge);
    if (mu != 0.0) {
        for (std::size_t f = 0; f < x.size(); ++f) x[f] = static_cast<R>(mu) * row.prior[f];
    }

    const bool weighted = problem.w1 != 0.0 || problem.w0 != 1.0;
    for (std::size_t done = 0; done < cols.size();) {
        const std::size_t n = std::min(cols.size() - done, static_cast<std::size_t>(panel_));
        for (std::size_t e = 0; e < n; ++e) {
            const auto v = static_cast<double>(row.values[done + e]);
            weights_[e] = static_cast<R>(problem.weight(v));
            targets_[e] =
                row.targets.empty() ? static_cast<R>(problem.target(v)) : row.targets[done + e];
        }
        const MatrixView<R> p{plain_.view().data, static_cast<Index>(n), k_, plain_.cols()};
        const MatrixView<R> q{scaled_.view().data, static_cast<Index>(n), k_, scaled_.cols()};
        const auto w = weighted ? std::span<const R>(weights_).first(n) : std::span<const R>();
        gather_panel<R>(y, cols.subspan(done, n), upcoming(row, done + n), w,
                        std::span<const R>(targets_).first(n), p, q, x);
        rank_update_upper<R>(p, weighted ? q : p, normal);
        done += n;
    }
    // without a ridge, a pivot at the level of rounding means a singular system
    const R tiny = ridge > 0.0 ? R{0} : static_cast<R>(k_) * std::numeric_limits<R>::epsilon();
    return spd_solve<R>(normal, x, tiny) < 0;
}

template class RowSolver<float>;
template class RowSolver<double>;

}  // namespace rankfold
