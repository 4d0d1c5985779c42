#include <rankfold/nn/loss.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <numeric>
#include <utility>

#include <rankfold/core/error.hpp>
#include <rankfold/core/subscript.hpp>
#include <rankfold/linalg/dense.hpp>
#include <rankfold/linalg/row_kernels.hpp>
#include <rankfold/nn/kernels.hpp>

namespace rankfold {

namespace {

template <Real R>
double weight_of(const Targets<R>& targets, Index row) {
    return targets.weights.empty() ? 1.0 : static_cast<double>(targets.weights[at(row)]);
}

/// log(1 + exp z), and its derivative 1 / (1 + exp(−z)), without overflow.
std::pair<double, double> softplus(double z) {
    const double e = std::exp(-std::abs(z));
    return {std::max(z, 0.0) + std::log1p(e), (z >= 0.0 ? 1.0 : e) / (1.0 + e)};
}

/// Both kinds of cross-entropy: `target(i, add)` calls add(j, t_j) for the targets of row i.
template <Real R, class Target>
double cross_entropy(const Targets<R>& targets, double scale_by, MatrixView<R> z, Target target) {
    double total = 0.0;
    for (Index i = 0; i < z.rows; ++i) {
        const std::span<R> row = z.row(i);
        const double weight = weight_of(targets, i);
        const double factor = scale_by * weight;
        double inside = 0.0;  // Σ t_j z_j
        target(i, [&](Index j, R t) {
            inside += static_cast<double>(t) * static_cast<double>(row[at(j)]);
        });
        const ExpSum<R> exp = shifted_exp(row);
        total += weight * (static_cast<double>(exp.largest) +
                           std::log(static_cast<double>(exp.sum)) - inside);
        scale(static_cast<R>(factor / static_cast<double>(exp.sum)), row);
        target(i, [&](Index j, R t) {
            row[at(j)] -= static_cast<R>(factor * static_cast<double>(t));
        });
    }
    return total;
}

template <Real R>
double squared(const Targets<R>& targets, double factor, MatrixView<R> z) {
    RANKFOLD_EXPECT(targets.values.size() == at(z.rows * z.cols));
    double total = 0.0;
    for (Index i = 0; i < z.rows; ++i) {
        const double weight = weight_of(targets, i);
        for (Index f = 0; f < z.cols; ++f) {
            const double error = static_cast<double>(z(i, f)) -
                                 static_cast<double>(targets.values[at(i * z.cols + f)]);
            total += weight * error * error;
            z(i, f) = static_cast<R>(2.0 * factor * weight * error);
        }
    }
    return total;
}

/// Both losses of factors, without the constant; `pair(w, b, s)` gives a pair's loss and its
/// derivative by s.
template <Real R, class Pair>
double factor_rows(const Targets<R>& targets, double factor, MatrixView<R> z, Pair pair) {
    RANKFOLD_EXPECT(targets.pairs.size() == at(z.rows) && targets.other.cols == z.cols);
    double total = 0.0;
    AlignedVector<R> slope(at(z.cols));
    for (Index i = 0; i < z.rows; ++i) {
        const auto& row = targets.pairs[at(i)];
        const std::span<R> x = z.row(i);
        total += row.ridge * static_cast<double>(dot<R>(x, x));
        std::ranges::copy(x, slope.begin());
        scale(static_cast<R>(row.ridge), std::span<R>(slope));
        if (targets.all_pairs.rows > 0) {
            for (Index f = 0; f < z.cols; ++f) {
                const R product = dot<R>(targets.all_pairs.row(f), x);
                total += static_cast<double>(x[at(f)]) * static_cast<double>(product);
                slope[at(f)] += product;
            }
        }
        scale(R{2}, std::span<R>(slope));
        for (std::size_t e = 0; e < row.columns.size(); ++e) {
            const std::span<const R> y = targets.other.row(row.columns[e]);
            const auto [value, derivative] =
                pair(static_cast<double>(row.w[e]), static_cast<double>(row.b[e]),
                     static_cast<double>(dot<R>(y, x)));
            total += value;
            add_scaled<R>(static_cast<R>(derivative), y, slope);
        }
        scale(static_cast<R>(factor), std::span<R>(slope));
        std::ranges::copy(slope, x.begin());
    }
    return total;
}

template <Real R>
double logistic(const Targets<R>& targets, double factor, MatrixView<R> z) {
    RANKFOLD_EXPECT(targets.values.size() == at(z.rows * z.cols));
    double total = 0.0;
    for (Index i = 0; i < z.rows; ++i) {
        const double weight = weight_of(targets, i);
        for (Index f = 0; f < z.cols; ++f) {
            const auto x = static_cast<double>(z(i, f));
            const auto t = static_cast<double>(targets.values[at(i * z.cols + f)]);
            const auto [value, slope] = softplus(x);
            total += weight * (value - t * x);
            z(i, f) = static_cast<R>(factor * weight * (slope - t));
        }
    }
    return total;
}

template <Real R>
double logistic_columns(const Targets<R>& targets, double factor, MatrixView<R> z) {
    double total = 0.0;
    for (Index i = 0; i < z.rows; ++i) {
        for (const ColIndex j : targets.distributions[at(i)].columns) {
            total -= static_cast<double>(z(i, j));
        }
        for (R& x : z.row(i)) {
            const auto [value, slope] = softplus(static_cast<double>(x));
            total += value;
            x = static_cast<R>(factor * slope);
        }
        for (const ColIndex j : targets.distributions[at(i)].columns) {
            z(i, j) -= static_cast<R>(factor);
        }
    }
    return total;
}

template <Real R>
double masked(const Targets<R>& targets, double factor, MatrixView<R> z) {
    double total = 0.0;
    std::vector<double> errors;
    for (Index i = 0; i < z.rows; ++i) {
        const auto& row = targets.distributions[at(i)];
        errors.clear();
        for (std::size_t e = 0; e < row.columns.size(); ++e) {
            errors.push_back(static_cast<double>(z(i, row.columns[e])) -
                             static_cast<double>(row.weights[e]));
            total += errors.back() * errors.back();
        }
        std::ranges::fill(z.row(i), R{0});
        for (std::size_t e = 0; e < row.columns.size(); ++e) {
            z(i, row.columns[e]) = static_cast<R>(2.0 * factor * errors[e]);
        }
    }
    return total;
}

template <Real R>
double ranking(double factor, MatrixView<R> z) {
    RANKFOLD_EXPECT(z.rows % 2 == 0 && z.cols == 1);
    double total = 0.0;
    for (Index i = 0; i < z.rows; i += 2) {
        const auto [value, slope] =
            softplus(static_cast<double>(z(i + 1, 0)) - static_cast<double>(z(i, 0)));
        total += value;
        z(i, 0) = static_cast<R>(-factor * slope);
        z(i + 1, 0) = static_cast<R>(factor * slope);
    }
    return total;
}

struct LossNames {
    Loss loss;
    const char* head;
    const char* name;
};

/// The first of a head is its default.
constexpr std::array loss_names{LossNames{Loss::classes, "classes", "cross-entropy"},
                                LossNames{Loss::distribution, "columns", "cross-entropy"},
                                LossNames{Loss::logistic_columns, "columns", "logistic"},
                                LossNames{Loss::masked, "columns", "masked"},
                                LossNames{Loss::squared, "rating", "squared"},
                                LossNames{Loss::factorization, "factors", "squared"},
                                LossNames{Loss::logistic_factorization, "factors", "logistic"},
                                LossNames{Loss::logistic, "pairs", "logistic"},
                                LossNames{Loss::ranking, "pairs", "ranking"}};

const LossNames& names_of(Loss loss) {
    return *std::ranges::find(loss_names, loss, &LossNames::loss);
}

}  // namespace

template <Real R>
double loss_gradient(Loss loss, const Targets<R>& targets, double factor, MatrixView<R> z) {
    switch (loss) {
        case Loss::classes:
            RANKFOLD_EXPECT(targets.labels.size() == at(z.rows));
            return cross_entropy(targets, factor, z,
                                 [&](Index i, auto add) { add(targets.labels[at(i)], R{1}); });
        case Loss::distribution:
            RANKFOLD_EXPECT(targets.distributions.size() == at(z.rows));
            return cross_entropy(targets, factor, z, [&](Index i, auto add) {
                const auto& row = targets.distributions[at(i)];
                for (std::size_t e = 0; e < row.columns.size(); ++e) {
                    add(row.columns[e], row.weights[e]);
                }
            });
        case Loss::squared:
            return squared(targets, factor, z);
        case Loss::factorization:
            return std::transform_reduce(targets.pairs.begin(), targets.pairs.end(), 0.0,
                                         std::plus<>(),
                                         [](const auto& row) { return row.constant; }) +
                   factor_rows(targets, factor, z, [](double w, double b, double s) {
                       return std::pair{w * s * s - 2.0 * b * s, 2.0 * (w * s - b)};
                   });
        case Loss::logistic_factorization:
            return factor_rows(targets, factor, z, [](double w, double b, double s) {
                const auto [value, slope] = softplus(s);
                return std::pair{w * value - b * s, w * slope - b};
            });
        case Loss::logistic:
            return logistic(targets, factor, z);
        case Loss::logistic_columns:
            RANKFOLD_EXPECT(targets.distributions.size() == at(z.rows));
            return logistic_columns(targets, factor, z);
        case Loss::masked:
            RANKFOLD_EXPECT(targets.distributions.size() == at(z.rows));
            return masked(targets, factor, z);
        case Loss::ranking:
            return ranking(factor, z);
    }
    throw Error(Fault::bug, "a loss without a gradient");
}

template <Real R>
void softmax(MatrixView<R> z) {
    for (Index i = 0; i < z.rows; ++i) {
        const ExpSum<R> exp = shifted_exp(z.row(i));
        scale(R{1} / exp.sum, z.row(i));
    }
}

std::string head_name(Loss loss) {
    return names_of(loss).head;
}

std::string loss_name(Loss loss) {
    return names_of(loss).name;
}

Loss loss_of(const std::string& head, const std::string& loss) {
    std::string known;
    for (const LossNames& names : loss_names) {
        if (head != names.head) continue;
        if (loss.empty() || loss == names.name) return names.loss;
        known += concat(known.empty() ? "" : ", ", names.name);
    }
    if (known.empty()) {
        throw input_error("unknown head \"", head,
                          "\"; known are classes, columns, rating, factors and pairs");
    }
    throw input_error("the head ", head, " has no loss \"", loss, "\"; known are ", known);
}

template double loss_gradient(Loss, const Targets<float>&, double, MatrixView<float>);
template double loss_gradient(Loss, const Targets<double>&, double, MatrixView<double>);
template void softmax(MatrixView<float>);
template void softmax(MatrixView<double>);

}  // namespace rankfold
