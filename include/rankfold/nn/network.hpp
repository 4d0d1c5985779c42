// A network: layers over one parameter arena, run on workspaces that hold one micro-batch each.
#pragma once

#include <cstdint>
#include <optional>

#include <rankfold/nn/layers.hpp>

namespace rankfold {

/// What one layer holds of a batch.
template <Real R>
struct LayerSpace {
    DenseMatrix<R> output;    ///< (rows, outputs)
    DenseMatrix<R> d_output;  ///< (rows, outputs); none if the gradient may replace the output
    /// (rows, outputs) what the derivative needs and the output does not tell: gelu's linear part,
    /// and the shares of a softmax before dropout.
    DenseMatrix<R> kept_back;
    DenseMatrix<R> unit;             ///< (rows, outputs) of a norm: x̂
    std::vector<R> spread;           ///< (rows) of a norm: 1 / deviation
    std::vector<std::uint8_t> kept;  ///< (rows, outputs) if the layer has dropout: 1 where kept
    MapSpace<R> map;
};

/// Everything that a batch of at most `capacity` rows needs on its way; allocated once. In training
/// a batch consists of blocks of rows, the micro-batches; its bits depend on the blocks, but not on
/// which of them are computed together.
template <Real R>
struct Workspace {
    Index rows = 0;  ///< of the batch at hand
    Index capacity = 0;
    std::vector<Index> ends;                  ///< of its blocks; the last is `rows`
    std::vector<DenseMatrix<R>> inputs;       ///< (capacity, width), in the order of the graph
    std::vector<std::vector<Index>> indices;  ///< (capacity) for inputs that are indices
    std::vector<std::vector<SparseRow<R>>> sparse;  ///< (capacity) for sparse inputs; borrowed
    std::vector<LayerSpace<R>> layers;
    ProductSpace<R> products;
};

enum class Purpose { training, inference };

/// By what the dropout masks of a batch are drawn.
struct DropoutKey {
    std::uint64_t seed = 1;
    Index epoch = 0;
    std::span<const Index> samples;  ///< global ids, one a row
};

/// Layers with their parameters. The const functions are thread-safe on different workspaces.
///
/// One step is: prepare(); forward(); the loss overwrites d_output() with its gradient; then from
/// the last layer to the first begin_backward(), gradient() of each of the layer's parameter
/// tensors but tables, and input_gradient().
template <Real R>
class Network {
public:
    /// All parameters zero. @throws Error (Fault::input) if the graph is not sound
    explicit Network(Graph graph);

    [[nodiscard]] const Graph& graph() const noexcept { return graph_; }
    [[nodiscard]] ParameterArena<R>& arena() noexcept { return arena_; }
    [[nodiscard]] const ParameterArena<R>& arena() const noexcept { return arena_; }
    [[nodiscard]] Index layers() const noexcept { return static_cast<Index>(layers_.size()); }
    [[nodiscard]] Index outputs() const { return graph_.layers.back().outputs; }

    /// Draws the weights: uniform with the variance of He et al. (2015) before a ReLU, else of
    /// Glorot and Bengio (2010), keyed by seed, layer and element. Biases become 0.
    void initialize(std::uint64_t seed);

    /// Hands in the external factor V (in x inner) of a layer. @pre the graph says so
    void attach(const std::string& layer, DenseMatrix<R> v);

    /// Must be called after the parameters have changed, before forward(). `rows` is the usual size
    /// of a micro-batch and fixes how factored layers compute.
    void prepare(Index rows);

    /// @param blocks  in training: of a batch
    /// @pre prepare() was called
    [[nodiscard]] Workspace<R> workspace(Index capacity, Purpose purpose, Index blocks = 1) const;

    /// Runs ws.inputs through all layers; with `dropout` as in training.
    void forward(Workspace<R>& ws, const DropoutKey* dropout = nullptr) const;

    /// The last layer's output (rows x outputs).
    [[nodiscard]] MatrixView<R> output(Workspace<R>& ws) const;
    /// Where the gradient with respect to the output goes; may be the output itself.
    [[nodiscard]] MatrixView<R> d_output(Workspace<R>& ws) const;

    /// Turns the gradient with respect to a layer's output into that of its linear part.
    void begin_backward(Index layer, Workspace<R>& ws) const;
    /// The gradient of a parameter tensor that is no table, summed over the blocks of each node in
    /// the order of tree_halves().
    /// @param out  tensor.size() elements for each node
    /// @param add  to what stands there; for nodes of one block only
    void gradient(const ParameterTensor& tensor, std::span<const Range> nodes,
                  std::span<R* const> out, bool add, Workspace<R>& ws) const;
    /// The gradient with respect to an embedding's outputs, one row for each sample.
    [[nodiscard]] MatrixView<const R> table_gradient(Index layer, const Workspace<R>& ws) const {
        return d_of(layer, ws);
    }
    /// Adds the layer's part of the gradient with respect to the outputs of the layers before it.
    void input_gradient(Index layer, Workspace<R>& ws) const;

    /// Flops of products for `rows` samples.
    [[nodiscard]] double forward_flops(Index rows) const;
    [[nodiscard]] double backward_flops(Index rows) const;

    /// The first layer whose output holds a number that is not finite in one of these rows, and the
    /// first such row.
    [[nodiscard]] std::optional<std::pair<std::string, Index>> first_non_finite(
        const Workspace<R>& ws, Range rows) const;

private:
    struct Source {
        Index place = 0;        // an input if < 0: input −1 − place; else a layer
        bool adds = false;      // its gradient has been begun by a later layer
        bool finishes = false;  // f' of the source is applied with the gradient
    };
    struct Layer {
        std::optional<LinearMap<R>> map;  // of dense and factored ones
        std::vector<Source> sources;
        bool finished = false;      // f' has been applied when begin_backward() is called
        MatrixView<R> bias{};       // 1 x outputs
        MatrixView<R> gain{};       // norm: 1 x outputs
        MatrixView<R> table{};      // embedding: all rows x outputs
        DenseMatrix<R> attached{};  // external V
        std::vector<R> no_bias{};   // outputs zeros, where the bias was added before
    };

    static std::vector<ParameterTensor> declare(const Graph& graph);
    void bind(Index layer);
    void plan_backward();
    [[nodiscard]] MatrixView<const R> input_of(Index layer, const Workspace<R>& ws,
                                               std::size_t source = 0) const;
    [[nodiscard]] std::vector<MatrixView<const R>> inputs_of(Index layer,
                                                             const Workspace<R>& ws) const;
    /// What f' of a layer is computed from.
    [[nodiscard]] MatrixView<const R> derived_from(Index layer, const Workspace<R>& ws) const;
    void forward_layer(Index layer, Workspace<R>& ws) const;
    [[nodiscard]] MatrixView<const R> d_of(Index layer, const Workspace<R>& ws) const;
    void drop(Index layer, Workspace<R>& ws, const DropoutKey& key) const;

    Graph graph_;
    ParameterArena<R> arena_;
    std::vector<Layer> layers_;
};

extern template class Network<float>;
extern template class Network<double>;

}  // namespace rankfold
