// Factors of an earlier run as the start of another: of other rows, columns, or another k.
#pragma once

#include <span>

#include <rankfold/dist/factors.hpp>

namespace rankfold {

/// The same product X diag(s) Yᵀ as X' Y'ᵀ with at most k columns, for a start with that k.
///
/// Factors with more than k columns are cut to the best approximation of their product of rank k
/// (Eckart and Young): with XᵀX = A Aᵀ, YᵀY = B Bᵀ and AᵀB ≈ U Σ Vᵀ cut to k terms, X' = X A⁻ᵀ U √Σ
/// and Y' = Y B⁻ᵀ V √Σ. Others keep their columns; singular values are shared out by their roots.
/// Biases and means are left out.
/// @collective over the factors' communicator @cost 2 (m + n) k₀² flops for the two Grams
template <Real R>
[[nodiscard]] Factors<R> cut_factors(const Factors<R>& factors, Index k);

/// Puts rows of `from` into `to`, whose other rows and further columns stay as they are.
///
/// @param map  for every local row of `to` its row in `from`, −1 for none
/// @pre from.cols() <= to.cols()
/// @collective over from.comm() @cost every row that is needed elsewhere travels once
template <Real R>
void place_rows(const BlockRows<R>& from, std::span<const Index> map, MatrixView<R> to);

}  // namespace rankfold
