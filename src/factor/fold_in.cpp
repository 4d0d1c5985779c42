#include <rankfold/factor/fold_in.hpp>

#include <rankfold/factor/biases.hpp>
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
Factors<R> fold_in_als(const BlockRowCsr<R>& a, const Factors<R>& model,
                       const AlsOptions& options) {
    RANKFOLD_EXPECT(a.cols() == model.cols.rows());
    Factors<R> folded = beside(a.comm(), a.layout(), model);
    const RowProblem problem = row_problem(options, model.global_mean, a.cols());
    const auto solve = [&](const BlockRowCsr<R>& rows) {
        SparseSide<R>(rows, problem, model.cols.layout(), model.k(), options.threads, "row")
            .solve(model.cols, folded.rows);
    };
    if (model.row_bias && model.col_bias) {
        Biases<R> biases{row_biases(a, *model.col_bias, model.global_mean, options.bias_damping),
                         model.col_bias->clone()};
        solve(subtract(a, biases));
        folded.row_bias = std::move(biases.rows);
    } else {
        solve(a);
    }
    return folded;
}

template <Real R>
Factors<R> fold_in_als(const BlockRows<R>& a, const Factors<R>& model, const AlsOptions& options) {
    RANKFOLD_EXPECT(a.cols() == model.cols.rows() && !options.implicit);
    Factors<R> folded = beside(a.comm(), a.layout(), model);
    DenseSide<R>(a, row_problem(options, model.global_mean, a.cols()), model.cols.layout(),
                 model.k(), options.threads, "row")
        .solve(model.cols, folded.rows);
    return folded;
}

#define RANKFOLD_INSTANTIATE(R)                                                                   \
    template Factors<R> fold_in_als(const BlockRowCsr<R>&, const Factors<R>&, const AlsOptions&); \
    template Factors<R> fold_in_als(const BlockRows<R>&, const Factors<R>&, const AlsOptions&);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
