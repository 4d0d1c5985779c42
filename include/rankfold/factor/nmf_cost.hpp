// What a sweep of NMF costs on a grid, and which grid is best.
#pragma once

#include <cstddef>

#include <rankfold/comm/process_grid.hpp>
#include <rankfold/core/cost.hpp>
#include <rankfold/dist/block_rows.hpp>

namespace rankfold {

/// A nonnegative factorization as far as its cost is concerned.
struct NmfSize {
    Index rows = 0, cols = 0;            ///< m, n
    Index nnz = 0;                       ///< m n of a dense matrix
    Index k = 0;                         ///< number of factors
    Index row_tiles = 4, col_tiles = 4;  ///< see tile_count()
    std::size_t word = 4;                ///< bytes of an element
};

/// The size of the factorization of a matrix by k factors.
template <Real R>
[[nodiscard]] NmfSize nmf_size(const BlockRows<R>& a, Index k);
template <Real R>
[[nodiscard]] NmfSize nmf_size(const BlockRowCsr<R>& a, Index k);

/// One sweep on a grid of pr x pc ranks, p = pr pc: both products, updates and Gram matrices.
///
///     flops   4 nnz k / p + 2 k² (m + n) / p
///     bytes   2 k words · (m (pc − 1) + n (pr − 1)) / p + 32 k² (p − 1) / p
///
/// each for the rank that has most: tiles are not cut, so a side of the grid that does not divide
/// them leaves some ranks with more; and a rank sends one partial product for every node of the
/// tree of tiles that it holds, which is one if pr and pc are powers of two.
[[nodiscard]] Cost nmf_sweep_cost(const NmfSize& size, GridShape grid);

/// The grid of `ranks` ranks with the least seconds a sweep; of equals the one with most rows.
[[nodiscard]] GridShape choose_grid(const NmfSize& size, int ranks, const MachineSpeed& speed = {});

}  // namespace rankfold
