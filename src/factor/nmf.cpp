#include <rankfold/factor/nmf.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include <rankfold/comm/reproducible_sum.hpp>
#include <rankfold/dist/grid_matrix.hpp>
#include <rankfold/factor/nmf_cost.hpp>
#include <rankfold/linalg/blas.hpp>
#include <rankfold/linalg/nmf_bpp.hpp>

#include "nmf_scale.hpp"
#include "nmf_stop.hpp"

namespace rankfold {

namespace {

std::size_t at(Index i) {
    return static_cast<std::size_t>(i);
}

/// ⟨A, B⟩ of two small matrices.
double inner_product(const DenseMatrix<double>& a, const DenseMatrix<double>& b) {
    double sum = 0.0;
    for (std::size_t i = 0; i < a.data().size(); ++i) sum += a.data()[i] * b.data()[i];
    return sum;
}

/// The loop, on a matrix that lies on the grid.
template <Real R>
class NmfLoop {
public:
    NmfLoop(GridMatrix<R>& a, const NmfOptions& options)
        : a_{a}, comm_{a.grid().comm()}, options_{options} {
        for (const Side side : {Side::rows, Side::cols}) {
            Half& half = mine(side);
            half.factor = DenseMatrix<R>(a.owned(side).size(), options.k);
            half.product = DenseMatrix<R>(a.owned(side).size(), options.k);
            half.gram = DenseMatrix<R>(options.k, options.k);
        }
    }

    void start(const Factors<R>* given) {
        const double elements = static_cast<double>(a_.axis(Side::rows).layout().rows()) *
                                static_cast<double>(a_.axis(Side::cols).layout().rows());
        for (const Side side : {Side::rows, Side::cols}) {
            DenseMatrix<R>& factor = mine(side).factor;
            if (given != nullptr) {
                factor = a_.to_owned(side, side == Side::rows ? given->rows : given->cols);
            } else {
                draw_nonnegative(factor.view(), a_.owned(side).begin, side, a_.sum() / elements,
                                 options_.seed);
            }
        }
    }

    void run(const Steering& steering, Factors<R>& factors) {
        TensorList restored = state();
        const Index first = steering.restore(restored);
        prepare(Side::rows);
        prepare(Side::cols);
        multiply(Side::cols);
        columns_gradient_ = gradient_square(Side::cols);
        multiply(Side::rows);
        kkt_start_ = first > 0 ? restored.scalars["kkt_start"]
                               : std::sqrt(gradient_square(Side::rows) + columns_gradient_);
        NmfStop stop(comm_, options_, objective());
        factors.history.columns = {"sweep", "objective"};
        if (frobenius()) factors.history.columns.emplace_back("relative_error");
        factors.history.columns.emplace_back("kkt");
        for (Index sweep = first; sweep < options_.sweeps; ++sweep) {
            step();
            const double now = objective();
            check_finite(now, sweep);
            const double kkt = relative_kkt();
            Progress progress{.unit = "sweep",
                              .step = sweep + 1,
                              .steps = options_.sweeps,
                              .values = {{"objective", now}}};
            if (frobenius()) progress.values.emplace_back("relative_error", relative_error(now));
            progress.values.emplace_back("kkt", kkt);
            factors.history.rows.push_back({static_cast<double>(sweep + 1)});
            for (const auto& [name, value] : progress.values) {
                factors.history.rows.back().push_back(value);
            }
            if (steering.after(progress, state()) == Verdict::stop) break;
            if (stop.enough(now, kkt)) break;
        }
    }

