// Nonnegative matrix factorization the slow and obvious way: dense, double, one element at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>

#include <rankfold/factor/nmf.hpp>

namespace rankfold::test {

/// A, which of its elements are given, and the factors W (m x k) and H (n x k).
struct NaiveNmf {
    DenseMatrix<double> a;
    DenseMatrix<double> given;
    DenseMatrix<double> w;
    DenseMatrix<double> h;

    [[nodiscard]] double score(Index i, Index j) const {
        double s = 0.0;
        for (Index f = 0; f < w.cols(); ++f) s += w(i, f) * h(j, f);
        return s;
    }

    /// Swaps the roles of rows and columns.
    void turn() {
        const auto transposed = [](const DenseMatrix<double>& x) {
            DenseMatrix<double> y(x.cols(), x.rows());
            for (Index i = 0; i < x.rows(); ++i) {
                for (Index j = 0; j < x.cols(); ++j) y(j, i) = x(i, j);
            }
            return y;
        };
        a = transposed(a);
        given = transposed(given);
        std::swap(w, h);
    }

    /// Coordinate descent over each w_if: the minimum of the objective over it alone, cut at zero.
    void hals(const NmfOptions& o, bool missing) {
        for (Index i = 0; i < a.rows(); ++i) {
            double first = 0.0;
            double entries = 0.0;
            for (Index j = 0; j < a.cols(); ++j) entries += missing ? given(i, j) : 1.0;
            const double lambda = missing ? o.lambda * std::pow(entries, o.lambda_exponent) : 0.0;
            for (Index pass = 0; pass < o.inner.most; ++pass) {
                double moved = 0.0;
                for (Index f = 0; f < w.cols(); ++f) {
                    double slope = -lambda * w(i, f);
                    double square = lambda;
                    for (Index j = 0; j < a.cols(); ++j) {
                        if (missing && given(i, j) == 0.0) continue;
                        slope += h(j, f) * (a(i, j) - score(i, j));
                        square += h(j, f) * h(j, f);
                    }
                    if (square <= 0.0) continue;
                    const double next = std::max(0.0, w(i, f) + slope / square);
                    moved += (next - w(i, f)) * (next - w(i, f));
                    w(i, f) = next;
                }
                if (pass == 0) first = moved;
                if (moved <= o.inner.settle * o.inner.settle * first) break;
            }
        }
        if (!missing) return;
        for (Index i = 0; i < a.rows(); ++i) {
            double entries = 0.0;
            for (Index j = 0; j < a.cols(); ++j) entries += given(i, j);
            for (Index f = 0; f < w.cols() && entries == 0.0; ++f) w(i, f) = 0.0;
        }
    }

    /// w ← w ∘ (A H) / (W HᵀH), or w ← w ∘ ((A / W Hᵀ) H) / (1 Hᵀ) for the divergence.
    void multiply(NmfLoss loss, double least) {
        DenseMatrix<double> next(w.rows(), w.cols());
        for (Index i = 0; i < a.rows(); ++i) {
            for (Index f = 0; f < w.cols(); ++f) {
                double above = 0.0;
                double below = 0.0;
                for (Index j = 0; j < a.cols(); ++j) {
                    const double s = score(i, j);
                    above += h(j, f) *
                             (loss == NmfLoss::frobenius ? a(i, j) : a(i, j) / std::max(s, least));
                    below += h(j, f) * (loss == NmfLoss::frobenius ? s : 1.0);
                }
                next(i, f) = w(i, f) * above / std::max(below, least);
            }
        }
        w = std::move(next);
    }

    void half_sweep(const NmfOptions& o, bool missing, double least) {
        if (o.solver == NmfSolver::mu) return multiply(o.loss, least);
        NmfOptions exact = o;  // coordinate descent reaches what pivoting finds
        if (o.solver == NmfSolver::bpp) exact.inner = {.most = 20000, .settle = 1e-13};
        hals(exact, missing);
    }

    void sweep(const NmfOptions& o, bool missing, double least) {
        half_sweep(o, missing, least);
        turn();
        half_sweep(o, missing, least);
        turn();
    }

    [[nodiscard]] double objective(const NmfOptions& o, bool missing) const {
        double sum = 0.0;
        for (Index i = 0; i < a.rows(); ++i) {
            for (Index j = 0; j < a.cols(); ++j) {
                const double s = score(i, j);
                if (missing && given(i, j) == 0.0) continue;
                if (o.loss == NmfLoss::frobenius) {
                    sum += (a(i, j) - s) * (a(i, j) - s);
                } else {
                    sum += s - a(i, j);
                    if (a(i, j) > 0.0) sum += a(i, j) * std::log(a(i, j) / s);
                }
            }
        }
        return missing ? sum + ridge(o) : sum;
    }

    /// λ Σ n_i^ν ‖w_i‖² + λ Σ n_j^ν ‖h_j‖²
    [[nodiscard]] double ridge(const NmfOptions& o) const {
        double sum = 0.0;
        const auto add = [&](double entries, std::span<const double> row) {
            for (const double x : row) {
                sum += o.lambda * std::pow(entries, o.lambda_exponent) * x * x;
            }
        };
        for (Index i = 0; i < a.rows(); ++i) {
            double entries = 0.0;
            for (Index j = 0; j < a.cols(); ++j) entries += given(i, j);
            add(entries, w.row(i));
        }
        for (Index j = 0; j < a.cols(); ++j) {
            double entries = 0.0;
            for (Index i = 0; i < a.rows(); ++i) entries += given(i, j);
            add(entries, h.row(j));
        }
        return sum;
    }

    /// ‖projected gradient‖ of both sides, up to a factor; Frobenius over all pairs.
    [[nodiscard]] double kkt() const {
        double sum = 0.0;
        const auto add = [&](double x, double g) {
            if (x <= 0.0) g = std::min(g, 0.0);
            sum += g * g;
        };
        for (Index f = 0; f < w.cols(); ++f) {
            for (Index i = 0; i < a.rows(); ++i) {
                double g = 0.0;
                for (Index j = 0; j < a.cols(); ++j) g += (score(i, j) - a(i, j)) * h(j, f);
                add(w(i, f), g);
            }
            for (Index j = 0; j < a.cols(); ++j) {
                double g = 0.0;
                for (Index i = 0; i < a.rows(); ++i) g += (score(i, j) - a(i, j)) * w(i, f);
                add(h(j, f), g);
            }
        }
        return std::sqrt(sum);
    }
};

}  // namespace rankfold::test
