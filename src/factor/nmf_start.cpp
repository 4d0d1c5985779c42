// What a nonnegative factorization begins with, and what it refuses.
#include <algorithm>
#include <cmath>

#include <rankfold/comm/reproducible_sum.hpp>
#include <rankfold/core/random.hpp>
#include <rankfold/factor/nmf.hpp>
#include <rankfold/factor/svd.hpp>

namespace rankfold {

namespace {

/// The first of all ranks: rows lie in the order of ranks.
std::optional<UnfitElement> first_of_ranks(const Communicator& comm,
                                           const std::optional<UnfitElement>& mine) {
    const auto found = comm.all_gather(mine.value_or(UnfitElement{-1, 0, 0.0}));
    const auto first = std::ranges::find_if(found, [](const auto& e) { return e.row >= 0; });
    return first == found.end() ? std::nullopt : std::optional(*first);
}

/// For every column the squared norms of its positive and of its negative part.
template <Real R>
std::vector<double> part_squares(const BlockRows<R>& x) {
    std::vector<double> terms;
    for (Index s = x.shards().begin; s < x.shards().end; ++s) {
        const auto rows = x.shard(s);
        std::vector<double> sums(static_cast<std::size_t>(2 * x.cols()), 0.0);
        for (Index i = 0; i < rows.rows; ++i) {
            for (Index f = 0; f < rows.cols; ++f) {
                const auto value = static_cast<double>(rows(i, f));
                sums[static_cast<std::size_t>(2 * f + (value < 0.0 ? 1 : 0))] += value * value;
            }
        }
        terms.insert(terms.end(), sums.begin(), sums.end());
    }
    std::vector<double> squares(static_cast<std::size_t>(2 * x.cols()));
    reproducible_sum(x.comm(), terms, squares);
    return squares;
}

/// Which part of a singular vector is taken: its positive part, the magnitudes of its negative
/// part, or all magnitudes; and by which number it is multiplied.
struct Taken {
    enum class Part { positive, negative, all } part;
    double row_scale, col_scale;
};

std::vector<Taken> choose_parts(const std::vector<double>& u, const std::vector<double>& v,
                                const std::vector<double>& singular_values) {
    std::vector<Taken> taken;
    for (std::size_t f = 0; f < singular_values.size(); ++f) {
        const double root = std::sqrt(singular_values[f]);
        if (f == 0) {
            taken.push_back({Taken::Part::all, root, root});
            continue;
        }
        const bool positive = u[2 * f] * v[2 * f] > u[2 * f + 1] * v[2 * f + 1];
        const std::size_t chosen = positive ? 2 * f : 2 * f + 1;
        // √(s ‖u±‖ ‖v±‖) / ‖u±‖ = √s (‖v±‖ / ‖u±‖)^½
        const bool empty = u[chosen] * v[chosen] == 0.0;
        const double ratio = empty ? 1.0 : std::pow(v[chosen] / u[chosen], 0.25);
        taken.push_back({positive ? Taken::Part::positive : Taken::Part::negative,
                         empty ? 0.0 : root * ratio, empty ? 0.0 : root / ratio});
    }
    return taken;
}

/// The taken parts of singular vectors as the first columns of a start; zeros become `fill`.
template <Real R>
void take_parts(const BlockRows<R>& vectors, const std::vector<Taken>& taken, Side side,
                double fill, BlockRows<R>& start) {
    constexpr double least = 1e-6;  // as good as zero
    for (Index i = 0; i < vectors.local().rows(); ++i) {
        for (std::size_t f = 0; f < taken.size(); ++f) {
            auto value = static_cast<double>(vectors.local()(i, static_cast<Index>(f)));
            if (taken[f].part == Taken::Part::negative) value = -value;
            if (taken[f].part == Taken::Part::all) value = std::abs(value);
            value = std::max(0.0, value);
            value *= side == Side::rows ? taken[f].row_scale : taken[f].col_scale;
            start.local()(i, static_cast<Index>(f)) = static_cast<R>(value < least ? fill : value);
        }
    }
}

template <Real R>
double mean_of(const BlockRows<R>& a) {
    std::vector<double> terms;
    for (Index s = a.shards().begin; s < a.shards().end; ++s) {
        double sum = 0.0;
        const MatrixView<const R> rows = a.shard(s);
        for (Index i = 0; i < rows.rows; ++i) {
            for (const R x : rows.row(i)) sum += static_cast<double>(x);
        }
        terms.push_back(sum);
    }
    return reproducible_sum(a.comm(), terms) / static_cast<double>(a.rows() * a.cols());
}

template <Real R>
double mean_of(const BlockRowCsr<R>& a) {
    std::vector<double> terms;
    for (Index s = a.shards().begin; s < a.shards().end; ++s) {
        double sum = 0.0;
        const CsrView<R> rows = a.shard(s);
        for (Index i = 0; i < rows.rows; ++i) {
            for (const R x : rows.row_values(i)) sum += static_cast<double>(x);
        }
        terms.push_back(sum);
    }
    return reproducible_sum(a.comm(), terms) /
           (static_cast<double>(a.rows()) * static_cast<double>(a.cols()));
}

template <Real R, class Matrix>
Factors<R> start_from_svd(const Matrix& a, const NmfOptions& options, bool fill) {
    const auto phase = a.comm().ledger().phase("nmf start");
    const double mean = mean_of(a);
    const SvdOptions svd_options{.k = std::min({options.k, a.rows(), a.cols()}),
                                 .tolerance = 1e-4,
                                 .seed = options.seed,
                                 .threads = options.threads};
    const Factors<R> svd = truncated_svd(a, svd_options).factors;
    const std::vector<double> values(svd.singular_values.begin(), svd.singular_values.end());
    const auto taken = choose_parts(part_squares(svd.rows), part_squares(svd.cols), values);
    Factors<R> start;
    for (const Side side : {Side::rows, Side::cols}) {
        const BlockRows<R>& vectors = side == Side::rows ? svd.rows : svd.cols;
        BlockRows<R>& factor = side == Side::rows ? start.rows : start.cols;
        factor = BlockRows<R>(a.comm(), vectors.layout(), options.k);
        draw_nonnegative(factor.local().view(), factor.first_row(), side, mean, options.seed);
        take_parts(vectors, taken, side, fill ? mean : 0.0, factor);
    }
    return start;
}

template <Real R>
bool is_good(R value) {
    return std::isfinite(value) && value >= R{0};
}

}  // namespace

template <Real R>
std::optional<UnfitElement> first_unfit(const BlockRows<R>& a) {
    std::optional<UnfitElement> mine;
    for (Index i = 0; i < a.local().rows() && !mine; ++i) {
        const auto row = a.local().row(i);
        const auto bad = std::ranges::find_if_not(row, is_good<R>);
        if (bad == row.end()) continue;
        mine = {a.first_row() + i, static_cast<Index>(bad - row.begin()), double(*bad)};
    }
    return first_of_ranks(a.comm(), mine);
}

template <Real R>
std::optional<UnfitElement> first_unfit(const BlockRowCsr<R>& a) {
    std::optional<UnfitElement> mine;
    const CsrView<R> rows = a.local().view();
    for (Index i = 0; i < rows.rows && !mine; ++i) {
        const auto values = rows.row_values(i);
        const auto bad = std::ranges::find_if_not(values, is_good<R>);
        if (bad == values.end()) continue;
        const auto column = rows.row_cols(i)[static_cast<std::size_t>(bad - values.begin())];
        mine = {a.first_row() + i, column, double(*bad)};
    }
    return first_of_ranks(a.comm(), mine);
}

Error unfit_error(const std::string& what, const UnfitElement& element, const std::string& row,
                  const std::string& column) {
    const auto named = [](Index at, const std::string& name) {
        return name.empty() ? concat(at) : concat(at, " '", name, "'");
    };
    return Error(Fault::input,
                 concat(what, " holds ", element.value, " (row ", named(element.row, row),
                        ", column ", named(element.column, column),
                        ", counted from 0), but a nonnegative factorization needs finite values "
                        "that are not negative"),
                 true);
}

template <Real R>
void draw_nonnegative(MatrixView<R> factor, Index first_row, Side side, double mean,
                      std::uint64_t seed) {
    const Philox random(seed, side == Side::rows ? Stream::row_factors : Stream::col_factors);
    const double scale = std::sqrt(mean / static_cast<double>(factor.cols));
    for (Index i = 0; i < factor.rows; ++i) {
        for (Index f = 0; f < factor.cols; ++f) {
            factor(i, f) = static_cast<R>(scale * std::abs(random.normal(first_row + i, f)));
        }
    }
}

template <Real R>
Factors<R> nndsvd_start(const BlockRows<R>& a, const NmfOptions& options, bool fill) {
    return start_from_svd<R>(a, options, fill);
}

template <Real R>
Factors<R> nndsvd_start(const BlockRowCsr<R>& a, const NmfOptions& options, bool fill) {
    return start_from_svd<R>(a, options, fill);
}

#define RANKFOLD_INSTANTIATE(R)                                                       \
    template std::optional<UnfitElement> first_unfit(const BlockRows<R>&);            \
    template std::optional<UnfitElement> first_unfit(const BlockRowCsr<R>&);          \
    template Factors<R> nndsvd_start(const BlockRows<R>&, const NmfOptions&, bool);   \
    template Factors<R> nndsvd_start(const BlockRowCsr<R>&, const NmfOptions&, bool); \
    template void draw_nonnegative(MatrixView<R>, Index, Side, double, std::uint64_t);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
