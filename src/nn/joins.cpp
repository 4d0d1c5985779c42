#include <rankfold/nn/joins.hpp>

#include <algorithm>
#include <cmath>

#include <rankfold/core/subscript.hpp>
#include <rankfold/nn/loss.hpp>

namespace rankfold {

namespace {

constexpr double norm_epsilon = 1e-5;

/// x · y in double.
template <Real R>
double dot_of(std::span<const R> x, std::span<const R> y) {
    double sum = 0.0;
    for (std::size_t j = 0; j < x.size(); ++j) {
        sum += static_cast<double>(x[j]) * static_cast<double>(y[j]);
    }
    return sum;
}

/// to ← value, or to + value, element by element.
template <Real R, class Value>
void put(std::span<R> to, bool add, const Value& value) {
    for (std::size_t j = 0; j < to.size(); ++j) to[j] = add ? to[j] + value(j) : value(j);
}

}  // namespace

template <Real R>
void copy_table_rows(MatrixView<const R> table, std::span<const Index> rows, MatrixView<R> z) {
    for (Index i = 0; i < z.rows; ++i) {
        std::ranges::copy(table.row(rows[at(i)]), z.row(i).begin());
    }
}

template <Real R>
void sum_table_rows(MatrixView<const R> table, std::span<const SparseRow<R>> rows, Index threads,
                    MatrixView<R> z) {
#pragma omp parallel for schedule(dynamic, 16) num_threads(static_cast <int>(threads))
    for (Index i = 0; i < z.rows; ++i) {
        const SparseRow<R>& row = rows[at(i)];
        std::ranges::fill(z.row(i), R{0});
        for (std::size_t e = 0; e < row.columns.size(); ++e) {
            add_scaled<R>(row.values[e], table.row(row.columns[e]), z.row(i));
        }
    }
}

template <Real R>
void join_forward(LayerKind kind, const std::vector<MatrixView<const R>>& x, MatrixView<R> z) {
    for (Index i = 0; i < z.rows; ++i) {
        const std::span<R> to = z.row(i);
        if (kind == LayerKind::dot) {
            to[0] = static_cast<R>(dot_of<R>(x[0].row(i), x[1].row(i)));
        } else if (kind == LayerKind::concat) {
            auto end = to.begin();
            for (const auto& part : x) end = std::ranges::copy(part.row(i), end).out;
        } else {
            std::ranges::copy(x[0].row(i), to.begin());
            for (std::size_t s = 1; s < x.size(); ++s) {
                kind == LayerKind::product ? multiply_to<R>(x[s].row(i), to)
                                           : add_to<R>(x[s].row(i), to);
            }
        }
    }
}

template <Real R>
void join_gradient(LayerKind kind, const std::vector<MatrixView<const R>>& x, std::size_t which,
                   MatrixView<const R> d, bool add, MatrixView<R> dx) {
    Index first = 0;  // concat: where the input's columns begin
    for (std::size_t s = 0; s < which; ++s) first += x[s].cols;
    for (Index i = 0; i < d.rows; ++i) {
        const std::span<const R> from = d.row(i);
        switch (kind) {
            case LayerKind::concat:
                put(dx.row(i), add,
                    [&](std::size_t j) { return from[static_cast<std::size_t>(first) + j]; });
                break;
            case LayerKind::dot: {
                const std::span<const R> other = x[1 - which].row(i);
                put(dx.row(i), add, [&](std::size_t j) { return from[0] * other[j]; });
                break;
            }
            case LayerKind::product:
                put(dx.row(i), add, [&](std::size_t j) {
                    R value = from[j];
                    for (std::size_t s = 0; s < x.size(); ++s) {
                        if (s != which) value *= x[s](i, static_cast<Index>(j));
                    }
                    return value;
                });
                break;
            default:
                put(dx.row(i), add, [&](std::size_t j) { return from[j]; });
        }
    }
}

template <Real R>
void norm_forward(MatrixView<const R> x, std::span<const R> gain, MatrixView<R> unit,
                  std::vector<R>& spread, MatrixView<R> z) {
    const auto n = static_cast<double>(x.cols);
    for (Index i = 0; i < x.rows; ++i) {
        double mean = 0.0;
        for (const R value : x.row(i)) mean += static_cast<double>(value);
        mean /= n;
        double variance = 0.0;
        for (const R value : x.row(i)) {
            variance += (static_cast<double>(value) - mean) * (static_cast<double>(value) - mean);
        }
        const double scale = 1.0 / std::sqrt(variance / n + norm_epsilon);
        spread[static_cast<std::size_t>(i)] = static_cast<R>(scale);
        for (Index j = 0; j < x.cols; ++j) {
            unit(i, j) = static_cast<R>((static_cast<double>(x(i, j)) - mean) * scale);
        }
        std::ranges::copy(unit.row(i), z.row(i).begin());
        multiply_to<R>(gain, z.row(i));
    }
}

template <Real R>
void norm_gradient(MatrixView<const R> unit, const std::vector<R>& spread, std::span<const R> gain,
                   MatrixView<const R> d, bool add, MatrixView<R> dx) {
    std::vector<R> e(gain.size());
    const auto n = static_cast<double>(unit.cols);
    for (Index i = 0; i < d.rows; ++i) {
        std::ranges::copy(d.row(i), e.begin());
        multiply_to<R>(gain, e);
        double mean = 0.0;
        for (const R value : e) mean += static_cast<double>(value);
        mean /= n;
        const std::span<const R> u = unit.row(i);
        const double along = dot_of<R>(e, u) / n;
        const auto scale = static_cast<double>(spread[static_cast<std::size_t>(i)]);
        put(dx.row(i), add, [&](std::size_t j) {
            return static_cast<R>(
                scale * (static_cast<double>(e[j]) - mean - static_cast<double>(u[j]) * along));
        });
    }
}

template <Real R>
void bias_softmax(MatrixView<R> z, std::span<const R> bias) {
    for (Index i = 0; i < z.rows; ++i) add_to<R>(bias, z.row(i));
    softmax<R>(z);
}

template <Real R>
void softmax_gradient(MatrixView<const R> a, MatrixView<R> d) {
    for (Index i = 0; i < d.rows; ++i) {
        const R mean = static_cast<R>(dot_of<R>(a.row(i), std::as_const(d).row(i)));
        for (Index j = 0; j < d.cols; ++j) d(i, j) = a(i, j) * (d(i, j) - mean);
    }
}

#define RANKFOLD_INSTANTIATE(R)                                                                    \
    template void copy_table_rows(MatrixView<const R>, std::span<const Index>, MatrixView<R>);     \
    template void sum_table_rows(MatrixView<const R>, std::span<const SparseRow<R>>, Index,        \
                                 MatrixView<R>);                                                   \
    template void join_forward(LayerKind, const std::vector<MatrixView<const R>>&, MatrixView<R>); \
    template void join_gradient(LayerKind, const std::vector<MatrixView<const R>>&, std::size_t,   \
                                MatrixView<const R>, bool, MatrixView<R>);                         \
    template void norm_forward(MatrixView<const R>, std::span<const R>, MatrixView<R>,             \
                               std::vector<R>&, MatrixView<R>);                                    \
    template void norm_gradient(MatrixView<const R>, const std::vector<R>&, std::span<const R>,    \
                                MatrixView<const R>, bool, MatrixView<R>);                         \
    template void bias_softmax(MatrixView<R>, std::span<const R>);                                 \
    template void softmax_gradient(MatrixView<const R>, MatrixView<R>);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
