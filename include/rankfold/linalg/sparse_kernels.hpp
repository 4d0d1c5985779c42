// Products of sparse rows with dense matrices, compiled for several instruction sets.
#pragma once

#include <rankfold/linalg/views.hpp>

namespace rankfold {

/// C ← A B, or C ← C + A B, for a sparse A and row-major dense B and C.
///
/// The bits of a row of C depend on that row of A alone. Rows of B are fetched ahead into the
/// cache.
///
/// @param a    rows x n; col_idx are rows of B
/// @param b    n x k
/// @param c    rows x k
/// @param add  whether C's values count
/// @cost 2 nnz k flops
template <Real R>
void sparse_times_dense(CsrView<R> a, MatrixView<const R> b, MatrixView<R> c, bool add);

}  // namespace rankfold
