// The loop over given entries only.
#include <cmath>

#include <rankfold/comm/reproducible_sum.hpp>

#include "nmf_given.hpp"
#include "nmf_scale.hpp"
#include "nmf_stop.hpp"

namespace rankfold {

namespace {

/// Σ over the entries.
template <Real R>
double entry_sum(const BlockRowCsr<R>& a) {
    std::vector<double> terms;
    for (Index s = a.shards().begin; s < a.shards().end; ++s) {
        const CsrView<R> rows = a.shard(s);
        double sum = 0.0;
        for (Index i = 0; i < rows.rows; ++i) {
            for (const R v : rows.row_values(i)) sum += static_cast<double>(v);
        }
        terms.push_back(sum);
    }
    return reproducible_sum(a.comm(), terms);
}

/// The start, with zero factors for rows without entries.
template <Real R>
BlockRows<R> start_side(const BlockRowCsr<R>& a, Side side, double mean, const NmfOptions& options,
                        const Factors<R>* given) {
    if (given != nullptr) {
        return redistribute(side == Side::rows ? given->rows : given->cols, a.layout());
    }
    BlockRows<R> factor(a.comm(), a.layout(), options.k);
    draw_nonnegative(factor.local().view(), factor.first_row(), side, mean, options.seed);
    return factor;
}

}  // namespace

template <Real R>
void scale_components(Factors<R>& factors, bool equal_norms) {
    std::vector<double> squares[2];
    const DenseMatrix<double> grams[2] = {gram(factors.rows), gram(factors.cols)};
    for (Index f = 0; f < factors.k(); ++f) {
        squares[0].push_back(grams[0](f, f));
        squares[1].push_back(grams[1](f, f));
    }
    ComponentScale components(squares[0], squares[1]);
    if (!equal_norms) {
        std::ranges::fill(components.row_scale, 1.0);
        std::ranges::fill(components.col_scale, 1.0);
    }
    components.apply(factors.rows.local().view(), components.row_scale);
    components.apply(factors.cols.local().view(), components.col_scale);
}

template <Real R>
Factors<R> nmf_missing(const BlockRowCsr<R>& a, const NmfOptions& options, const Steering& steering,
                       const Factors<R>* start) {
    RANKFOLD_EXPECT(options.k > 0 && options.sweeps >= 0 && options.threads > 0);
    RANKFOLD_EXPECT(options.solver == NmfSolver::hals && options.loss == NmfLoss::frobenius);
    require_nonnegative(a, "the matrix");
    BlockRowCsr<R> transposed;
    {
        const auto phase = a.comm().ledger().phase("transpose");
        transposed = transpose(a);
    }
    const auto entries = static_cast<double>(std::max<Index>(1, a.nnz()));
    const double mean = entry_sum(a) / entries;
    Factors<R> factors;
    factors.method = "nmf-missing";
    factors.rows = start_side(a, Side::rows, mean, options, start);
    factors.cols = start_side(transposed, Side::cols, mean, options, start);
    GivenSide<R> rows(a, transposed.layout(), options.lambda, options.lambda_exponent,
                      options.threads);
    GivenSide<R> cols(transposed, a.layout(), options.lambda, options.lambda_exponent,
                      options.threads);
    TensorList state = factors.tensors();
    state.scalars["kkt_start"] = 0.0;
    TensorList restored = state;
    const Index first = steering.restore(restored);
    double kkt_start = restored.scalars["kkt_start"];
    const auto evaluate = [&] {
        GivenSums sums = rows.pass(factors.cols, factors.rows, {.most = 0});
        const GivenSums other = cols.pass(factors.rows, factors.cols, {.most = 0});
        sums.gradient = std::sqrt(sums.gradient + other.gradient);
        sums.ridge += other.ridge;
        return sums;
    };
    if (first == 0) kkt_start = evaluate().gradient;
    const auto relative = [&](double kkt) { return kkt_start > 0.0 ? kkt / kkt_start : 0.0; };
    state.scalars["kkt_start"] = kkt_start;

    factors.history.columns = {"sweep", "objective", "train_rmse", "kkt"};
    NmfStop stop(a.comm(), options, std::numeric_limits<double>::infinity());
    for (Index sweep = first; sweep < options.sweeps; ++sweep) {
        const GivenSums w = rows.pass(factors.cols, factors.rows, options.inner);
        const GivenSums h = cols.pass(factors.rows, factors.cols, options.inner);
        const double objective = h.error + w.ridge + h.ridge;
        const double kkt = relative(std::sqrt(w.gradient + h.gradient));
        if (!std::isfinite(objective)) {
            throw Error(Fault::check,
                        concat("the objective of sweep ", sweep + 1,
                               " is not finite; raise --lambda or use --precision double"),
                        true);
        }
        const double rmse = std::sqrt(h.error / entries);
        factors.history.rows.push_back({static_cast<double>(sweep + 1), objective, rmse, kkt});
        const Progress progress{
            .unit = "sweep",
            .step = sweep + 1,
            .steps = options.sweeps,
            .values = {{"objective", objective}, {"train_rmse", rmse}, {"kkt", kkt}}};
        if (steering.after(progress, state) == Verdict::stop) break;
        if (stop.enough(objective, kkt)) break;
    }
    // a ridge decides about the norms itself
    scale_components(factors, options.lambda == 0.0);
    const GivenSums last = evaluate();
    factors.certificate = {{"objective", last.error + last.ridge},
                           {"train_rmse", std::sqrt(last.error / entries)},
                           {"kkt", relative(last.gradient)},
                           {"kkt_start", kkt_start}};
    return factors;
}

template void scale_components(Factors<float>&, bool);
template void scale_components(Factors<double>&, bool);
template Factors<float> nmf_missing(const BlockRowCsr<float>&, const NmfOptions&, const Steering&,
                                    const Factors<float>*);
template Factors<double> nmf_missing(const BlockRowCsr<double>&, const NmfOptions&, const Steering&,
                                     const Factors<double>*);

}  // namespace rankfold
