// A network's weight matrices replaced by low-rank factors.
#pragma once

#include <limits>
#include <string>
#include <vector>

#include <rankfold/comm/communicator.hpp>
#include <rankfold/hybrid/layer_statistics.hpp>
#include <rankfold/nn/network.hpp>

namespace rankfold {

/// How a weight matrix W (out x in) becomes U Vᵀ.
enum class CompressMethod {
    svd,             ///< truncated SVD: the best in the Frobenius norm
    activation_svd,  ///< least mean of ‖W x − U Vᵀ x‖² over the layer's inputs x: needs moments
    als,  ///< least Σ w_ij (W − U Vᵀ)_ij²; the weights w are the importance, if given
    nmf,  ///< nonnegative factors of W's positive and of its negative part
};

/// svd, asvd, als, nmf.
[[nodiscard]] std::string method_name(CompressMethod method);
/// @throws Error (Fault::input), on all ranks alike, if there is none of this name
[[nodiscard]] CompressMethod compress_method(const std::string& name);

/// What a layer costs, in any unit: weights, or seconds.
struct LayerPrice {
    double dense = 0.0;
    double base = 0.0;       ///< factored with inner = 0
    double direction = 0.0;  ///< for each column of U and V
    /// The inner dimension from which on it is no smaller than the dense layer.
    Index too_wide = std::numeric_limits<Index>::max();

    [[nodiscard]] double factored(Index inner) const {
        return base + direction * static_cast<double>(inner);
    }
    /// True if factors of this inner dimension are no cheaper or no smaller than the layer.
    [[nodiscard]] bool as_good_dense(Index inner) const {
        return factored(inner) >= dense || inner >= too_wide;
    }
};

/// Layers of one shape: (outputs of all layers stacked, inputs); or a table: (rows, width).
struct StackShape {
    std::vector<std::string> layers;
    Index out = 0;
    Index in = 0;
    bool table = false;

    /// The inner dimension from which on the factors are no smaller.
    [[nodiscard]] Index too_wide() const { return (out * in + out + in - 1) / (out + in); }
};

struct CompressOptions {
    CompressMethod method = CompressMethod::svd;
    /// Budget, as a share of what all layers cost dense.
    double size = 0.25;
    /// Layers of equal input width share one V: [W₁; W₂; …] ≈ [U₁; U₂; …] Vᵀ. V is not trained on.
    bool joint = false;
    Index sweeps = 30;  ///< als and nmf
    std::uint64_t seed = 1;
    /// Prices of stacks(); empty: weights.
    std::vector<LayerPrice> prices{};
};

/// What compression does to one layer.
struct LayerPlan {
    std::string layer;
    Index out = 0;
    Index in = 0;
    Index inner = 0;            ///< columns of U and V; 0: the layer stays dense
    double relative_error = 0;  ///< ‖W − U Vᵀ‖_F / ‖W‖_F
    bool shares_v = false;      ///< V is that of an earlier layer
    bool table = false;         ///< an embedding: `out` rows of `in` numbers

    [[nodiscard]] Index weights() const {
        return inner == 0 ? out * in : inner * (out + (shares_v ? 0 : in));
    }
};

/// Below so many outputs or inputs two products are not faster than one: such layers stay dense.
inline constexpr Index least_width_to_factor = 16;

/// The dense layers as they are factorised: one by one, or joint by their input width; then the
/// tables of embeddings, each by itself.
[[nodiscard]] std::vector<StackShape> stacks(const Graph& graph, bool joint);

/// The price of each in weights; one too small to get faster costs the same factored.
[[nodiscard]] std::vector<LayerPrice> weight_prices(const std::vector<StackShape>& stacks);

/// Inner dimensions for all layers under one budget.
///
/// Every layer that is cheaper factored with inner 1 than dense begins so; then the next singular
/// direction that explains most of its layer's squared norm for its price is added, until the
/// budget is used. A layer whose factors would cost as much as W stays (or becomes) dense, if the
/// budget has room for that.
///
/// @param spectra  singular values of every layer's W, decreasing
/// @return inner of every layer, 0 for dense
/// @throws Error (Fault::input), on all ranks alike: the budget is below inner 1 everywhere
[[nodiscard]] std::vector<Index> allocate_ranks(const std::vector<LayerPrice>& prices,
                                                const std::vector<std::vector<double>>& spectra,
                                                double budget);

/// The network with its dense layers' weights and its embeddings' tables factored; all else is
/// copied. Every rank computes the same factors from its own copy (ALS: over the ranks). `plan`
/// gets a row per dense layer and table.
///
/// A table T ≈ U Vᵀ becomes a table U, the layer <name>_table, below a dense layer of its name with
/// the weight V and no bias yet: the layers above read what they read before. Its rows count by how
/// often they are visited in activation_svd (Σ_i c_i ‖t_i − V u_i‖² is least) and als.
///
/// Of the activation-aware SVD, Ŵ = A Aᵀ W with the leading left singular vectors A of W C^½, where
/// C are the moments: the best of its rank for Σ ‖W x − Ŵ x‖², without an inverse of C. The ranks
/// of all layers are allocated by the singular values of W, of W C^½ for activation_svd.
///
/// @param statistics  of all dense layers, or empty for methods that do not need them
/// @collective over comm
/// @throws Error (Fault::input), on all ranks alike: no dense layer, or too small a budget
template <Real R>
[[nodiscard]] Network<R> compress(const Communicator& comm, Network<R>& network,
                                  const CompressOptions& options,
                                  const std::vector<LayerStatistics>& statistics,
                                  std::vector<LayerPlan>& plan);

/// The same, but the dense layers keep their kind: W becomes the matrix U Vᵀ. Layers that would
/// stay dense stay as they are. @collective over comm
template <Real R>
void project_weights(const Communicator& comm, Network<R>& network, const CompressOptions& options,
                     const std::vector<LayerStatistics>& statistics = {});

}  // namespace rankfold
