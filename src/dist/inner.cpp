#include <rankfold/dist/inner.hpp>

#include <algorithm>
#include <cmath>

#include <rankfold/comm/reproducible_sum.hpp>
#include <rankfold/linalg/tall_product.hpp>

namespace rankfold {

namespace {

std::size_t at(Index i) {
    return static_cast<std::size_t>(i);
}

/// C ← op(A) B or C ← C + op(A) B for rows of a shard. The library's product copies A into panels,
/// which pays where B has few columns.
template <Real R>
void multiply(Transpose op, MatrixView<const R> a, MatrixView<const R> b, MatrixView<R> c,
              bool add) {
    constexpr Index few = 32;
    if (b.cols < few) {
        gemm<R>(op, Transpose::no, R{1}, a, b, add ? R{1} : R{0}, c);
    } else {
        tall_product<R>(op, a, b, c, add);
    }
}

/// alpha W in R.
template <Real R>
DenseMatrix<R> rounded(R alpha, MatrixView<const double> w) {
    DenseMatrix<R> result(w.rows, w.cols);
    for (Index i = 0; i < w.rows; ++i) {
        for (Index j = 0; j < w.cols; ++j) result(i, j) = alpha * static_cast<R>(w(i, j));
    }
    return result;
}

/// Σ of the squares of some columns of a shard, in double.
template <Real R>
double shard_square(MatrixView<const R> x) {
    double square = 0.0;
    for (Index i = 0; i < x.rows; ++i) {
        double lanes[8] = {};
        const R* row = x.row(i).data();
        Index j = 0;
        for (; j + 8 <= x.cols; j += 8) {
            for (Index t = 0; t < 8; ++t) {
                lanes[t] += static_cast<double>(row[j + t]) * static_cast<double>(row[j + t]);
            }
        }
        for (; j < x.cols; ++j) {
            lanes[0] += static_cast<double>(row[j]) * static_cast<double>(row[j]);
        }
        for (const double lane : lanes) square += lane;
    }
    return square;
}

}  // namespace

template <Real R>
double square_norm(const BlockRows<R>& x, Range cols, Index threads) {
    const Range shards = x.shards();
    std::vector<double> squares(at(shards.size()));
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(threads))
    for (Index s = shards.begin; s < shards.end; ++s) {
        squares[at(s - shards.begin)] = shard_square<R>(x.shard(s).col_block(cols));
    }
    return reproducible_sum(x.comm(), squares);
}

namespace {

/// Columns' sums of products of one shard.
template <Real R>
void add_dots(MatrixView<const R> x, MatrixView<const R> y, double* sums) {
    for (Index i = 0; i < x.rows; ++i) {
        const R* left = x.row(i).data();
        const R* right = y.row(i).data();
        for (Index j = 0; j < x.cols; ++j) {
            sums[j] += static_cast<double>(left[j]) * static_cast<double>(right[j]);
        }
    }
}

/// x_j · y_j for columns of X and of Y.
template <Real R>
std::vector<double> dots_of(const BlockRows<R>& x, Range xc, const BlockRows<R>& y, Range yc,
                            Index threads) {
    const Range shards = x.shards();
    const Index k = xc.size();
    std::vector<double> dots(at(k));
    if (k == 0) return dots;
    std::vector<double> terms(at(shards.size() * k), 0.0);
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(threads))
    for (Index s = shards.begin; s < shards.end; ++s) {
        add_dots<R>(x.shard(s).col_block(xc), y.shard(s).col_block(yc),
                    terms.data() + (s - shards.begin) * k);
    }
    reproducible_sum(x.comm(), terms, dots);
    return dots;
}

template <Real R>
double longest_column(const BlockRows<R>& x, Range cols, Index threads) {
    double longest = 0.0;
    for (const double square : dots_of(x, cols, x, cols, threads)) {
        if (!(square <= longest)) longest = square;  // keeps what is not a number
    }
    return std::sqrt(longest);
}

template <Real R>
void to_double(MatrixView<const R> from, DenseMatrix<double>& to) {
    if (to.rows() != from.rows || to.cols() != from.cols) {
        to = DenseMatrix<double>(from.rows, from.cols);
    }
    for (Index i = 0; i < from.rows; ++i) std::ranges::copy(from.row(i), to.row(i).begin());
}

/// X_sᵀ Y_s of one shard, with its own working memory.
template <Real R>
class ShardInner {
public:
    ShardInner(Index a, Index b, Accumulate accumulate)
        : accumulate_{accumulate}, terms_{a, b}, part_{a, b} {}

    std::span<const double> operator()(MatrixView<const R> x, MatrixView<const R> y) {
        if constexpr (std::same_as<R, double>) {
            multiply<double>(Transpose::yes, x, y, terms_.view(), false);
        } else if (accumulate_ == Accumulate::in_double) {
            to_double(x, x_);
            to_double(y, y_);
            multiply<double>(Transpose::yes, std::as_const(x_).view(), std::as_const(y_).view(),
                             terms_.view(), false);
        } else {
            multiply<R>(Transpose::yes, x, y, part_.view(), false);
            std::ranges::copy(part_.data(), terms_.data().begin());
        }
        return std::as_const(terms_).data();
    }

private:
    Accumulate accumulate_;
    DenseMatrix<double> terms_;
    DenseMatrix<R> part_;
    DenseMatrix<double> x_;
    DenseMatrix<double> y_;
};

}  // namespace

