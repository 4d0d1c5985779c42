// The products that networks are made of: packed, blocked, with what follows them fused in.
#pragma once

#include <vector>

#include <rankfold/linalg/dense.hpp>
#include <rankfold/nn/kernels.hpp>

namespace rankfold {

/// Buffers for packed operands, kept from call to call, and the threads that share the work.
template <Real R>
struct ProductSpace {
    Index threads = 1;
    AlignedVector<R> panels;              ///< the right operand
    AlignedVector<R> quads;               ///< the left one, if it is shared by all threads
    std::vector<AlignedVector<R>> slabs;  ///< one a thread: what it packs itself, tiles of results
};

/// How a weight enters row_products(): with one output a row, or one a column.
enum class WeightSide { row_an_output, column_an_output };

/// What is done to a tile of results while it is in the cache, in this order.
template <Real R>
struct Epilogue {
    bool add = false;           ///< z's present value is added
    std::span<const R> bias{};  ///< if not empty: f(z + bias)
    Activation f = Activation::identity;
    MatrixView<const R> outputs{};  ///< if given: z · g'(outputs), see activation_gradient()
    Activation g = Activation::identity;
};

/// z ← epilogue(x Wᵀ), or epilogue(x W) for column_an_output.
///
/// The bits of a row of z depend on that row of x alone: neither on the number of rows, nor on the
/// threads. Both passes of a layer over all samples of a rank are one call each.
///
/// @param x  rows x inner
/// @param w  outputs x inner, or inner x outputs
/// @param z  rows x outputs
template <Real R>
void row_products(WeightSide side, MatrixView<const R> x, MatrixView<const R> w,
                  const Epilogue<R>& epilogue, MatrixView<R> z, ProductSpace<R>& space);

/// For every node of blocks: out ← dᵀ x over the node's rows, where a block's rows are summed in
/// order and the blocks in the order of tree_halves(). This is a layer's gradient.
///
/// @param d      rows x outputs
/// @param x      rows x inputs
/// @param ends   of the blocks among the rows, not decreasing; a block may be empty
/// @param nodes  disjoint ranges of blocks
/// @param out    outputs x inputs, ld == inputs, for each node
/// @param add    out + dᵀ x instead; for nodes of one block only
template <Real R>
void block_products(MatrixView<const R> d, MatrixView<const R> x, std::span<const Index> ends,
                    std::span<const Range> nodes, std::span<R* const> out, bool add,
                    ProductSpace<R>& space);

}  // namespace rankfold
