#include <rankfold/nn/factor_inputs.hpp>

#include <algorithm>
#include <cmath>

#include <rankfold/core/subscript.hpp>
#include <rankfold/dist/row_exchange.hpp>

namespace rankfold {

namespace {

/// [factors ∘ weights, extras…] in the factors' layout.
/// @param weights  one a column, or empty for 1
/// @param extras   further columns: this rank's part
template <Real R>
BlockRows<R> joined(const BlockRows<R>& factors, const std::vector<R>& weights,
                    const std::vector<std::vector<R>>& extras) {
    const Index k = factors.cols();
    BlockRows<R> result(factors.comm(), factors.layout(), k + std::ssize(extras));
    for (Index i = 0; i < result.local().rows(); ++i) {
        const auto row = result.local().row(i);
        std::ranges::copy(factors.local().row(i), row.begin());
        for (std::size_t f = 0; f < weights.size(); ++f) row[f] *= weights[f];
        for (std::size_t e = 0; e < extras.size(); ++e) row[at(k) + e] = extras[e][at(i)];
    }
    return result;
}

/// A bias in the layout of the factors that it belongs to: this rank's part. @collective
template <Real R>
std::vector<R> local_bias(const BlockRows<R>& bias, const ShardLayout& layout) {
    const BlockRows<R> moved = redistribute(bias, layout);
    return {moved.local().data().begin(), moved.local().data().end()};
}

/// col_bias + column_mean, as far as they stand: this rank's part. @collective
template <Real R>
std::vector<R> col_offsets(const Factors<R>& factors) {
    std::vector<R> offsets(at(factors.cols.local().rows()), R{0});
    for (const auto* part : {&factors.col_bias, &factors.column_mean}) {
        if (!part->has_value()) continue;
        const auto bias = local_bias(**part, factors.cols.layout());
        std::ranges::transform(offsets, bias, offsets.begin(), std::plus<>());
    }
    return offsets;
}

double unit_scale(double mean_square) {
    if (!(mean_square > 0.0)) return 1.0;
    return std::exp2(std::round(-0.5 * std::log2(mean_square)));
}

}  // namespace

template <Real R>
BlockRows<R> row_features(const Factors<R>& factors) {
    std::vector<std::vector<R>> extras;
    if (factors.row_bias) extras.push_back(local_bias(*factors.row_bias, factors.rows.layout()));
    return joined(factors.rows, factors.singular_values, extras);
}

template <Real R>
BlockRows<R> col_features(const Factors<R>& factors) {
    std::vector<std::vector<R>> extras;
    if (factors.col_bias || factors.column_mean) extras.push_back(col_offsets(factors));
    return joined(factors.cols, {}, extras);
}

template <Real R>
ScoreProduct<R> score_product(const Factors<R>& factors) {
    std::vector<std::vector<R>> row_extras;
    std::vector<std::vector<R>> col_extras;
    const auto ones = [](const BlockRows<R>& a) {
        return std::vector<R>(at(a.local().rows()), R{1});
    };
    if (factors.row_bias) {
        row_extras.push_back(local_bias(*factors.row_bias, factors.rows.layout()));
        col_extras.push_back(ones(factors.cols));
    }
    if (factors.global_mean != 0.0 || factors.col_bias || factors.column_mean) {
        row_extras.push_back(ones(factors.rows));
        col_extras.push_back(col_offsets(factors));
        for (R& x : col_extras.back()) x += static_cast<R>(factors.global_mean);
    }
    return {joined(factors.rows, factors.singular_values, row_extras),
            joined(factors.cols, {}, col_extras)};
}

template <Real R>
double unit_scale(const BlockRows<R>& a) {
    const DenseMatrix<double> squares = gram(a);
    double trace = 0.0;
    for (Index f = 0; f < a.cols(); ++f) trace += squares(f, f);
    return unit_scale(trace / static_cast<double>(a.rows() * a.cols()));
}

template <Real R>
double unit_scale(const ScoreProduct<R>& product) {
    const DenseMatrix<double> a = gram(product.rows);
    const DenseMatrix<double> b = gram(product.cols);
    double sum = 0.0;  // tr(A Bᵀ), of which the upper triangles are given
    for (Index f = 0; f < a.rows(); ++f) {
        sum += a(f, f) * b(f, f);
        for (Index g = f + 1; g < a.rows(); ++g) sum += 2.0 * a(f, g) * b(f, g);
    }
    const double count =
        static_cast<double>(product.rows.rows()) * static_cast<double>(product.cols.rows());
    return unit_scale(sum / count);
}

template <Real R>
BlockRows<R> take_rows(const BlockRows<R>& a, const ShardLayout& layout,
                       std::span<const Index> rows) {
    std::vector<Index> needed(rows.begin(), rows.end());
    std::ranges::sort(needed);
    needed.erase(std::ranges::unique(needed).begin(), needed.end());
    const RowExchange exchange(a.comm(), a.layout(), ExchangeScheme::needed, std::move(needed));
    DenseMatrix<R> buffer(exchange.buffer_rows(), a.cols());
    exchange.gather(a, buffer.view());
    BlockRows<R> result(a.comm(), layout, a.cols());
    RANKFOLD_EXPECT(std::ssize(rows) == result.local().rows());
    for (Index i = 0; i < result.local().rows(); ++i) {
        std::ranges::copy(buffer.row(exchange.position(rows[at(i)])),
                          result.local().row(i).begin());
    }
    return result;
}

#define RANKFOLD_INSTANTIATE(R)                                              \
    template BlockRows<R> row_features(const Factors<R>&);                   \
    template BlockRows<R> col_features(const Factors<R>&);                   \
    template ScoreProduct<R> score_product(const Factors<R>&);               \
    template double unit_scale(const BlockRows<R>&);                         \
    template double unit_scale(const ScoreProduct<R>&);                      \
    template BlockRows<R> take_rows(const BlockRows<R>&, const ShardLayout&, \
                                    std::span<const Index>);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
