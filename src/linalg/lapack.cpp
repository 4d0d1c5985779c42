#include <rankfold/linalg/lapack.hpp>

#include <algorithm>
#include <type_traits>

extern "C" {
void spotrf_(const char* uplo, const int* n, float* a, const int* lda, int* info);
void dpotrf_(const char* uplo, const int* n, double* a, const int* lda, int* info);
void spotrs_(const char* uplo, const int* n, const int* nrhs, const float* a, const int* lda,
             float* b, const int* ldb, int* info);
void dpotrs_(const char* uplo, const int* n, const int* nrhs, const double* a, const int* lda,
             double* b, const int* ldb, int* info);
}

namespace rankfold {

// LAPACK's matrices are column-major: our upper triangle is its lower one, and our rows of
// right-hand sides are its columns.

template <Real R>
Index cholesky_upper(MatrixView<R> a, R tiny) {
    R largest = 0;
    for (Index i = 0; i < a.rows; ++i) largest = std::max(largest, a(i, i));
    const int n = narrow<int>(a.rows);
    const int lda = narrow<int>(a.ld);
    int info = 0;
    if constexpr (std::is_same_v<R, float>) {
        spotrf_("L", &n, a.data, &lda, &info);
    } else {
        dpotrf_("L", &n, a.data, &lda, &info);
    }
    if (info > 0) return info - 1;
    for (Index i = 0; i < a.rows; ++i) {
        if (!(a(i, i) * a(i, i) > tiny * largest)) return i;
    }
    return -1;
}

template <Real R>
void cholesky_solve_rows(MatrixView<const R> u, MatrixView<R> x) {
    RANKFOLD_EXPECT(x.ld == x.cols && u.rows == x.cols);
    if (x.rows == 0) return;
    const int n = narrow<int>(u.rows);
    const int lda = narrow<int>(u.ld);
    const int nrhs = narrow<int>(x.rows);
    int info = 0;
    if constexpr (std::is_same_v<R, float>) {
        spotrs_("L", &n, &nrhs, u.data, &lda, x.data, &n, &info);
    } else {
        dpotrs_("L", &n, &nrhs, u.data, &lda, x.data, &n, &info);
    }
}

template Index cholesky_upper(MatrixView<float>, float);
template Index cholesky_upper(MatrixView<double>, double);
template void cholesky_solve_rows(MatrixView<const float>, MatrixView<float>);
template void cholesky_solve_rows(MatrixView<const double>, MatrixView<double>);

}  // namespace rankfold
