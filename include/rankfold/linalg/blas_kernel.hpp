// Whether BLAS knows the processor that it runs on.
#pragma once

#include <string>

namespace rankfold {

/// What to change if BLAS is older than this processor and took the kernels of another one; empty
/// if it is not.
[[nodiscard]] std::string blas_kernel_advice();

}  // namespace rankfold