    /// Scales and orders the components, and says how good they are.
    void finish(Factors<R>& factors) {
        if (!frobenius()) {
            multiply(Side::cols);
            columns_gradient_ = gradient_square(Side::cols);
        }
        const double kkt = relative_kkt();
        scale();
        prepare(Side::rows);
        prepare(Side::cols);
        factors.rows = a_.to_block_rows(Side::rows, mine(Side::rows).factor);
        factors.cols = a_.to_block_rows(Side::cols, mine(Side::cols).factor);
        double value = objective();
        if (frobenius()) {
            const auto phase = comm_.ledger().phase("nmf objective");
            value = a_.residual_square(inner_product(rows_.exact, cols_.exact));
        }
        factors.certificate = {{"objective", value}, {"kkt", kkt}, {"kkt_start", kkt_start_}};
        if (frobenius()) factors.certificate.emplace_back("relative_error", relative_error(value));
    }

private:
    struct Half {
        DenseMatrix<R> factor;   // the owned rows
        DenseMatrix<R> product;  // A times the other factor, of the owned rows
        DenseMatrix<R> gram;     // of the factor
        DenseMatrix<double> exact;
        std::vector<double> sums;  // of the factor's columns, for Kullback and Leibler's loss
    };

    [[nodiscard]] Half& mine(Side side) { return side == Side::rows ? rows_ : cols_; }
    [[nodiscard]] Half& fixed(Side side) { return side == Side::rows ? cols_ : rows_; }
    [[nodiscard]] bool frobenius() const { return options_.loss == NmfLoss::frobenius; }

    [[nodiscard]] TensorList state() {
        TensorList list;
        for (const Side side : {Side::rows, Side::cols}) {
            list.tensors.push_back({.path = side == Side::rows ? "row_factors" : "col_factors",
                                    .shape = {a_.axis(side).layout().rows(), options_.k},
                                    .local = a_.owned(side),
                                    .data = mine(side).factor.data()});
        }
        list.scalars["kkt_start"] = kkt_start_;
        return list;
    }

    /// Runs body(shard) for the shards whose factor rows this rank owns.
    template <class Body>
    void for_owned_shards(Side side, const Body& body) {
        const Range shards = a_.owned_shards(side);
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(options_.threads))
        for (Index s = shards.begin; s < shards.end; ++s) body(s);
    }

    /// One number a shard, computed in parallel, summed over all ranks.
    template <class Term>
    double sum_over_shards(Side side, const Term& term) {
        const Range shards = a_.owned_shards(side);
        std::vector<double> terms(at(shards.size()));
        for_owned_shards(side, [&](Index s) { terms[at(s - shards.begin)] = term(s); });
        return reproducible_sum(comm_, terms);
    }

    /// Makes the side's factor known, and what the other side's update needs of it.
    void prepare(Side side) {
        a_.gather(side, mine(side).factor);
        const auto phase = comm_.ledger().phase("nmf gram");
        if (frobenius()) {
            compute_gram(side);
            return;
        }
        std::vector<double> terms;
        const Range shards = a_.owned_shards(side);
        for (Index s = shards.begin; s < shards.end; ++s) {
            std::vector<double> sums(at(options_.k), 0.0);
            const auto rows = a_.shard(side, std::as_const(mine(side).factor).view(), s);
            for (Index i = 0; i < rows.rows; ++i) {
                for (Index f = 0; f < rows.cols; ++f)
                    sums[at(f)] += static_cast<double>(rows(i, f));
            }
            terms.insert(terms.end(), sums.begin(), sums.end());
        }
        mine(side).sums.resize(at(options_.k));
        reproducible_sum(comm_, terms, mine(side).sums);
    }

