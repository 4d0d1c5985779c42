// The one scaling convention of nonnegative factors.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

#include <rankfold/linalg/views.hpp>

namespace rankfold {

/// In which order and by which numbers the columns of W and H are taken: equal norms of w_f and
/// h_f, the greatest first; a component that is zero on one side becomes zero on both.
struct ComponentScale {
    std::vector<Index> order;
    std::vector<double> row_scale, col_scale;  ///< by old number

    /// @param row_squares, col_squares  ‖w_f‖² and ‖h_f‖²
    ComponentScale(const std::vector<double>& row_squares, const std::vector<double>& col_squares)
        : order(row_squares.size()) {
        std::iota(order.begin(), order.end(), Index{0});
        const auto size = [&](Index f) {
            return row_squares[static_cast<std::size_t>(f)] *
                   col_squares[static_cast<std::size_t>(f)];
        };
        std::ranges::stable_sort(order, std::greater<>(), size);
        for (std::size_t f = 0; f < order.size(); ++f) {
            const bool dead = size(static_cast<Index>(f)) == 0.0;
            const double ratio = dead ? 0.0 : std::pow(col_squares[f] / row_squares[f], 0.25);
            row_scale.push_back(ratio);
            col_scale.push_back(dead ? 0.0 : 1.0 / ratio);
        }
    }

    template <Real R>
    void apply(MatrixView<R> factor, const std::vector<double>& scale) const {
        std::vector<R> row(order.size());
        for (Index i = 0; i < factor.rows; ++i) {
            std::ranges::copy(factor.row(i), row.begin());
            for (std::size_t f = 0; f < order.size(); ++f) {
                const auto from = static_cast<std::size_t>(order[f]);
                factor(i, static_cast<Index>(f)) =
                    static_cast<R>(scale[from] * static_cast<double>(row[from]));
            }
        }
    }
};

}  // namespace rankfold
