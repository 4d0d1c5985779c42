// Products with tall matrices of few columns, compiled for several instruction sets.
#pragma once

#include <rankfold/linalg/views.hpp>

namespace rankfold {

/// C ← C + op(A) B for a large A that is read once, and B and C of few columns; row-major.
///
/// BLAS packs A first, which costs as much as a product with some 80 columns; here nothing is
/// packed. Every element of C is its sum in the order of B's rows, so its bits do not depend on the
/// number of rows of C in the call.
///
/// @param a           m x n, or n x m if `transposed`
/// @param b           n x k
/// @param[in,out] c   m x k
/// @cost 2 m n k flops
template <Real R>
void add_tall_product(bool transposed, MatrixView<const R> a, MatrixView<const R> b,
                      MatrixView<R> c);

}  // namespace rankfold
