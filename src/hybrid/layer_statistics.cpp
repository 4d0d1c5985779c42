#include <rankfold/hybrid/layer_statistics.hpp>

#include <algorithm>
#include <numeric>

#include <rankfold/comm/reproducible_sum.hpp>
#include <rankfold/core/subscript.hpp>
#include <rankfold/linalg/blas.hpp>
#include <rankfold/nn/trainer.hpp>

namespace rankfold {

namespace {

constexpr Index tile = 128;  // samples of a micro-batch

/// Sums of one dense layer over the tiles of one block.
struct LayerSums {
    Index place = 0;   // of the layer
    Index source = 0;  // of its input: an input of the network if < 0, −1 − place; else a layer
    Index out = 0, in = 0;
    const ParameterTensor* weight = nullptr;
    std::vector<double> moments;  // in·in of x xᵀ, the upper triangle
    std::vector<double> squares;  // out·in of squared gradients
};

/// Where a layer's input comes from.
Index source_of(const Graph& graph, const std::string& name) {
    const auto layer = std::ranges::find(graph.layers, name, &LayerSpec::name);
    if (layer != graph.layers.end()) return layer - graph.layers.begin();
    return -1 - (std::ranges::find(graph.inputs, name, &InputSpec::name) - graph.inputs.begin());
}

template <Real R>
std::vector<LayerSums> dense_layers(const Network<R>& network) {
    const Graph& graph = network.graph();
    std::vector<LayerSums> layers;
    for (const ParameterTensor& tensor : network.arena().tensors()) {
        const LayerSpec& spec = graph.layers[at(tensor.layer)];
        if (spec.kind != LayerKind::dense || tensor.part != Part::weight) continue;
        layers.push_back({.place = tensor.layer,
                          .source = source_of(graph, spec.inputs.front()),
                          .out = tensor.rows,
                          .in = tensor.cols,
                          .weight = &tensor,
                          .moments = {},
                          .squares = {}});
    }
    return layers;
}

/// Adds one micro-batch to the sums.
template <Real R>
class Calibration {
public:
    Calibration(Network<R>& network, SamplesRef<R> source, Loss loss, WantedStatistics wanted)
        : network_{network}, source_{source}, loss_{loss}, wanted_{wanted} {
        network.prepare(tile * source.rows_per_sample());
        ws_ = network.workspace(tile * source.rows_per_sample(), Purpose::training);
    }

    void add(Range ids, std::vector<LayerSums>& layers) {
        const Targets<R> targets = load(ids);
        network_.forward(ws_);
        if (wanted_.moments) {
            for (LayerSums& layer : layers) add_moments(layer);
        }
        if (!wanted_.importance) return;
        const MatrixView<R> z = network_.output(ws_);
        const MatrixView<R> d = network_.d_output(ws_);
        if (d.data != z.data) std::copy_n(z.data, z.rows * z.cols, d.data);
        static_cast<void>(loss_gradient(loss_, targets, 1.0 / static_cast<double>(ids.size()), d));
        for (Index layer = network_.layers() - 1; layer >= 0; --layer) {
            network_.begin_backward(layer, ws_);
            const auto dense = std::ranges::find(layers, layer, &LayerSums::place);
            if (dense != layers.end()) add_squares(*dense);
            network_.input_gradient(layer, ws_);
        }
    }

private:
    Targets<R> load(Range ids) {
        names_.resize(at(ids.size()));
        std::iota(names_.begin(), names_.end(), ids.begin);
        ws_.rows = ids.size() * source_.rows_per_sample();
        ws_.ends.assign(1, ws_.rows);
        MicroBatch<R> batch;
        batch.samples = names_;
        show_inputs(ws_, {0, ws_.rows}, batch);
        source_.fill(batch);
        return std::move(batch.targets);
    }

    void add_moments(LayerSums& layer) {
        const DenseMatrix<R>& from = layer.source < 0 ? ws_.inputs[at(-1 - layer.source)]
                                                      : ws_.layers[at(layer.source)].output;
        DenseMatrix<double> x(ws_.rows, layer.in);
        for (Index i = 0; i < x.rows(); ++i) std::ranges::copy(from.row(i), x.row(i).begin());
        gram_upper(1.0, std::as_const(x).view(), 1.0,
                   MatrixView<double>(layer.moments.data(), layer.in, layer.in));
    }

    void add_squares(LayerSums& layer) {
        gradient_.resize(at(layer.weight->size()));
        R* const out[] = {gradient_.data()};
        const Range nodes[] = {{0, 1}};
        network_.gradient(*layer.weight, nodes, out, false, ws_);
        for (std::size_t e = 0; e < layer.squares.size(); ++e) {
            layer.squares[e] +=
                static_cast<double>(gradient_[e]) * static_cast<double>(gradient_[e]);
        }
    }

