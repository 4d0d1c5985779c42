// Bringing matrices that describe the same rows and columns into a model's layout.
#pragma once

#include <span>
#include <vector>

#include <rankfold/dist/block_rows.hpp>

namespace rankfold {

/// A matrix in the rows and columns of a model.
template <Real R>
struct Aligned {
    BlockRowCsr<R> matrix;
    /// Entries of rows or columns that the model does not know, on any ranks: with the model's
    /// index of the known one and −1 for the unknown one.
    std::vector<Triplet<R>> strangers;
};

/// Moves the rows of `a` to where `layout` has them, renumbered where maps are given.
///
/// @param layout   of the model's rows
/// @param cols     the model's columns
/// @param row_map  the model's index of every row of `a`, −1 for an unknown one; empty where they
///                 are the same: then a row beyond the model's is unknown
/// @param col_map  the same for columns
/// @pre a known row or column is not the image of two
/// @collective over a.comm()
template <Real R>
[[nodiscard]] Aligned<R> align(const BlockRowCsr<R>& a, const ShardLayout& layout, Index cols,
                               std::span<const Index> row_map, std::span<const Index> col_map);

/// The same matrix in the cost-balanced layout of its own entries, as it is when read from a file.
/// @collective over a.comm()
template <Real R>
[[nodiscard]] BlockRowCsr<R> rebalance(const BlockRowCsr<R>& a);

}  // namespace rankfold
