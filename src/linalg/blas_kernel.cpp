#include <rankfold/linalg/blas_kernel.hpp>

#include <rankfold/core/error.hpp>
#include <rankfold/linalg/blas.hpp>
#include <rankfold/linalg/row_kernels.hpp>

namespace rankfold {

std::string blas_kernel_advice() {
    const std::string blas = blas_description();
    const std::string kernel = blas.substr(blas.rfind(' ') + 1);
    const bool old = kernel == "Prescott" || kernel == "Core2" || kernel == "Penryn" ||
                     kernel == "Dunnington" || kernel == "Nehalem" || kernel == "Generic";
    const std::string vectors = vector_target();
    const bool widest = vectors.starts_with("AVX3");
    if (!old || !(widest || vectors == "AVX2")) return "";
    return concat(blas, " was made for older processors than this one and is several times slower ",
                  "than it could be: export OPENBLAS_CORETYPE=", widest ? "SkylakeX" : "Haswell");
}

}  // namespace rankfold