    Network<R>& network_;
    SamplesRef<R> source_;
    Loss loss_;
    WantedStatistics wanted_;
    Workspace<R> ws_;
    std::vector<Index> names_;
    AlignedVector<R> gradient_;
};

/// Sums the blocks' rows of all ranks and divides them by a count. @collective
void mean_over_blocks(const Communicator& comm, std::span<const double> rows, Index count,
                      DenseMatrix<double>& mean) {
    std::vector<double> total(mean.data().size());
    reproducible_sum(comm, rows, total);
    for (std::size_t e = 0; e < total.size(); ++e) {
        mean.data()[e] = total[e] / static_cast<double>(count);
    }
}

}  // namespace

template <Real R>
std::vector<LayerStatistics> layer_statistics(Network<R>& network, SamplesRef<R> source, Loss loss,
                                              Index samples, WantedStatistics wanted) {
    const Communicator& comm = source.comm();
    const auto phase = comm.ledger().phase("layer statistics");
    std::vector<LayerSums> layers = dense_layers(network);
    const Range blocks = even_part(source.blocks(), comm.size(), comm.rank());
    const Index each = std::max<Index>(1, samples / source.blocks());
    Index used = 0;
    Index tiles = 0;
    for (Index b = 0; b < source.blocks(); ++b) {
        const Index count = std::min(each, source.block(b).size());
        used += count;
        tiles += (count + tile - 1) / tile;
    }
    Calibration<R> calibration(network, source, loss, wanted);
    std::vector<std::vector<double>> moments(layers.size());  // one row a block
    std::vector<std::vector<double>> squares(layers.size());
    for (Index b = blocks.begin; b < blocks.end; ++b) {
        for (LayerSums& layer : layers) {
            layer.moments.assign(wanted.moments ? at(layer.in * layer.in) : 0, 0.0);
            layer.squares.assign(wanted.importance ? at(layer.out * layer.in) : 0, 0.0);
        }
        const Range block = source.block(b);
        const Index end = block.begin + std::min(each, block.size());
        for (Index i = block.begin; i < end; i += tile) {
            calibration.add({i, std::min(i + tile, end)}, layers);
        }
        for (std::size_t l = 0; l < layers.size(); ++l) {
            moments[l].insert(moments[l].end(), layers[l].moments.begin(), layers[l].moments.end());
            squares[l].insert(squares[l].end(), layers[l].squares.begin(), layers[l].squares.end());
        }
    }
    std::vector<LayerStatistics> found;
    for (std::size_t l = 0; l < layers.size(); ++l) {
        const Index in = layers[l].in;
        LayerStatistics statistics{.layer = network.graph().layers[at(layers[l].place)].name};
        if (wanted.moments) {
            statistics.moments = DenseMatrix<double>(in, in);
            mean_over_blocks(comm, moments[l], used * source.rows_per_sample(), statistics.moments);
            for (Index i = 0; i < in; ++i) {
                for (Index j = 0; j < i; ++j) statistics.moments(i, j) = statistics.moments(j, i);
            }
        }
        if (wanted.importance) {
            statistics.importance = DenseMatrix<double>(layers[l].out, in);
            mean_over_blocks(comm, squares[l], tiles, statistics.importance);
        }
        found.push_back(std::move(statistics));
    }
    return found;
}

template <Real R>
std::vector<LayerStatistics> moment_importance(const Communicator& comm, const Network<R>& network,
                                               const TensorList& state) {
    std::vector<LayerStatistics> found;
    for (const LayerSums& layer : dense_layers(network)) {
        const auto moments =
            std::ranges::find(state.tensors, "moments/second/" + layer.weight->path, &Tensor::path);
        if (moments == state.tensors.end()) continue;
        DenseMatrix<double> importance(layer.out, layer.in);
        const auto own = std::get<std::span<R>>(moments->data);
        std::ranges::copy(own, importance.data().begin() + moments->local.begin);
        // elsewhere 0 stands, so that the sum is exact
        if (!moments->replicated) comm.all_reduce(importance.data(), Reduce::sum);
        found.push_back({.layer = network.graph().layers[at(layer.place)].name,
                         .importance = std::move(importance)});
    }
    return found;
}

template std::vector<LayerStatistics> moment_importance(const Communicator&, const Network<float>&,
                                                        const TensorList&);
template std::vector<LayerStatistics> moment_importance(const Communicator&, const Network<double>&,
                                                        const TensorList&);
template std::vector<LayerStatistics> layer_statistics(Network<float>&, SamplesRef<float>, Loss,
                                                       Index, WantedStatistics);
template std::vector<LayerStatistics> layer_statistics(Network<double>&, SamplesRef<double>, Loss,
                                                       Index, WantedStatistics);

}  // namespace rankfold
