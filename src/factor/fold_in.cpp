#include <rankfold/factor/fold_in.hpp>

#include <algorithm>

#include <rankfold/factor/half_sweep.hpp>

namespace rankfold {

namespace {

/// New rows beside the model's columns, still zero.
template <Real R>
Factors<R> beside(const Communicator& comm, const ShardLayout& rows, const Factors<R>& model) {
    Factors<R> folded;
    folded.rows = BlockRows<R>(comm, rows, model.k());
    folded.cols = model.cols.clone();
    if (model.col_bias) folded.col_bias = model.col_bias->clone();
    folded.global_mean = model.global_mean;
    folded.method = model.method;
    folded.options = model.options;
    return folded;
}

}  // namespace

template <Real R>
Factors<R> fold_in_als(const BlockRowCsr<R>& a, const Factors<R>& model, const AlsOptions& options,
                       const FoldInPrior<R>& prior) {
    RANKFOLD_EXPECT(a.cols() == model.cols.rows() && options.biases == model.col_bias.has_value());
    RANKFOLD_EXPECT(prior.rows == nullptr || !options.biases);
    Factors<R> folded = beside(a.comm(), a.layout(), model);
    std::optional<BlockRows<R>> no_bias;
    if (options.biases) folded.row_bias = BlockRows<R>(a.comm(), a.layout(), 1);
    BiasedFactors<R> y(folded.cols, options.biases ? folded.col_bias : no_bias);
    BiasedFactors<R> x(folded.rows, folded.row_bias);
    y.join();
    RowProblem problem = row_problem(options, model.global_mean, a.cols());
    if (prior.rows != nullptr) problem.prior_weight = prior.weight;
    SparseSide<R> side(a,
                       {.problem = problem,
                        .solver = {},
                        .biases = options.biases,
                        .threads = options.threads,
                        .axis = "row"},
                       model.cols.layout(), y.get().cols());
    side.solve(y.get(), x.get(), {.prior = prior.rows});
    x.part();
    if (prior.rows == nullptr) return folded;
    for (Index i = 0; i < a.local().rows(); ++i) {
        if (a.local().view().row_nnz(i) > 0) continue;
        std::ranges::copy(prior.rows->local().row(i), folded.rows.local().row(i).begin());
    }
    return folded;
}

template <Real R>
Factors<R> fold_in_als(const BlockRows<R>& a, const Factors<R>& model, const AlsOptions& options) {
    RANKFOLD_EXPECT(a.cols() == model.cols.rows() && !options.implicit);
    Factors<R> folded = beside(a.comm(), a.layout(), model);
    DenseSide<R> side(a,
                      {.problem = row_problem(options, model.global_mean, a.cols()),
                       .solver = {},
                       .threads = options.threads},
                      model.cols.layout(), model.k());
    side.solve(model.cols, folded.rows);
    return folded;
}

#define RANKFOLD_INSTANTIATE(R)                                                                  \
    template Factors<R> fold_in_als(const BlockRowCsr<R>&, const Factors<R>&, const AlsOptions&, \
                                    const FoldInPrior<R>&);                                      \
    template Factors<R> fold_in_als(const BlockRows<R>&, const Factors<R>&, const AlsOptions&);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
