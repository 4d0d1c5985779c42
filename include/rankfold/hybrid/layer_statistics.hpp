// What flows through a network's layers, and how much its loss depends on each weight.
#pragma once

#include <vector>

#include <rankfold/nn/network.hpp>
#include <rankfold/nn/samples.hpp>

namespace rankfold {

/// Of one dense layer z = W x + b, over calibration samples; or of a table. What was not wanted is
/// 0 x 0.
struct LayerStatistics {
    std::string layer;
    DenseMatrix<double> moments{};     ///< in x in: mean of x xᵀ, without centring
    DenseMatrix<double> importance{};  ///< out x in: mean over micro-batches of (∂ loss / ∂ W)²
    std::vector<double> visits{};      ///< of a table: how often each row is read, in any unit
};

/// Which statistics are wanted: the moments of a wide layer are large.
struct WantedStatistics {
    bool moments = true;
    bool importance = true;
};

/// The statistics of every dense layer, in the order of the graph, over the first samples of every
/// block, `samples` in all. `importance` is what Adam's second moment tends to while the weights
/// stand still: the diagonal of the empirical Fisher matrix.
///
/// @param samples  at most; calibration
/// @collective over source.comm(); the same bits on any number of ranks
/// @cost a forward pass, and a backward one for the importance; in² doubles (moments) and out·in
///       (importance) a layer and block of this rank
template <Real R>
[[nodiscard]] std::vector<LayerStatistics> layer_statistics(Network<R>& network,
                                                            SamplesRef<R> source, Loss loss,
                                                            Index samples,
                                                            WantedStatistics wanted = {});

/// The importance of every dense layer's weights as Adam has it in training: its second moments,
/// from a Trainer's state. Empty if the state has none (SGD). @collective over comm
template <Real R>
[[nodiscard]] std::vector<LayerStatistics> moment_importance(const Communicator& comm,
                                                             const Network<R>& network,
                                                             const TensorList& state);

}  // namespace rankfold
