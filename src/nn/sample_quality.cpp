#include <rankfold/nn/sample_quality.hpp>

#include <algorithm>
#include <array>
#include <numeric>
#include <tuple>

#include <rankfold/comm/reproducible_sum.hpp>
#include <rankfold/core/subscript.hpp>

namespace rankfold {

namespace {

constexpr Index tile = 256;

/// One tile of a block: (Σ loss, number of right answers).
template <Real R>
std::pair<double, double> measure(const Network<R>& network, SamplesRef<R> samples, Loss loss,
                                  Range ids, Workspace<R>& ws) {
    std::vector<Index> names(at(ids.size()));
    std::iota(names.begin(), names.end(), ids.begin);
    ws.rows = ids.size() * samples.rows_per_sample();
    MicroBatch<R> batch;
    batch.samples = names;
    for (auto& input : ws.inputs) {
        batch.inputs.push_back(input.view().row_block({0, std::min(ws.rows, input.rows())}));
    }
    for (auto& indices : ws.indices) {
        batch.indices.push_back(std::span(indices).first(std::min(at(ws.rows), indices.size())));
    }
    samples.fill(batch);
    network.forward(ws);
    const MatrixView<R> z = network.output(ws);
    double right = 0.0;
    if (loss == Loss::classes) {
        for (Index i = 0; i < z.rows; ++i) {
            const auto row = z.row(i);
            const auto best = std::ranges::max_element(row) - row.begin();
            right += best == batch.targets.labels[at(i)] ? 1.0 : 0.0;
        }
    }
    return {loss_gradient(loss, batch.targets, 1.0, z), right};
}

}  // namespace

template <Real R>
SampleQuality sample_quality(const Network<R>& network, SamplesRef<R> samples, Loss loss,
                             Index threads) {
    const Communicator& comm = samples.comm();
    std::vector<Range> tiles;  // cut within blocks, so that they do not depend on the ranks
    const Range blocks = even_part(samples.blocks(), comm.size(), comm.rank());
    for (Index b = blocks.begin; b < blocks.end; ++b) {
        const Range block = samples.block(b);
        for (Index i = block.begin; i < block.end; i += tile) {
            tiles.push_back({i, std::min(i + tile, block.end)});
        }
    }
    std::vector<double> sums(2 * tiles.size());
#pragma omp parallel num_threads(static_cast <int>(threads))
    {
        Workspace<R> ws = network.workspace(tile * samples.rows_per_sample(), Purpose::inference);
#pragma omp for schedule(dynamic)
        for (std::size_t t = 0; t < tiles.size(); ++t) {
            std::tie(sums[2 * t], sums[2 * t + 1]) = measure(network, samples, loss, tiles[t], ws);
        }
    }
    for (const Range& t : tiles) {
        comm.ledger().add_flops(network.forward_flops(t.size() * samples.rows_per_sample()));
    }
    std::array<double, 2> total{};
    reproducible_sum(comm, sums, total);
    const auto n = static_cast<double>(samples.samples());
    return {total[0] / n, total[1] / n};
}

template SampleQuality sample_quality(const Network<float>&, SamplesRef<float>, Loss, Index);
template SampleQuality sample_quality(const Network<double>&, SamplesRef<double>, Loss, Index);

}  // namespace rankfold
