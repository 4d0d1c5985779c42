// Slow and obvious alternating least squares on one dense matrix in double: the oracle of als().
#pragma once

#include <cmath>
#include <span>
#include <vector>

#include <rankfold/factor/als.hpp>
#include <rankfold/linalg/dense.hpp>

#include "support/dense_and_sparse.hpp"

namespace rankfold::test {

/// A small matrix with a mask: given(i, j) is 1 where an entry stands. Confidences may be given.
struct NaiveMatrix {
    DenseMatrix<double> value;
    DenseMatrix<double> given;
    DenseMatrix<double> weight{};

    [[nodiscard]] double weight_of(Index i, Index j) const {
        return weight.rows() == 0 ? given(i, j) : given(i, j) * weight(i, j);
    }
};

/// Its given entries, their rows distributed.
template <Real R>
BlockRowCsr<R> sparse_rows(const Communicator& comm, const NaiveMatrix& a) {
    return sparse_rows<R>(comm, a.value, a.given);
}

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

    double confidence(double value, double given, double weight) const {
        if (!options.implicit) return weight;
        if (options.unobserved_weight) return *options.unobserved_weight + given;
        return given > 0.0 ? options.base_confidence + options.alpha * std::abs(value) : 1.0;
    }
    /// confidence · preference
    double target(double value, double given, double weight) const {
        if (!options.implicit) return (value - mean) * weight;
        if (given == 0.0 || value <= 0.0) return 0.0;
        if (options.unobserved_weight) return 1.0;
        return options.base_confidence + options.alpha * value;
    }
    double ridge(double entries, double n) const {
        const double offset = options.unobserved_weight ? *options.unobserved_weight * n : 0.0;
        return options.lambda * std::pow(entries + offset, options.lambda_exponent);
    }
};

/// Solves for the rows of x with y fixed, straight from the definition over all pairs. With biases,
/// the last columns of x and y are those.
inline void naive_half_sweep(const NaiveMatrix& a, bool transposed, const NaiveObjective& objective,
                             const DenseMatrix<double>& y, DenseMatrix<double>& x) {
    const Index n = y.rows();
    const Index k = y.cols();
    const bool biases = objective.options.biases;
    const auto feature = [&](Index j, Index f) { return biases && f == k - 1 ? 1.0 : y(j, f); };
    for (Index i = 0; i < x.rows(); ++i) {
        DenseMatrix<double> normal(k, k);
        std::vector<double> rhs(static_cast<std::size_t>(k), 0.0);
        double entries = 0.0;
        for (Index j = 0; j < n; ++j) {
            const double value = transposed ? a.value(j, i) : a.value(i, j);
            const double given = transposed ? a.given(j, i) : a.given(i, j);
            const double weight = transposed ? a.weight_of(j, i) : a.weight_of(i, j);
            const double c = objective.confidence(value, given, weight);
            const double target =
                objective.target(value, given, weight) - (biases ? c * y(j, k - 1) : 0.0);
            entries += given;
            for (Index f = 0; f < k; ++f) {
                rhs[static_cast<std::size_t>(f)] += target * feature(j, f);
                for (Index g = 0; g < k; ++g) normal(f, g) += c * feature(j, f) * feature(j, g);
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

/// The prediction of a pair, without the mean.
inline double naive_score(std::span<const double> x, std::span<const double> y, bool biases) {
    const std::size_t k = biases ? x.size() - 1 : x.size();
    double score = biases ? x[k] + y[k] : 0.0;
    for (std::size_t f = 0; f < k; ++f) score += x[f] * y[f];
    return score;
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
            const double score = naive_score(x.row(i), y.row(j), objective.options.biases);
            const double v = a.value(i, j);
            const double given = a.given(i, j);
            const double c = objective.confidence(v, given, a.weight_of(i, j));
            if (!objective.options.implicit) {
                sum += c * (v - objective.mean - score) * (v - objective.mean - score);
            } else {
                const double p = given > 0.0 && v > 0.0 ? 1.0 : 0.0;
                sum += c * (p - score) * (p - score);
                // Rendle's form charges (1 − s)² + α0 s² and not (1 + α0) (1 − s)²
                if (objective.options.unobserved_weight && given > 0.0) {
                    sum += (p - score) * (p - score) - c * (p - score) * (p - score) +
                           *objective.options.unobserved_weight * score * score;
                }
            }
        }
    }
    return sum;
}

}  // namespace rankfold::test
