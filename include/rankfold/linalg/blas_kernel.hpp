// Whether the BLAS in use computes with kernels that were made for processors like this one.
#pragma once

#include <string>

namespace rankfold {

/// To be called first in main, before MPI starts: where OpenBLAS does not know the processor,
/// because it is younger, and would compute with kernels without AVX, several times slower, the
/// program is started once more with OPENBLAS_CORETYPE set to the best kernels that the processor
/// can execute. Does nothing where that variable is set, with other BLAS, or where there is nothing
/// better.
/// @param argv  of main
void use_suitable_blas_kernels(char** argv);

/// Empty, or what to do about it: OpenBLAS computes with kernels for older processors all the same.
[[nodiscard]] std::string blas_kernel_advice();

}  // namespace rankfold
