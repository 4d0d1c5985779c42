// Neural matrix factorization: a factorization and a network over the same pairs, side by side.
#pragma once

#include <vector>

#include <rankfold/dist/factors.hpp>
#include <rankfold/nn/network.hpp>

namespace rankfold {

struct NeuMfShape {
    Index factors = 32;                      ///< width of the embeddings that are multiplied
    Index embedding = 128;                   ///< width of those that the tower reads
    std::vector<Index> hidden{128, 64, 32};  ///< of the tower
    double dropout = 0.0;
};

/// The graph of NeuMF (He et al., WWW 2017) for an m x n matrix, with one output:
///
///     row ──┬─ p_i ─┐
///           │       ├─ p_i ∘ q_j ────────────────────┐
///     col ─┬┼─ q_j ─┘                                ├─ w · [ , ] + b
///          │└─ u_i ─┐                                │
///          └── v_j ─┴─ [u_i, v_j] ─ ReLU tower ──────┘
[[nodiscard]] Graph neumf_graph(Index m, Index n, const NeuMfShape& shape);

/// The network with its starting values: tables of deviation 0.01, as the authors', the rest as
/// Network::initialize().
template <Real R>
[[nodiscard]] Network<R> neumf_network(Index m, Index n, const NeuMfShape& shape,
                                       std::uint64_t seed);

/// Puts the leading factors of a factorization into p and q, one weight for all of them into w, and
/// 0 for the tower's, so that the network begins with the factorization's order; the weight and b
/// make logits of scores between 0 and 1.
/// @param factors  of the network's rows and columns, in their order
/// @param network  the same on all ranks
/// @collective over the factors' communicator
/// @throws Error (Fault::input), on all ranks alike: factors with biases
template <Real R>
void start_from_factors(const Factors<R>& factors, Network<R>& network);

}  // namespace rankfold