template <Real R>
DenseMatrix<double> inner(const BlockRows<R>& x, Range xc, const BlockRows<R>& y, Range yc,
                          Accumulate accumulate, Index threads, std::optional<double> x_longest) {
    RANKFOLD_EXPECT(x.layout() == y.layout());
    DenseMatrix<double> result(xc.size(), yc.size());
    if (result.data().empty()) return result;
    // Σ_s |x_sᵀ y_s| <= ‖x‖ ‖y‖ by Cauchy and Schwarz, in each shard and over the shards; rounding
    // in R may go a little beyond
    const bool same = &x == &y && xc == yc;
    const double x_length = x_longest ? *x_longest : longest_column(x, xc, threads);
    const double bound = 1.01 * x_length * (same ? x_length : longest_column(y, yc, threads));
    ExactSum total(result.data().size(), bound);
    const Range shards = x.shards();
#pragma omp parallel num_threads(static_cast <int>(threads))
    {
        ShardInner<R> shard_inner(xc.size(), yc.size(), accumulate);
        ExactSum sum(result.data().size(), bound);
#pragma omp for schedule(dynamic)
        for (Index s = shards.begin; s < shards.end; ++s) {
            if (x.shard(s).rows == 0) continue;
            sum.add(shard_inner(x.shard(s).col_block(xc), y.shard(s).col_block(yc)));
        }
#pragma omp critical
        for (std::size_t i = 0; i < total.raw().size(); ++i) total.raw()[i] += sum.raw()[i];
    }
    reproducible_sum(x.comm(), total, result.data());
    return result;
}

template <Real R>
void add_product(R alpha, const BlockRows<R>& x, Range xc, MatrixView<const double> w,
                 BlockRows<R>& y, Range yc, Index threads) {
    RANKFOLD_EXPECT(x.layout() == y.layout() && w.rows == xc.size() && w.cols == yc.size());
    const DenseMatrix<R> factor = rounded(alpha, w);
    const Range shards = x.shards();
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(threads))
    for (Index s = shards.begin; s < shards.end; ++s) {
        multiply<R>(Transpose::no, x.shard(s).col_block(xc), factor.view(),
                    y.shard(s).col_block(yc), true);
    }
}

template <Real R>
BlockRows<R> times(const BlockRows<R>& x, Range xc, MatrixView<const double> w, Index threads) {
    BlockRows<R> y(x.comm(), x.layout(), w.cols);
    add_product(R{1}, x, xc, w, y, {0, w.cols}, threads);
    return y;
}

template <Real R>
void times_in_place(BlockRows<R>& x, MatrixView<const double> w, Index threads) {
    RANKFOLD_EXPECT(w.rows == x.cols() && w.cols <= w.rows);
    const DenseMatrix<R> factor = rounded(R{1}, w);
    const Range shards = x.shards();
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(threads))
    for (Index s = shards.begin; s < shards.end; ++s) {
        const MatrixView<R> rows = x.shard(s);
        DenseMatrix<R> product(rows.rows, w.cols);
        multiply<R>(Transpose::no, rows, factor.view(), product.view(), false);
        for (Index i = 0; i < rows.rows; ++i) {
            std::ranges::copy(product.row(i), rows.row(i).begin());
        }
    }
}

template <Real R>
std::vector<double> column_dots(const BlockRows<R>& x, const BlockRows<R>& y, Index threads) {
    RANKFOLD_EXPECT(x.layout() == y.layout() && x.cols() == y.cols());
    return dots_of(x, {0, x.cols()}, y, {0, y.cols()}, threads);
}

template <Real R>
std::vector<double> column_norms(const BlockRows<R>& x, Index threads) {
    std::vector<double> norms = column_dots(x, x, threads);
    for (double& square : norms) square = std::sqrt(square);
    return norms;
}

#define RANKFOLD_INSTANTIATE(R)                                                                \
    template DenseMatrix<double> inner(const BlockRows<R>&, Range, const BlockRows<R>&, Range, \
                                       Accumulate, Index, std::optional<double>);              \
    template void add_product(R, const BlockRows<R>&, Range, MatrixView<const double>,         \
                              BlockRows<R>&, Range, Index);                                    \
    template BlockRows<R> times(const BlockRows<R>&, Range, MatrixView<const double>, Index);  \
    template void times_in_place(BlockRows<R>&, MatrixView<const double>, Index);              \
    template std::vector<double> column_dots(const BlockRows<R>&, const BlockRows<R>&, Index); \
    template std::vector<double> column_norms(const BlockRows<R>&, Index);                     \
    template double square_norm(const BlockRows<R>&, Range, Index);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
