// Products of a large matrix with one of few columns, compiled for several instruction sets.
#pragma once

#include <rankfold/linalg/blas.hpp>

namespace rankfold {

/// C ← op(A) B, or C ← C + op(A) B, where B and C have few columns.
///
/// A library's product copies its operands into panels first, which takes as long as the product
/// itself when every element of A is used k times only; here A is read where it lies. Every element
/// of C is summed in the order of the inner dimension, whatever stands beside it.
///
/// @param a  m x n
/// @param b    n x k (m x k for Aᵀ)
/// @param c    m x k (n x k for Aᵀ)
/// @param add  whether C is added to
/// @cost 2 m n k flops
template <Real R>
void tall_product(Transpose op, MatrixView<const R> a, MatrixView<const R> b, MatrixView<R> c,
                  bool add = false);

}  // namespace rankfold
