// Dense products, always on one thread: ranks and our own threads provide the parallelism.
#pragma once

#include <string>

#include <rankfold/linalg/views.hpp>

namespace rankfold {

enum class Transpose { no, yes };

/// C ← alpha op(A) op(B) + beta C, row-major.
///
/// The bits of a row of C depend on the number of rows in the call (BLAS chooses kernels by
/// shape), so callers that promise reproducibility pass the same tile on any number of ranks.
template <Real R>
void gemm(Transpose op_a, Transpose op_b, R alpha, MatrixView<const R> a, MatrixView<const R> b,
          R beta, MatrixView<R> c);

/// Upper triangle of C ← alpha Aᵀ A + beta C, row-major; A is m x k, C is k x k.
template <Real R>
void gram_upper(R alpha, MatrixView<const R> a, R beta, MatrixView<R> c);

/// Sets the BLAS library to one thread, whatever the environment says.
void use_one_blas_thread();

/// The BLAS library and the kernel set that it chose on this machine, e.g. "OpenBLAS 0.3.21 …".
[[nodiscard]] std::string blas_description();

/// Flop rate in GF/s of one n x n x n product on the calling rank: best of `repeats`.
template <Real R>
[[nodiscard]] double measure_gemm_gflops(int repeats, Index n = 2048);

}  // namespace rankfold