    void compute_gram(Side side) {
        Half& half = mine(side);
        const Index k = options_.k;
        double largest = 0.0;
        for (const R x : half.factor.data()) {
            largest = std::isfinite(x) ? std::max(largest, static_cast<double>(x))
                                       : std::numeric_limits<double>::infinity();
        }
        largest = comm_.all_reduce(largest, Reduce::max);
        std::vector<double> terms(at(k * (k + 1) / 2));  // the upper triangle, row by row
        ExactSum sum(terms.size(),
                     largest * largest * static_cast<double>(a_.axis(side).layout().rows()));
        DenseMatrix<R> part(k, k);
        const Range shards = a_.owned_shards(side);
        for (Index s = shards.begin; s < shards.end; ++s) {
            const auto rows = a_.shard(side, std::as_const(half.factor).view(), s);
            if (rows.rows == 0) continue;
            gram_upper<R>(R{1}, rows, R{0}, part.view());
            auto next = terms.begin();
            for (Index i = 0; i < k; ++i) {
                next = std::ranges::copy(part.row(i).subspan(at(i)), next).out;
            }
            sum.add(terms);
        }
        reproducible_sum(comm_, sum, terms);
        half.exact = DenseMatrix<double>(k, k);
        auto next = terms.begin();
        for (Index i = 0; i < k; ++i) {
            for (Index j = i; j < k; ++j, ++next) {
                half.exact(i, j) = half.exact(j, i) = *next;
                half.gram(i, j) = half.gram(j, i) = static_cast<R>(*next);
            }
        }
        comm_.ledger().add_flops(static_cast<double>(half.factor.rows() * k * (k + 1)));
    }

    void multiply(Side side) {
        if (frobenius()) {
            a_.multiply(side, mine(side).product);
        } else {
            a_.multiply_quotients(side, mine(side).product,
                                  side == Side::rows ? &log_sum_ : nullptr);
        }
    }

    void update(Side side) {
        const auto phase = comm_.ledger().phase("nmf update");
        Half& half = mine(side);
        const auto gram = std::as_const(fixed(side).gram).view();
        for_owned_shards(side, [&](Index s) {
            const auto v = a_.shard(side, std::as_const(half.product).view(), s);
            const auto w = a_.shard(side, half.factor.view(), s);
            if (!frobenius()) {
                divide_by_sums(v, fixed(side).sums, w);
            } else if (options_.solver == NmfSolver::mu) {
                multiplicative_rows<R>(v, gram, w);
            } else {
                hals_rows<R>(v, gram, options_.inner, w);
                if (options_.solver == NmfSolver::bpp) pivoted_rows<R>(v, gram, w);
            }
        });
        const auto elements = static_cast<double>(half.factor.data().size());
        comm_.ledger().add_flops(elements *
                                 (frobenius() ? 2.0 * static_cast<double>(options_.k) : 2.0));
    }

    /// Lee and Seung's update for the divergence: w_f ← w_f v_f / Σ_j h_jf.
    static void divide_by_sums(MatrixView<const R> v, const std::vector<double>& sums,
                               MatrixView<R> w) {
        for (Index f = 0; f < w.cols; ++f) {
            const auto below =
                std::max(static_cast<R>(sums[at(f)]), std::numeric_limits<R>::epsilon());
            for (Index i = 0; i < w.rows; ++i) w(i, f) *= v(i, f) / below;
        }
    }

    void step() {
        update(Side::rows);
        prepare(Side::rows);
        multiply(Side::cols);
        if (!frobenius()) columns_gradient_ = gradient_square(Side::cols);
        update(Side::cols);
        prepare(Side::cols);
        multiply(Side::rows);
        if (frobenius()) columns_gradient_ = gradient_square(Side::cols);
    }

    /// ‖projected gradient‖² of one side, up to the factor 4 of Frobenius' loss.
    double gradient_square(Side side) {
        const auto phase = comm_.ledger().phase("nmf objective");
        Half& half = mine(side);
        const auto gram = std::as_const(fixed(side).gram).view();
        return sum_over_shards(side, [&](Index s) {
            const auto v = a_.shard(side, std::as_const(half.product).view(), s);
            const auto w = a_.shard(side, std::as_const(half.factor).view(), s);
            if (frobenius()) return projected_gradient_square<R>(v, gram, w);
            double sum = 0.0;
            for (Index i = 0; i < w.rows; ++i) {
                for (Index f = 0; f < w.cols; ++f) {
                    double g = fixed(side).sums[at(f)] - static_cast<double>(v(i, f));
                    if (w(i, f) <= R{0}) g = std::min(g, 0.0);
                    sum += g * g;
                }
            }
            return sum;
        });
    }

