// Slow and obvious alternating least squares on one dense matrix in double: the oracle of als().
#pragma once

#include <cmath>
#include <vector>

#include <rankfold/factor/als.hpp>
#include <rankfold/linalg/dense.hpp>

namespace rankfold::test {

/// A small matrix with a mask: given(i, j) is 1 where an entry stands.
struct NaiveMatrix {
    DenseMatrix<double> value;
    DenseMatrix<double> given;
};

/// Gaussian elimination with partial pivoting.
inline std::vector<double> naive_solve(DenseMatrix<double> a, std::vector<double> b) {
    const Index k = a.rows();
    for (Index c = 0; c < k; ++c) {
        Index best = c;
        for (Index r = c + 1; r < k; ++r) {
            if (std::abs(a(r, c)) > std::abs(a(best, c))) best = r;
        }
        for (Index j = 0; j < k; ++j) std::swap(a(c, j), a(best, j));
        std::swap(b[static_cast<std::size_t>(c)], b[static_cast<std::size_t>(best)]);
        for (Index r = c + 1; r < k; ++r) {
            const double f = a(r, c) / a(c, c);
            for (Index j = c; j < k; ++j) a(r, j) -= f * a(c, j);
            b[static_cast<std::size_t>(r)] -= f * b[static_cast<std::size_t>(c)];
        }
    }
    for (Index c = k - 1; c >= 0; --c) {
        for (Index j = c + 1; j < k; ++j) {
            b[static_cast<std::size_t>(c)] -= a(c, j) * b[static_cast<std::size_t>(j)];
        }
        b[static_cast<std::size_t>(c)] /= a(c, c);
    }
    return b;
}

/// The confidence and the preference of the pair (i, j), and λ_i of a row with n_i of n entries.
struct NaiveObjective {
    AlsOptions options;
    double mean = 0.0;

    double confidence(double value, double given) const {
        if (!options.implicit) return given;
        if (options.unobserved_weight) return *options.unobserved_weight + given;
        return 1.0 + options.alpha * value * given;
    }
    /// confidence · preference
    double target(double value, double given) const {
        if (!options.implicit) return (value - mean) * given;
        if (options.unobserved_weight) return given;
        return (1.0 + options.alpha * value) * given;
    }
    double ridge(double entries, double n) const {
        const double offset = options.unobserved_weight ? *options.unobserved_weight * n : 0.0;
        return options.lambda * std::pow(entries + offset, options.lambda_exponent);
    }
};

/// Solves for the rows of x with y fixed, straight from the definition over all pairs.
inline void naive_half_sweep(const NaiveMatrix& a, bool transposed, const NaiveObjective& objective,
                             const DenseMatrix<double>& y, DenseMatrix<double>& x) {
    const Index n = y.rows();
    const Index k = y.cols();
    for (Index i = 0; i < x.rows(); ++i) {
        DenseMatrix<double> normal(k, k);
        std::vector<double> rhs(static_cast<std::size_t>(k), 0.0);
        double entries = 0.0;
        for (Index j = 0; j < n; ++j) {
            const double value = transposed ? a.value(j, i) : a.value(i, j);
            const double given = transposed ? a.given(j, i) : a.given(i, j);
            entries += given;
            for (Index f = 0; f < k; ++f) {
                rhs[static_cast<std::size_t>(f)] += objective.target(value, given) * y(j, f);
                for (Index g = 0; g < k; ++g) {
                    normal(f, g) += objective.confidence(value, given) * y(j, f) * y(j, g);
                }
            }
        }
        if (entries == 0.0) {
            for (Index f = 0; f < k; ++f) x(i, f) = 0.0;
            continue;
        }
        for (Index f = 0; f < k; ++f) normal(f, f) += objective.ridge(entries, double(n));
        const auto solution = naive_solve(std::move(normal), std::move(rhs));
        for (Index f = 0; f < k; ++f) x(i, f) = solution[static_cast<std::size_t>(f)];
    }
}

/// The objective over all pairs, straight from the definition.
inline double naive_objective(const NaiveMatrix& a, const NaiveObjective& objective,
                              const DenseMatrix<double>& x, const DenseMatrix<double>& y) {
    double sum = 0.0;
    for (const bool transposed : {false, true}) {
        const auto& side = transposed ? y : x;
        const auto& other = transposed ? x : y;
        for (Index i = 0; i < side.rows(); ++i) {
            double entries = 0.0;
            double square = 0.0;
            for (Index j = 0; j < other.rows(); ++j) {
                entries += transposed ? a.given(j, i) : a.given(i, j);
            }
            for (Index f = 0; f < side.cols(); ++f) square += side(i, f) * side(i, f);
            if (entries > 0.0) sum += objective.ridge(entries, double(other.rows())) * square;
        }
    }
    for (Index i = 0; i < x.rows(); ++i) {
        for (Index j = 0; j < y.rows(); ++j) {
            double score = 0.0;
            for (Index f = 0; f < x.cols(); ++f) score += x(i, f) * y(j, f);
            const double v = a.value(i, j);
            const double given = a.given(i, j);
            if (!objective.options.implicit) {
                sum += given * (v - objective.mean - score) * (v - objective.mean - score);
            } else if (objective.options.unobserved_weight) {
                sum += given * (1.0 - score) * (1.0 - score) +
                       *objective.options.unobserved_weight * score * score;
            } else {
                sum += objective.confidence(v, given) * (given - score) * (given - score);
            }
        }
    }
    return sum;
}

}  // namespace rankfold::test
