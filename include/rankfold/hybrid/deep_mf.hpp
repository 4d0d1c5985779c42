// The factorization posed as a network.
#pragma once

#include <memory>

#include <rankfold/factor/als.hpp>
#include <rankfold/hybrid/layer_statistics.hpp>
#include <rankfold/hybrid/tower_samples.hpp>

namespace rankfold {

struct DeepMfOptions {
    AlsOptions als{.k = 32};  ///< the objective; how als() would minimise it does not count
    TowerShape tower;         ///< k as in `als`
    bool logistic = false;    ///< entries are preferences, told from sampled pairs
    /// Pairs without an entry that are drawn anew every epoch, per entry, and stand for 0: for
    /// logistic, and for implicit squares instead of all pairs (0: all).
    double zeros = 0.0;
    double entry_dropout = 0.0;  ///< share of a row's entries that its tower does not see
    Index micro_batches = 0;     ///< 0: default_micro_batches(train.batch)
    TrainOptions train{.epochs = 100, .batch = 256, .optimizer = {.learning_rate = 5e-3}};

    /// True if the loss is over entries and drawn pairs.
    [[nodiscard]] bool samples() const { return logistic || (als.implicit && zeros > 0.0); }
    [[nodiscard]] Loss loss() const {
        return logistic ? Loss::logistic_factorization : Loss::factorization;
    }
};

/// What is given beside the matrix; everything is borrowed and may be absent.
template <Real R>
struct DeepMfData {
    TowerInputs<R> rows{.embeddings = true};  ///< what f reads; `entries` are not needed
    TowerInputs<R> cols{.embeddings = true};  ///< what g reads
    bool entries = false;                     ///< f reads the rows of A, g its columns
    const Factors<R>* start = nullptr;        ///< what the embeddings begin with: see begin_with()
    /// Both towers to go on with, whose layers may be factored; their shape is not the options'.
    const Network<R>* towers = nullptr;
};

/// The result: factors f(x_i), g(y_j) with method "deepmf", and the network that made them.
template <Real R>
struct DeepMfModel {
    Factors<R> factors;
    Network<R> network;  ///< both_towers(), with the output [f(x_i), g(y_j)]
};

/// Minimises over two towers, f of what is known of the rows and g of the columns, the objective of
/// als(), in which f(x_i) and g(y_j) stand for the factors:
///
///     explicit   Σ_Ω (a − μ − f·g)²                                    + λ Σ n_i^ν ‖f‖² + …
///     implicit   the same over all pairs, each with its weight (see RowProblem::implicit and
///                RowProblem::implicit_unobserved), by the Gram matrices of f and g
///     sampled    Σ_Ω (1 − f·g)² + Σ (f·g)² over drawn pairs, or the logistic loss of both
///
/// An epoch is one pass of f over the rows with g's outputs held fixed, and then one of g over the
/// columns with f's new outputs held fixed: data-parallel stochastic gradient steps on the loss of
/// a half sweep (TowerSamples), where als() solves it. The Gram matrix of the side that is held
/// fixed is that of its outputs at the beginning of the pass. Linear towers over free embeddings
/// have the optimum of als().
///
/// A row without entries whose tower reads only free embeddings gets zeros, as in als().
///
/// @collective over a.comm(), all functions
template <Real R>
class DeepMf {
public:
    /// @param a  m x n; borrowed only while this is made
    /// @throws Error: as Trainer; (Fault::input) there are no entries, or the given towers read
    ///         something else than is given
    DeepMf(const BlockRowCsr<R>& a, const DeepMfOptions& options, const DeepMfData<R>& data);
    ~DeepMf();
    DeepMf(const DeepMf&) = delete;
    DeepMf& operator=(const DeepMf&) = delete;

    /// Trains; `steering` sees, after each epoch, the exact objective, and for explicit values the
    /// training RMSE.
    /// @throws Error: as Trainer
    void run(const Steering& steering);

    /// The statistics of the dense layers and tables of both towers, over at most so many rows of
    /// each side; see rankfold::layer_statistics().
    [[nodiscard]] std::vector<LayerStatistics> statistics(Index samples, WantedStatistics wanted);

    /// As of the last epoch; the network's parameters may be exchanged for others.
    [[nodiscard]] Network<R>& network();
    /// The outputs of the towers, as of the last epoch.
    [[nodiscard]] const Factors<R>& factors() const;

    /// Brings the factors up to date with the network and gives both away; run() is over.
    [[nodiscard]] DeepMfModel<R> finish();

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// All of it.
template <Real R>
[[nodiscard]] DeepMfModel<R> fit_deep_mf(const BlockRowCsr<R>& a, const DeepMfOptions& options,
                                         const DeepMfData<R>& data, const Steering& steering);

/// Factors of new rows by a forward pass of f.
/// @param towers  the network of a DeepMfModel, whose f reads entries or features alone
/// @param inputs  of the new rows, over the columns that the towers know
/// @param layout  of the new rows
/// @collective over comm
/// @throws Error (Fault::input), on all ranks alike: f reads something that is not given, or of
///         another width
template <Real R>
[[nodiscard]] BlockRows<R> fold_in_deep_mf(const Communicator& comm, Network<R>& towers,
                                           const TowerInputs<R>& inputs, const ShardLayout& layout,
                                           Index threads);

extern template class DeepMf<float>;
extern template class DeepMf<double>;

}  // namespace rankfold
