// The fixed binary tree in which partial sums are added, on any number of ranks.
#pragma once

#include <utility>
#include <vector>

#include <rankfold/core/types.hpp>

namespace rankfold {

/// The two halves of a node of the binary tree over blocks: the left one has the largest power of
/// two of blocks that leaves some for the right one. @pre node.size() > 1
[[nodiscard]] std::pair<Range, Range> tree_halves(Range node);

/// The largest nodes of the tree over [0, blocks) that lie in `mine`, in order.
///
/// A rank that holds the blocks `mine` adds the blocks of each of its nodes itself, and hands on
/// one partial sum a node; with a power of two of ranks and blocks that is one.
[[nodiscard]] std::vector<Range> tree_nodes(Index blocks, Range mine);

/// The additions (to, from) that turn the sums of the nodes `held` into that of all of
/// [0, blocks), in order; the result stands where the sum of held[0] stood.
/// @pre `held` are the tree_nodes of consecutive parts of [0, blocks)
[[nodiscard]] std::vector<std::pair<Index, Index>> tree_additions(Index blocks,
                                                                  const std::vector<Range>& held);

}  // namespace rankfold