    double relative_kkt() {
        const double now = std::sqrt(gradient_square(Side::rows) + columns_gradient_);
        return kkt_start_ > 0.0 ? now / kkt_start_ : 0.0;
    }

    /// With the rows' product as multiplied last.
    double objective() {
        const auto phase = comm_.ledger().phase("nmf objective");
        if (!frobenius()) {
            return log_sum_ - a_.sum() +
                   std::inner_product(rows_.sums.begin(), rows_.sums.end(), cols_.sums.begin(),
                                      0.0);
        }
        const double cross = sum_over_shards(Side::rows, [&](Index s) {
            const auto v = a_.shard(Side::rows, std::as_const(rows_.product).view(), s);
            const auto w = a_.shard(Side::rows, std::as_const(rows_.factor).view(), s);
            double sum = 0.0;
            for (Index i = 0; i < w.rows * w.cols; ++i) {
                sum += static_cast<double>(v.data[i]) * static_cast<double>(w.data[i]);
            }
            return sum;
        });
        return std::max(0.0, a_.square() - 2.0 * cross + inner_product(rows_.exact, cols_.exact));
    }

    [[nodiscard]] double relative_error(double objective) const {
        return a_.square() > 0.0 ? std::sqrt(objective / a_.square()) : 0.0;
    }

    void check_finite(double objective, Index sweep) const {
        if (std::isfinite(objective)) return;
        throw Error(Fault::check,
                    concat("the objective of sweep ", sweep + 1,
                           " is not finite; use --precision double, or another --start"),
                    true);
    }

    void scale() {
        std::vector<double> squares[2];
        for (const Side side : {Side::rows, Side::cols}) {
            if (!frobenius()) compute_gram(side);
            auto& list = squares[side == Side::rows ? 0 : 1];
            for (Index f = 0; f < options_.k; ++f) list.push_back(mine(side).exact(f, f));
        }
        const ComponentScale components(squares[0], squares[1]);
        components.apply(rows_.factor.view(), components.row_scale);
        components.apply(cols_.factor.view(), components.col_scale);
    }

    GridMatrix<R>& a_;
    const Communicator& comm_;
    const NmfOptions& options_;
    Half rows_;
    Half cols_;
    double log_sum_ = 0.0;
    double columns_gradient_ = 0.0;
    double kkt_start_ = 0.0;
};

template <Real R, class Matrix>
Factors<R> factorise(const Matrix& a, const NmfOptions& options, const Steering& steering,
                     const Factors<R>* start) {
    RANKFOLD_EXPECT(options.k > 0 && options.sweeps >= 0 && options.threads > 0);
    RANKFOLD_EXPECT(options.loss == NmfLoss::frobenius || options.solver == NmfSolver::mu);
    require_nonnegative(a, "the matrix");
    const GridShape cheapest = choose_grid(nmf_size(a, options.k), a.comm().size());
    const ProcessGrid grid(a.comm(), options.grid.value_or(cheapest));
    GridMatrix<R> matrix(a, grid, options.k, options.threads);
    NmfLoop<R> loop(matrix, options);
    loop.start(start);
    Factors<R> factors;
    factors.method = options.loss == NmfLoss::frobenius ? "nmf" : "nmf-kl";
    loop.run(steering, factors);
    loop.finish(factors);
    return factors;
}

}  // namespace

template <Real R>
Factors<R> nmf(const BlockRows<R>& a, const NmfOptions& options, const Steering& steering,
               const Factors<R>* start) {
    return factorise<R>(a, options, steering, start);
}

template <Real R>
Factors<R> nmf(const BlockRowCsr<R>& a, const NmfOptions& options, const Steering& steering,
               const Factors<R>* start) {
    return factorise<R>(a, options, steering, start);
}

#define RANKFOLD_INSTANTIATE(R)                                                        \
    template Factors<R> nmf(const BlockRows<R>&, const NmfOptions&, const Steering&,   \
                            const Factors<R>*);                                        \
    template Factors<R> nmf(const BlockRowCsr<R>&, const NmfOptions&, const Steering&, \
                            const Factors<R>*);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
