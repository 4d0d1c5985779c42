// The kernels of products of networks, compiled for several instruction sets, chosen at run time.
#pragma once

#include <rankfold/linalg/views.hpp>

namespace rankfold {

/// Columns of the right operand of a product are packed in panels of this many: element (k, c) of a
/// panel stands at k · panel_width + c, in whole cache lines.
template <Real R>
inline constexpr Index panel_width = 128 / static_cast<Index>(sizeof(R));

/// Rows of the left operand come in quads of this many. In a packed quad, element (r, k) stands at
/// 4 k + r.
inline constexpr Index quad_rows = 4;

/// The left operand: packed quads, or rows as they stand.
template <Real R>
struct TileRows {
    const R* data;
    Index quad_stride;     ///< elements from one quad to the next
    Index row_stride = 1;  ///< from one row of a quad to the next; 1: packed, or one term a row
};

/// What is added to a product, one after the other: arrays of which each is laid out like the
/// result, with its own row stride.
template <Real R>
struct Addends {
    const R* first = nullptr;
    Index ld = 0;
    Index count = 0;
    Index step = 0;  ///< elements from one array to the next
};

/// Where a product is put: 4 quads x panel_width, with row stride ld.
template <Real R>
struct TileTarget {
    R* data;
    Index ld;
    /// To memory past the caches, if its rows are whole cache lines; end_streams() must follow
    /// before another thread or process reads it.
    bool streams = false;
};

/// out ← A B + addends for one panel B. Each element is summed over k in order, so its bits do not
/// depend on what else is computed with it.
///
/// @param quads  of rows of A
/// @param b      a packed panel of `depth` rows
/// @param cols   of the panel that are wanted; others of `out` may be left alone
template <Real R>
void tile_product(Index depth, const TileRows<R>& a, Index quads, const R* b, Index cols,
                  const Addends<R>& addends, const TileTarget<R>& out);

/// Makes what this thread has streamed visible to all.
void end_streams();

/// to(j, i) ← from(i, j).
template <Real R>
void transpose_into(MatrixView<const R> from, MatrixView<R> to);

}  // namespace rankfold
