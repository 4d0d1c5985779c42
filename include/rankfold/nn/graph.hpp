// What a network is made of: named inputs and a list of layers, as a value and as JSON text.
#pragma once

#include <string>
#include <vector>

#include <rankfold/nn/kernels.hpp>

namespace rankfold {

/// How a layer maps its input x (in) to the linear part of its output (out).
enum class LayerKind {
    dense,      ///< z = W x + b,       W: out x in
    factored,   ///< z = U (Vᵀ x) + b,  U: out x inner, V: in x inner
    embedding,  ///< the row of a trained table which an index input names; of a sparse input the
                ///< sum of the rows of its columns times its values, x T with T: in x out
    concat,     ///< its inputs side by side
    product,    ///< its inputs' elementwise product
    dot,        ///< the dot product of two inputs: one output
    sum,        ///< its inputs' sum
    norm,       ///< z = gain ∘ (x − mean x) / deviation of x + b
};

/// Where the values of a layer's factor come from.
enum class Origin {
    trained,   ///< a parameter
    fixed,     ///< stored with the parameters, but never changed
    external,  ///< handed in by whoever uses the network (see Network::attach), not stored with it
};

/// True for the layers that multiply by a matrix.
[[nodiscard]] constexpr bool has_map(LayerKind kind) noexcept {
    return kind == LayerKind::dense || kind == LayerKind::factored;
}

/// One layer: output = dropout(activation(linear part)); only dense, factored and norm ones have
/// bias, activation and dropout.
struct LayerSpec {
    std::string name;
    LayerKind kind = LayerKind::dense;
    std::vector<std::string> inputs;  ///< names of network inputs or of earlier layers
    Index outputs = 0;
    Activation activation = Activation::identity;
    double dropout = 0.0;  ///< probability of setting an output to 0 in training
    Index inner = 0;       ///< factored only
    Origin u = Origin::trained;
    Origin v = Origin::trained;
    std::string v_of{};  ///< factored: the earlier layer whose fixed V is also this one's, or none

    /// True if the layer has a V of its own among the parameters.
    [[nodiscard]] bool stores_v() const {
        return kind == LayerKind::factored && v != Origin::external && v_of.empty();
    }

    friend bool operator==(const LayerSpec&, const LayerSpec&) = default;
};

/// A network's named input: rows of this width, dense or sparse, or one index below `width` a
/// sample.
struct InputSpec {
    std::string name;
    Index width = 0;
    bool index = false;
    bool sparse = false;

    friend bool operator==(const InputSpec&, const InputSpec&) = default;
};

/// Inputs and layers; each layer uses inputs and earlier layers, and the last one is the output.
struct Graph {
    std::vector<InputSpec> inputs;
    std::vector<LayerSpec> layers;

    /// Reads the JSON that text() writes, and checks it.
    /// @throws Error (Fault::input), on all ranks alike: what is wrong with which layer
    [[nodiscard]] static Graph parse(const std::string& text);

    [[nodiscard]] std::string text() const;

    /// Width of the named input or layer. @throws Error (Fault::input) if there is none
    [[nodiscard]] Index width(const std::string& name) const;

    /// True if the name is that of an index or sparse input, which only embeddings read.
    [[nodiscard]] bool names_rows(const std::string& name) const;

    /// @throws Error (Fault::input), on all ranks alike, unless names are unique, sizes positive,
    ///         inputs known before they are used, and dropout in [0, 1)
    void check() const;

    friend bool operator==(const Graph&, const Graph&) = default;

private:
    static void check_inputs(const LayerSpec& layer);
    void check_shared(const LayerSpec& layer) const;
    void check_widths(const LayerSpec& layer) const;
};

/// A chain of dense layers hidden1, hidden2, …, output over one input of `width`.
/// @param dropout  of the hidden layers
[[nodiscard]] Graph dense_chain(Index width, const std::vector<Index>& hidden, Index outputs,
                                Activation activation, double dropout);

/// The same chain with a layer norm between the linear part of each hidden layer and its
/// activation.
[[nodiscard]] Graph with_layer_norms(const Graph& chain);

/// The name of a kind in graphs: dense, factored, …
[[nodiscard]] std::string kind_name(LayerKind kind);

/// The name of an activation in graphs and options: identity, relu, tanh, sigmoid, gelu, softmax.
[[nodiscard]] std::string activation_name(Activation f);
/// @throws Error (Fault::input), on all ranks alike, if there is none of this name
[[nodiscard]] Activation activation_of(const std::string& name);

}  // namespace rankfold
