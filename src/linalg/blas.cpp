#include <rankfold/linalg/blas.hpp>

#include <algorithm>
#include <cmath>

#include <cblas.h>
#include <dlfcn.h>

#include <rankfold/core/ledger.hpp>
#include <rankfold/linalg/dense.hpp>

namespace rankfold {

namespace {

/// A function of the BLAS library that not every BLAS has.
template <class Function>
Function* optional_symbol(const char* name) {
    return reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
}

}  // namespace

template <Real R>
void gemm(Transpose op_a, Transpose op_b, R alpha, MatrixView<const R> a, MatrixView<const R> b,
          R beta, MatrixView<R> c) {
    const Index inner = op_a == Transpose::no ? a.cols : a.rows;
    RANKFOLD_EXPECT((op_a == Transpose::no ? a.rows : a.cols) == c.rows);
    RANKFOLD_EXPECT((op_b == Transpose::no ? b.cols : b.rows) == c.cols);
    RANKFOLD_EXPECT((op_b == Transpose::no ? b.rows : b.cols) == inner);
    if (c.rows == 0 || c.cols == 0) return;
    const auto ta = op_a == Transpose::no ? CblasNoTrans : CblasTrans;
    const auto tb = op_b == Transpose::no ? CblasNoTrans : CblasTrans;
    const int m = narrow<int>(c.rows);
    const int n = narrow<int>(c.cols);
    const int k = narrow<int>(inner);
    const auto ld = [](Index x) { return std::max(1, narrow<int>(x)); };
    if constexpr (std::same_as<R, float>) {
        cblas_sgemm(CblasRowMajor, ta, tb, m, n, k, alpha, a.data, ld(a.ld), b.data, ld(b.ld), beta,
                    c.data, ld(c.ld));
    } else {
        cblas_dgemm(CblasRowMajor, ta, tb, m, n, k, alpha, a.data, ld(a.ld), b.data, ld(b.ld), beta,
                    c.data, ld(c.ld));
    }
}

template <Real R>
void gram_upper(R alpha, MatrixView<const R> a, R beta, MatrixView<R> c) {
    RANKFOLD_EXPECT(c.rows == a.cols && c.cols == a.cols);
    if (c.rows == 0) return;
    const int n = narrow<int>(c.rows);
    const int k = narrow<int>(a.rows);
    const int lda = std::max(1, narrow<int>(a.ld));
    if constexpr (std::same_as<R, float>) {
        cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, n, k, alpha, a.data, lda, beta, c.data,
                    narrow<int>(c.ld));
    } else {
        cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, n, k, alpha, a.data, lda, beta, c.data,
                    narrow<int>(c.ld));
    }
}

void use_one_blas_thread() {
    if (auto* set = optional_symbol<void(int)>("openblas_set_num_threads")) set(1);
    if (auto* set = optional_symbol<void(int)>("MKL_Set_Num_Threads")) set(1);
    if (auto* set = optional_symbol<void(int)>("bli_thread_set_num_threads")) set(1);
}

std::string blas_description() {
    std::string text = "BLAS";
    if (auto* config = optional_symbol<char*()>("openblas_get_config")) {
        const std::string whole = config();
        text = whole.substr(0, whole.find(' ', whole.find(' ') + 1));
    }
    if (auto* core = optional_symbol<char*()>("openblas_get_corename")) {
        text += concat(" ", core());
    }
    return text;
}

template <Real R>
double measure_gemm_gflops(int repeats, Index n) {
    DenseMatrix<R> a(n, n);
    DenseMatrix<R> b(n, n);
    DenseMatrix<R> c(n, n);
    for (Index i = 0; i < n * n; ++i) {
        a.data()[static_cast<std::size_t>(i)] = static_cast<R>(i % 7) - R{3};
        b.data()[static_cast<std::size_t>(i)] = static_cast<R>(i % 5) - R{2};
    }
    const double flops = 2.0 * std::pow(static_cast<double>(n), 3.0);
    double best = 0.0;
    for (int i = 0; i < repeats; ++i) {
        const double start = monotonic_seconds();
        gemm<R>(Transpose::no, Transpose::no, R{1}, a.view(), b.view(), R{0}, c.view());
        best = std::max(best, flops / (monotonic_seconds() - start) * 1e-9);
    }
    return best;
}

template void gemm(Transpose, Transpose, float, MatrixView<const float>, MatrixView<const float>,
                   float, MatrixView<float>);
template void gemm(Transpose, Transpose, double, MatrixView<const double>, MatrixView<const double>,
                   double, MatrixView<double>);
template void gram_upper(float, MatrixView<const float>, float, MatrixView<float>);
template void gram_upper(double, MatrixView<const double>, double, MatrixView<double>);
template double measure_gemm_gflops<float>(int, Index);
template double measure_gemm_gflops<double>(int, Index);

}  // namespace rankfold
