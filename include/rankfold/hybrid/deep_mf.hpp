// The factorization posed as a network.
#pragma once

#include <rankfold/factor/als.hpp>
#include <rankfold/nn/trainer.hpp>

namespace rankfold {

struct DeepMfOptions {
    Index k = 32;                 ///< outputs of the towers
    Index embedding = 32;         ///< width of the free embeddings X and Y
    std::vector<Index> hidden{};  ///< widths of each tower's hidden layers; none: linear towers
    double lambda = 0.1;
    double lambda_exponent = 1.0;
    bool implicit = false;  ///< entries stand for 1, and sampled pairs without one for 0
    double zeros = 4.0;     ///< implicit: sampled pairs, per entry
    Centering centering = Centering::mean;
    Index micro_batches = 0;  ///< 0: default_micro_batches(train.batch)
    TrainOptions train{.epochs = 20, .batch = 1024, .optimizer = {.learning_rate = 5e-3}};
};

/// The result: factors f(X), g(Y) with method "deepmf", and the network that made them.
template <Real R>
struct DeepMfModel {
    Factors<R> factors;
    Network<R> network;  ///< inputs "row", "column"; output [f(x_i), g(y_j)]
};

/// Minimises, over the embeddings X (m x d), Y (n x d) and the towers f, g: R^d → R^k,
///
///     Σ_Ω (a − μ − f(x_i)·g(y_j))²  +  λ Σ n_i^ν ‖f(x_i)‖² + λ Σ n_j^ν ‖g(y_j)‖²
///
/// by data-parallel stochastic gradients over the entries: the article's form of a factorization,
/// in which X and Y are the input layer and are learnt. The penalty is the one of als(), so with
/// linear towers both have the same optimum. Each entry carries its share λ n^(ν−1) of it.
///
/// `steering` sees, after each epoch, the exact objective, and for explicit values the training
/// RMSE.
///
/// @param start  factors of the same rows and columns, whose first `embedding` columns X and Y
///               begin with (0 beyond their k): then linear towers begin as the identity; or
///               nullptr
/// @collective over a.comm()
/// @throws Error: as Trainer
template <Real R>
[[nodiscard]] DeepMfModel<R> fit_deep_mf(const BlockRowCsr<R>& a, const DeepMfOptions& options,
                                         const Steering& steering,
                                         const Factors<R>* start = nullptr);

}  // namespace rankfold
