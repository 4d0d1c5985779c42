// One model, one mixed objective: a factorization and a network, optimised in turns.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include <rankfold/factor/als.hpp>
#include <rankfold/nn/trainer.hpp>

namespace rankfold {

struct JointOptions {
    AlsOptions als;                 ///< the factorization; `sweeps` does not count
    Index rounds = 10;              ///< one round = rows, columns, network
    std::vector<Index> hidden{32};  ///< widths of h's hidden layers; empty: no h
    Index embedding = 8;            ///< width of h's own embeddings of rows and columns
    Index epochs = 1;               ///< of the network in a round
    Index batch = 1024;
    Index micro_batches = 0;  ///< 0: default_micro_batches(batch)
    OptimizerOptions optimizer{.learning_rate = 2e-3, .schedule = Schedule::constant};
    double zeros = 1.0;         ///< implicit: pairs without an entry that h sees, per entry
    double prior_weight = 0.0;  ///< μ; needs features
    std::vector<Index> prior_hidden{32};  ///< widths of e's hidden layers
};

/// h: embeddings of row and column, side by side, then a chain of dense layers to one output. Its
/// tables are trained by the rows that a batch names (see TableUpdate).
[[nodiscard]] Graph joint_graph(Index m, Index n, const JointOptions& options);

/// Side features of rows or columns, dense, laid out like the factors of that side; or null.
template <Real R>
struct SideFeatures {
    const BlockRows<R>* rows = nullptr;
    const BlockRows<R>* cols = nullptr;
};

/// The result: predictions are μ + x_i·y_j + h(i, j).
template <Real R>
struct JointModel {
    Factors<R> factors;
    std::optional<Network<R>> network;    ///< h, the same on all ranks; inputs "row", "column"
    std::optional<Network<R>> row_prior;  ///< e of the rows' features
    std::optional<Network<R>> col_prior;
    double start_objective = 0.0;
};

/// Called once, before the first round, with the model as it will be while it is fitted.
template <Real R>
using JointWatch = std::function<void(JointModel<R>&)>;

/// Minimises, over X, Y and the networks h and e,
///
///     Σ_Ω c (p − x·y − h(i, j))²  [+ α0 Σ over the other pairs of (x·y)²]
///       + λ (Σ n_i^ν ‖x_i‖² + Σ n_j^ν ‖y_j‖²) + μ Σ ‖x_i − e(s_i)‖² + μ Σ ‖y_j − e'(t_j)‖²
///
/// with c, p as in als(): explicit (c = 1, p = a − μ_A) or implicit. X and Y enter only bilinearly
/// and in the prior, so with h and e held fixed each half sweep minimises exactly (a RowProblem
/// with targets c (p − h) and prior e): the objective does not rise in it. Then h and e take
/// gradient steps with X and Y fixed, data-parallel. For implicit feedback h lives on the entries
/// and on a fixed counter-based sample of other pairs: only right-hand sides change, the Gram
/// matrix stays shared. X and Y stay on the ranks that own them and travel as rows of a
/// RowExchange. h is computed once a round for every entry, where its row lives, and travels to its
/// column as one number.
///
/// `steering` sees, after each round, the objective after each block: rows, columns, network.
/// Without hidden layers and prior this is als() with `rounds` sweeps, bit for bit. It may put
/// factors to start from into the state that it is to restore, and return 0 (see Steering).
///
/// @collective over a.comm()
/// @throws Error: as als() and Trainer
template <Real R>
[[nodiscard]] JointModel<R> fit_joint(const BlockRowCsr<R>& a, const JointOptions& options,
                                      const SideFeatures<R>& features, const Steering& steering,
                                      const JointWatch<R>& watch = {});

}  // namespace rankfold
