#include <rankfold/linalg/blas_kernel.hpp>

#include <cstdlib>
#include <filesystem>
#include <system_error>

#include <unistd.h>

#include <rankfold/core/error.hpp>
#include <rankfold/linalg/blas.hpp>
#include <rankfold/linalg/row_kernels.hpp>

namespace rankfold {

namespace {

/// The name of OpenBLAS's kernels for what this processor has, if those in use are for one without
/// AVX; else empty.
std::string better_kernels() {
    const std::string blas = blas_description();
    const std::string kernel = blas.substr(blas.rfind(' ') + 1);
    // what OpenBLAS falls back to on processors that it does not know
    const bool old = kernel == "Prescott" || kernel == "Core2" || kernel == "Penryn" ||
                     kernel == "Dunnington" || kernel == "Nehalem" || kernel == "Generic";
    const std::string vectors = vector_target();
    if (!old) return "";
    return vectors.starts_with("AVX3") ? "SkylakeX" : vectors == "AVX2" ? "Haswell" : "";
}

}  // namespace

void use_suitable_blas_kernels(char** argv) {
    constexpr const char* choice = "OPENBLAS_CORETYPE";
    if (std::getenv(choice) != nullptr) return;
    const std::string better = better_kernels();
    std::error_code failed;
    const auto program = std::filesystem::read_symlink("/proc/self/exe", failed);
    if (better.empty() || failed) return;
    ::setenv(choice, better.c_str(), 1);
    ::execv(program.c_str(), argv);
    ::unsetenv(choice);  // it could not be started again: go on, slowly
}

std::string blas_kernel_advice() {
    const std::string better = better_kernels();
    if (better.empty()) return "";
    return concat(blas_description(),
                  " was made for older processors than this one and is several times slower ",
                  "than it could be: export OPENBLAS_CORETYPE=", better);
}

}  // namespace rankfold
