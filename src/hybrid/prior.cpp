#include <rankfold/hybrid/prior.hpp>

#include <algorithm>

namespace rankfold {

namespace {

constexpr Index tile = 256;

}  // namespace

template <Real R>
FeatureSamples<R>::FeatureSamples(const BlockRows<R>& features, Index blocks)
    : features_{redistribute(features,
                             ShardLayout::even(features.rows(), blocks, features.comm().size()))} {}

template <Real R>
void FeatureSamples<R>::set_targets(const BlockRows<R>& factors) {
    targets_ = redistribute(factors, features_.layout());
}

template <Real R>
void FeatureSamples<R>::fill(MicroBatch<R>& batch) const {
    batch.targets.values.clear();
    for (std::size_t i = 0; i < batch.samples.size(); ++i) {
        const Index row = batch.samples[i] - features_.first_row();
        std::ranges::copy(features_.local().row(row),
                          batch.inputs.front().row(static_cast<Index>(i)).begin());
        const auto target = targets_.local().row(row);
        batch.targets.values.insert(batch.targets.values.end(), target.begin(), target.end());
    }
}

template <Real R>
Prior<R>::Prior(Network<R>& network, const BlockRows<R>& features, const ShardLayout& layout,
                Index blocks, const TrainOptions& options)
    : network_{&network},
      features_{redistribute(features, layout)},
      samples_{features, blocks},
      trainer_{network, samples_, Loss::squared, options} {}

template <Real R>
void apply_to_rows(Network<R>& network, const BlockRows<R>& in, BlockRows<R>& out) {
    RANKFOLD_EXPECT(in.local().rows() == out.local().rows());
    network.prepare(tile);
    Workspace<R> ws = network.workspace(tile, Purpose::inference);
    for (Index s = out.shards().begin; s < out.shards().end; ++s) {
        const MatrixView<const R> from = in.shard(s);
        const MatrixView<R> to = out.shard(s);
        for (Index first = 0; first < from.rows; first += tile) {
            ws.rows = std::min(tile, from.rows - first);
            for (Index i = 0; i < ws.rows; ++i) {
                std::ranges::copy(from.row(first + i), ws.inputs.front().row(i).begin());
            }
            network.forward(ws);
            const auto z = network.output(ws);
            for (Index i = 0; i < ws.rows; ++i) {
                std::ranges::copy(z.row(i), to.row(first + i).begin());
            }
        }
    }
}

template <Real R>
void Prior<R>::train(const BlockRows<R>& factors, Index round, Index epochs) {
    samples_.set_targets(factors);
    for (Index e = 0; e < epochs; ++e) trainer_.epoch(round * epochs + e);
}

template void apply_to_rows(Network<float>&, const BlockRows<float>&, BlockRows<float>&);
template void apply_to_rows(Network<double>&, const BlockRows<double>&, BlockRows<double>&);
template class FeatureSamples<float>;
template class FeatureSamples<double>;
template class Prior<float>;
template class Prior<double>;

}  // namespace rankfold
