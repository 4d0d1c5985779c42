// A network's weight matrices replaced by low-rank factors.
#pragma once

#include <string>
#include <vector>

#include <rankfold/comm/communicator.hpp>
#include <rankfold/nn/network.hpp>

namespace rankfold {

/// How a weight matrix W (out x in) becomes U Vᵀ.
enum class CompressMethod {
    svd,  ///< truncated SVD: the best in the Frobenius norm
    als,  ///< alternating least squares on all elements of W
    nmf,  ///< nonnegative factors of W's positive and of its negative part
};

struct CompressOptions {
    CompressMethod method = CompressMethod::svd;
    double size = 0.25;  ///< weights after, as a share of those before
    Index sweeps = 30;   ///< als and nmf
    std::uint64_t seed = 1;
};

/// What compression does to one layer.
struct LayerPlan {
    std::string layer;
    Index out = 0;
    Index in = 0;
    Index inner = 0;            ///< columns of U and V; 0: the layer stays dense
    double relative_error = 0;  ///< ‖W − U Vᵀ‖_F / ‖W‖_F

    [[nodiscard]] Index weights() const { return inner == 0 ? out * in : inner * (out + in); }
};

/// Inner dimensions for all layers under one budget of weights.
///
/// Every layer begins with inner 1; then the next singular direction that explains most of its
/// layer's squared norm per weight is added, until the budget is used. A layer whose factors would
/// be as large as W stays (or becomes) dense, if the budget has room for that.
///
/// @param shapes   (out, in) of every layer
/// @param spectra  singular values of every layer's W, decreasing
/// @param budget   weights in all layers together
/// @return inner of every layer, 0 for dense
/// @throws Error (Fault::input), on all ranks alike: the budget is below inner 1 everywhere
[[nodiscard]] std::vector<Index> allocate_ranks(const std::vector<std::pair<Index, Index>>& shapes,
                                                const std::vector<std::vector<double>>& spectra,
                                                Index budget);

/// The network with its dense layers' weights factored; all else is copied. Every rank computes the
/// same factors from its own copy (ALS: over the ranks). `plan` gets a row per dense layer.
/// @collective over comm
/// @throws Error (Fault::input), on all ranks alike: no dense layer, or too small a budget
template <Real R>
[[nodiscard]] Network<R> compress(const Communicator& comm, Network<R>& network,
                                  const CompressOptions& options, std::vector<LayerPlan>& plan);

}  // namespace rankfold
