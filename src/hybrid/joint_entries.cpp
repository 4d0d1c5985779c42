#include <rankfold/hybrid/joint_entries.hpp>

#include <rankfold/factor/half_sweep.hpp>

namespace rankfold {

namespace {

bool in_rendles_form(const JointOptions& options) {
    return options.als.implicit && options.als.unobserved_weight.has_value();
}

}  // namespace

template <Real R>
BlockRowCsr<R> joint_entries(const BlockRowCsr<R>& a, const JointOptions& options) {
    BlockRowCsr<R> entries = !options.hidden.empty() && options.als.implicit
                                 ? with_zeros(a, options.zeros, options.als.seed)
                                 : BlockRowCsr<R>(a.comm(), a.layout(), CsrMatrix<R>(a.local()));
    if (in_rendles_form(options)) {
        for (R& v : entries.local().values) v = v > R{0} ? R{1} : R{0};
    }
    return entries;
}

RowProblem joint_problem(const JointOptions& options, double mean, Index others) {
    RowProblem problem = row_problem(options.als, mean, others);
    if (in_rendles_form(options)) {
        // the same objective with weight and confidence as functions of the value, 1 or 0
        problem.w0 = 0.0;
        problem.w1 = 1.0;
        problem.b0 = *options.als.unobserved_weight;
        problem.b1 = 1.0 - problem.b0;
    }
    problem.prior_weight = options.prior_weight;
    return problem;
}

double joint_preference(const RowProblem& problem, double value) {
    if (problem.preference) return value > 0.0 ? 1.0 : 0.0;
    return problem.target(value);
}

template <Real R>
std::vector<R> joint_weights(const BlockRowCsr<R>& entries, const RowProblem& problem) {
    std::vector<R> weights;
    weights.reserve(entries.local().values.size());
    for (const R v : entries.local().values) {
        weights.push_back(static_cast<R>(problem.confidence(static_cast<double>(v))));
    }
    return weights;
}

template <Real R>
EntrySamples<R> residual_samples(const BlockRowCsr<R>& a, const JointOptions& options,
                                 const Factors<R>& factors, Index blocks) {
    const BlockRowCsr<R> entries = joint_entries(a, options);
    const RowProblem problem = joint_problem(options, factors.global_mean, a.cols());
    SparseSide<R> side(entries, {.problem = problem, .threads = options.als.threads, .axis = "row"},
                       factors.cols.layout(), factors.k());
    side.gather(factors.cols);
    const auto& values = entries.local().values;
    std::vector<R> targets(values.size());
    side.scores(redistribute(factors.rows, entries.layout()), targets);
    for (std::size_t e = 0; e < values.size(); ++e) {
        const double score = static_cast<double>(targets[e]);
        targets[e] =
            static_cast<R>(joint_preference(problem, static_cast<double>(values[e])) - score);
    }
    EntrySamples<R> samples(entries, blocks);
    samples.set_targets(targets);
    if (problem.preference) samples.set_weights(joint_weights(entries, problem));
    return samples;
}

#define RANKFOLD_INSTANTIATE(R)                                                           \
    template BlockRowCsr<R> joint_entries(const BlockRowCsr<R>&, const JointOptions&);    \
    template std::vector<R> joint_weights(const BlockRowCsr<R>&, const RowProblem&);      \
    template EntrySamples<R> residual_samples(const BlockRowCsr<R>&, const JointOptions&, \
                                              const Factors<R>&, Index);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
