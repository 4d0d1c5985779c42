#include <rankfold/linalg/nmf_bpp.hpp>

#include <algorithm>
#include <cmath>
#include <span>
#include <tuple>
#include <vector>

namespace rankfold {

namespace {

using Vector = std::vector<double>;

std::size_t at(Index i) {
    return static_cast<std::size_t>(i);
}

/// A row that is not solved yet.
struct Pending {
    Index row;
    std::vector<bool> passive;
    Index fewest;     ///< factors on the wrong side, so far
    Index tries = 3;  ///< exchanges of all of them that may fail to lower that
};

/// The Cholesky factor of the rows and columns `set` of a matrix, with a raised diagonal.
class SubsetFactor {
public:
    template <Real R>
    SubsetFactor(MatrixView<const R> gram, const std::vector<Index>& set, double raise)
        : n_{set.size()}, lower_(n_ * n_) {
        for (std::size_t i = 0; i < n_; ++i) {
            for (std::size_t j = 0; j <= i; ++j) {
                double sum = static_cast<double>(gram(set[i], set[j])) + (i == j ? raise : 0.0);
                for (std::size_t l = 0; l < j; ++l) sum -= lower_[i * n_ + l] * lower_[j * n_ + l];
                lower_[i * n_ + j] =
                    i == j ? std::sqrt(std::max(sum, raise)) : sum / lower_[j * n_ + j];
            }
        }
    }

    /// Solves in place.
    void solve(Vector& x) const {
        for (std::size_t i = 0; i < n_; ++i) {
            for (std::size_t l = 0; l < i; ++l) x[i] -= lower_[i * n_ + l] * x[l];
            x[i] /= lower_[i * n_ + i];
        }
        for (std::size_t i = n_; i-- > 0;) {
            x[i] /= lower_[i * n_ + i];
            for (std::size_t l = 0; l < i; ++l) x[l] -= lower_[i * n_ + l] * x[i];
        }
    }

private:
    std::size_t n_;
    Vector lower_;
};

/// The factors that are on the wrong side, given the solution on the passive set.
template <Real R>
std::vector<Index> misplaced(MatrixView<const R> gram, std::span<const R> v,
                             const std::vector<Index>& set, const Vector& x,
                             const std::vector<bool>& passive) {
    constexpr double rounding = 1e-12;
    std::vector<Index> wrong;
    std::size_t next = 0;
    for (Index f = 0; f < gram.rows; ++f) {
        if (passive[at(f)]) {
            if (x[next++] < 0.0) wrong.push_back(f);
            continue;
        }
        double gradient = -static_cast<double>(v[at(f)]);
        double size = std::abs(gradient);
        for (std::size_t l = 0; l < set.size(); ++l) {
            const double term = static_cast<double>(gram(f, set[l])) * x[l];
            gradient += term;
            size += std::abs(term);
        }
        if (gradient < -rounding * size && gram(f, f) > R{0}) wrong.push_back(f);
    }
    return wrong;
}

/// Moves factors to their other side: all, or the last one where that did not help.
void exchange(Pending& row, const std::vector<Index>& wrong) {
    const auto count = static_cast<Index>(wrong.size());
    if (count < row.fewest) {
        row.fewest = count;
        row.tries = 3;
    } else if (row.tries > 0) {
        --row.tries;
    } else {
        row.passive[at(wrong.back())].flip();
        return;
    }
    for (const Index f : wrong) row.passive[at(f)].flip();
}

/// One solution of a group of rows with the same passive set; those that are not done go to `rest`.
template <Real R>
void solve_group(MatrixView<const R> v, MatrixView<const R> gram, double raise,
                 std::span<Pending> group, MatrixView<R> w, std::vector<Pending>& rest) {
    std::vector<Index> set;
    for (Index f = 0; f < gram.rows; ++f) {
        if (group.front().passive[at(f)]) set.push_back(f);
    }
    const SubsetFactor factor(gram, set, raise);
    Vector x(set.size());
    for (Pending& row : group) {
        for (std::size_t l = 0; l < set.size(); ++l) x[l] = static_cast<double>(v(row.row, set[l]));
        factor.solve(x);
        const auto wrong = misplaced(gram, v.row(row.row), set, x, row.passive);
        if (!wrong.empty()) {
            exchange(row, wrong);
            rest.push_back(std::move(row));
            continue;
        }
        std::ranges::fill(w.row(row.row), R{0});
        for (std::size_t l = 0; l < set.size(); ++l) w(row.row, set[l]) = static_cast<R>(x[l]);
    }
}

}  // namespace

template <Real R>
void pivoted_rows(MatrixView<const R> v, MatrixView<const R> gram, MatrixView<R> w) {
    const Index k = gram.rows;
    double greatest = 0.0;
    for (Index f = 0; f < k; ++f) greatest = std::max(greatest, static_cast<double>(gram(f, f)));
    if (!(greatest > 0.0)) return;
    std::vector<Pending> rows;
    for (Index i = 0; i < w.rows; ++i) {
        Pending row{.row = i, .passive = std::vector<bool>(at(k)), .fewest = k + 1};
        for (Index f = 0; f < k; ++f) row.passive[at(f)] = w(i, f) > R{0} && gram(f, f) > R{0};
        rows.push_back(std::move(row));
    }
    for (Index round = 0; round < 5 * k + 100 && !rows.empty(); ++round) {
        std::ranges::sort(rows, {},
                          [](const Pending& row) { return std::tie(row.passive, row.row); });
        std::vector<Pending> rest;
        for (auto begin = rows.begin(); begin != rows.end();) {
            const auto end = std::find_if(begin, rows.end(), [&](const Pending& row) {
                return row.passive != begin->passive;
            });
            solve_group(v, gram, 1e-13 * greatest, std::span(begin, end), w, rest);
            begin = end;
        }
        rows = std::move(rest);
    }
}

template void pivoted_rows(MatrixView<const float>, MatrixView<const float>, MatrixView<float>);
template void pivoted_rows(MatrixView<const double>, MatrixView<const double>, MatrixView<double>);

}  // namespace rankfold
