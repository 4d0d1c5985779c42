#include <rankfold/nn/loss.hpp>

#include <cmath>

#include <rankfold/core/error.hpp>
#include <rankfold/nn/kernels.hpp>

namespace rankfold {

namespace {

std::size_t at(Index i) {
    return static_cast<std::size_t>(i);
}

/// Both kinds of cross-entropy: `target(i, add)` calls add(j, t_j) for the targets of row i.
template <Real R, class Target>
double cross_entropy(double factor, MatrixView<R> z, Target target) {
    double total = 0.0;
    for (Index i = 0; i < z.rows; ++i) {
        const std::span<R> row = z.row(i);
        double inside = 0.0;  // Σ t_j z_j
        target(i, [&](Index j, R t) {
            inside += static_cast<double>(t) * static_cast<double>(row[at(j)]);
        });
        const ExpSum<R> exp = shifted_exp(row);
        total += static_cast<double>(exp.largest) + std::log(static_cast<double>(exp.sum)) - inside;
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
        const double weight =
            targets.weights.empty() ? 1.0 : static_cast<double>(targets.weights[at(i)]);
        for (Index f = 0; f < z.cols; ++f) {
            const double error = static_cast<double>(z(i, f)) -
                                 static_cast<double>(targets.values[at(i * z.cols + f)]);
            total += weight * error * error;
            z(i, f) = static_cast<R>(2.0 * factor * weight * error);
        }
    }
    return total;
}

template <Real R>
double factorization(const Targets<R>& targets, double factor, MatrixView<R> z) {
    RANKFOLD_EXPECT(targets.values.size() == at(z.rows) && z.cols % 2 == 0);
    const Index k = z.cols / 2;
    double total = 0.0;
    for (Index i = 0; i < z.rows; ++i) {
        const double rho = static_cast<double>(targets.row_ridge[at(i)]);
        const double kappa = static_cast<double>(targets.col_ridge[at(i)]);
        double error = -static_cast<double>(targets.values[at(i)]);
        for (Index c = 0; c < k; ++c) {
            error += static_cast<double>(z(i, c)) * static_cast<double>(z(i, k + c));
        }
        total += error * error;
        for (Index c = 0; c < k; ++c) {
            const auto f = static_cast<double>(z(i, c));
            const auto g = static_cast<double>(z(i, k + c));
            total += rho * f * f + kappa * g * g;
            z(i, c) = static_cast<R>(2.0 * factor * (error * g + rho * f));
            z(i, k + c) = static_cast<R>(2.0 * factor * (error * f + kappa * g));
        }
    }
    return total;
}

}  // namespace

template <Real R>
double loss_gradient(Loss loss, const Targets<R>& targets, double factor, MatrixView<R> z) {
    switch (loss) {
        case Loss::classes:
            RANKFOLD_EXPECT(targets.labels.size() == at(z.rows));
            return cross_entropy(factor, z,
                                 [&](Index i, auto add) { add(targets.labels[at(i)], R{1}); });
        case Loss::distribution:
            RANKFOLD_EXPECT(targets.distributions.size() == at(z.rows));
            return cross_entropy(factor, z, [&](Index i, auto add) {
                const auto& row = targets.distributions[at(i)];
                for (std::size_t e = 0; e < row.columns.size(); ++e) {
                    add(row.columns[e], row.weights[e]);
                }
            });
        case Loss::squared:
            return squared(targets, factor, z);
        case Loss::factorization:
            return factorization(targets, factor, z);
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
    switch (loss) {
        case Loss::classes:
            return "classes";
        case Loss::distribution:
            return "columns";
        case Loss::factorization:
            return "factors";
        case Loss::squared:
            break;
    }
    return "rating";
}

Loss loss_of_head(const std::string& head) {
    for (const Loss loss :
         {Loss::classes, Loss::distribution, Loss::squared, Loss::factorization}) {
        if (head_name(loss) == head) return loss;
    }
    throw input_error("unknown head \"", head, "\"; known are classes, columns and rating");
}

template double loss_gradient(Loss, const Targets<float>&, double, MatrixView<float>);
template double loss_gradient(Loss, const Targets<double>&, double, MatrixView<double>);
template void softmax(MatrixView<float>);
template void softmax(MatrixView<double>);

}  // namespace rankfold
