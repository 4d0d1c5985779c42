// A prior for factors: a network from side features to k dimensions.
#pragma once

#include <vector>

#include <rankfold/nn/network.hpp>
#include <rankfold/nn/trainer.hpp>

namespace rankfold {

/// Samples that are rows of features, with rows of factors as targets.
template <Real R>
class FeatureSamples {
public:
    /// @collective over features.comm()
    FeatureSamples(const BlockRows<R>& features, Index blocks);

    [[nodiscard]] const Communicator& comm() const { return features_.comm(); }
    [[nodiscard]] Index samples() const { return features_.rows(); }
    [[nodiscard]] Index blocks() const { return features_.layout().shards(); }
    void fill(MicroBatch<R>& batch) const;

    /// @collective
    void set_targets(const BlockRows<R>& factors);

private:
    BlockRows<R> features_;  // its shards are the blocks
    BlockRows<R> targets_;
};

/// Writes a network's outputs for every local row of `in` into that of `out`.
/// @pre both have the same layout; in.cols() inputs, out.cols() outputs
template <Real R>
void apply_to_rows(Network<R>& network, const BlockRows<R>& in, BlockRows<R>& out);

/// e: predicts the factors of rows from their features, trained by Σ ‖x_i − e(s_i)‖².
template <Real R>
class Prior {
public:
    /// @param network   features.cols() inputs, k outputs; borrowed
    /// @param features  one row a factor row
    /// @param layout    of the factors
    /// @collective over features.comm()
    Prior(Network<R>& network, const BlockRows<R>& features, const ShardLayout& layout,
          Index blocks, const TrainOptions& options);

    /// Writes e(s_i) for every local row. @pre `out` has the factors' layout
    void evaluate(BlockRows<R>& out) const { apply_to_rows(*network_, features_, out); }

    /// Some epochs towards these factors; `round` counts those before. @collective
    void train(const BlockRows<R>& factors, Index round, Index epochs);

    [[nodiscard]] TensorList state() { return trainer_.state(0); }

private:
    Network<R>* network_;
    BlockRows<R> features_;  // in the factors' layout
    FeatureSamples<R> samples_;
    Trainer<R> trainer_;
};

extern template void apply_to_rows(Network<float>&, const BlockRows<float>&, BlockRows<float>&);
extern template void apply_to_rows(Network<double>&, const BlockRows<double>&, BlockRows<double>&);
extern template class FeatureSamples<float>;
extern template class FeatureSamples<double>;
extern template class Prior<float>;
extern template class Prior<double>;

}  // namespace rankfold
