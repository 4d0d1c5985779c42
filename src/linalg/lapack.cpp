#include <rankfold/linalg/lapack.hpp>

#include <algorithm>
#include <cmath>
#include <type_traits>

#include <rankfold/linalg/blas.hpp>

extern "C" {
void spotrf_(const char* uplo, const int* n, float* a, const int* lda, int* info);
void dpotrf_(const char* uplo, const int* n, double* a, const int* lda, int* info);
void spotrs_(const char* uplo, const int* n, const int* nrhs, const float* a, const int* lda,
             float* b, const int* ldb, int* info);
void dpotrs_(const char* uplo, const int* n, const int* nrhs, const double* a, const int* lda,
             double* b, const int* ldb, int* info);
void dgesdd_(const char* jobz, const int* m, const int* n, double* a, const int* lda, double* s,
             double* u, const int* ldu, double* vt, const int* ldvt, double* work, const int* lwork,
             int* iwork, int* info);
void dsyevd_(const char* jobz, const char* uplo, const int* n, double* a, const int* lda, double* w,
             double* work, const int* lwork, int* iwork, const int* liwork, int* info);
void dbdsdc_(const char* uplo, const char* compq, const int* n, double* d, double* e, double* u,
             const int* ldu, double* vt, const int* ldvt, double* q, int* iq, double* work,
             int* iwork, int* info);
void dtrtri_(const char* uplo, const char* diag, const int* n, double* a, const int* lda,
             int* info);
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

SmallSvd small_svd(MatrixView<const double> a) {
    const Index r = std::min(a.rows, a.cols);
    SmallSvd result{DenseMatrix<double>(a.rows, r),
                    std::vector<double>(static_cast<std::size_t>(r)),
                    DenseMatrix<double>(r, a.cols)};
    if (r == 0) return result;
    DenseMatrix<double> copy(a.rows, a.cols);
    for (Index i = 0; i < a.rows; ++i) std::ranges::copy(a.row(i), copy.row(i).begin());
    // column-major, the copy is Aᵀ = V S Uᵀ: LAPACK's U is our V, and its V our U
    const int m = narrow<int>(a.cols);
    const int n = narrow<int>(a.rows);
    const int k = narrow<int>(r);
    std::vector<int> integers(static_cast<std::size_t>(8 * r));
    std::vector<double> work(1);
    int info = 0;
    for (int lwork = -1;;) {
        dgesdd_("S", &m, &n, copy.data().data(), &m, result.s.data(), result.vt.data().data(), &m,
                result.u.data().data(), &k, work.data(), &lwork, integers.data(), &info);
        if (lwork != -1 || info != 0) break;
        lwork = narrow<int>(static_cast<Index>(work[0]) + 1);
        work.resize(static_cast<std::size_t>(lwork));
    }
    if (info != 0) {
        throw Error(Fault::check,
                    concat("the singular value decomposition of a ", a.rows, " x ", a.cols,
                           " matrix failed (", info, "); is every number finite?"));
    }
    for (Index c = 0; c < r; ++c) {
        Index largest = 0;
        for (Index i = 1; i < a.rows; ++i) {
            if (std::abs(result.u(i, c)) > std::abs(result.u(largest, c))) largest = i;
        }
        if (result.u(largest, c) >= 0.0) continue;
        for (Index i = 0; i < a.rows; ++i) result.u(i, c) = -result.u(i, c);
        for (double& v : result.vt.row(c)) v = -v;
    }
    return result;
}

SymmetricEigen symmetric_eigen(MatrixView<const double> a) {
    RANKFOLD_EXPECT(a.rows == a.cols);
    const int n = narrow<int>(a.rows);
    SymmetricEigen result{std::vector<double>(static_cast<std::size_t>(n)),
                          DenseMatrix<double>(n, n)};
    if (n == 0) return result;
    DenseMatrix<double> q(n, n);  // row-major upper triangle = column-major lower triangle
    for (Index i = 0; i < n; ++i) std::ranges::copy(a.row(i), q.row(i).begin());
    std::vector<double> work(1);
    std::vector<int> integers(1);
    int info = 0;
    for (int lwork = -1, liwork = -1;;) {
        dsyevd_("V", "L", &n, q.data().data(), &n, result.values.data(), work.data(), &lwork,
                integers.data(), &liwork, &info);
        if (lwork != -1 || info != 0) break;
        lwork = narrow<int>(static_cast<Index>(work[0]) + 1);
        liwork = integers[0];
        work.resize(static_cast<std::size_t>(lwork));
        integers.resize(static_cast<std::size_t>(liwork));
    }
    if (info != 0) {
        throw Error(Fault::check,
                    concat("the eigenvalues of a symmetric ", n, " x ", n,
                           " matrix were not found (", info, "); is every number finite?"));
    }
    std::ranges::reverse(result.values);
    for (Index i = 0; i < n; ++i) {  // LAPACK's column i is our row i, in increasing order
        for (Index j = 0; j < n; ++j) result.vectors(j, n - 1 - i) = q(i, j);
    }
    return result;
}

namespace {

/// In tiles, whose rows and columns stay in the cache.
void transpose_square(MatrixView<double> a) {
    constexpr Index tile = 32;
    for (Index i0 = 0; i0 < a.rows; i0 += tile) {
        for (Index j0 = i0; j0 < a.rows; j0 += tile) {
            for (Index i = i0; i < std::min(i0 + tile, a.rows); ++i) {
                for (Index j = std::max(j0, i + 1); j < std::min(j0 + tile, a.rows); ++j) {
                    std::swap(a(i, j), a(j, i));
                }
            }
        }
    }
}

}  // namespace

BidiagonalSvd bidiagonal_svd(bool upper, std::span<double> diagonal, std::span<double> other,
                             bool vectors) {
    const auto r = static_cast<Index>(diagonal.size());
    RANKFOLD_EXPECT(r == 0 || static_cast<Index>(other.size()) == r - 1);
    BidiagonalSvd result{std::vector<double>(diagonal.size())};
    if (r == 0) return result;
    const Index size = vectors ? r : 0;
    result.u_transposed = DenseMatrix<double>(size, size);
    result.v_transposed = DenseMatrix<double>(size, size);
    const int n = narrow<int>(r);
    const Index words = vectors ? 3 * r * r + 4 * r : 4 * r;
    AlignedVector<double> work(static_cast<std::size_t>(narrow<int>(words)));
    std::vector<int> integers(static_cast<std::size_t>(8 * r));
    double no_element = 0.0;
    double* second = other.empty() ? &no_element : other.data();
    int info = 0;
    // column-major, U's columns are our rows of Uᵀ; Vᵀ's columns, rows of V, are turned below
    dbdsdc_(upper ? "U" : "L", vectors ? "I" : "N", &n, diagonal.data(), second,
            result.u_transposed.data().data(), &n, result.v_transposed.data().data(), &n, nullptr,
            nullptr, work.data(), integers.data(), &info);
    if (info != 0) {
        throw Error(Fault::check, concat("the singular values of a bidiagonal ", r, " x ", r,
                                         " matrix were not found (", info, ")"));
    }
    std::ranges::copy(diagonal, result.s.begin());
    transpose_square(result.v_transposed.view());
    return result;
}

template <Real R>
void apply_reflectors(MatrixView<const R> v, std::span<const R> tau, MatrixView<R> x) {
    const Index w = v.rows;
    RANKFOLD_EXPECT(v.cols == x.cols && std::ssize(tau) == w && w <= v.cols);
    if (w == 0 || x.rows == 0) return;
    DenseMatrix<R> whole(w, v.cols);  // V with its ones and zeros
    for (Index t = 0; t < w; ++t) {
        std::copy(v.row(t).begin() + t + 1, v.row(t).end(), whole.row(t).begin() + t + 1);
        whole(t, t) = R{1};
    }
    const MatrixView<const R> vectors = std::as_const(whole).view();
    DenseMatrix<R> gram(w, w);
    gemm<R>(Transpose::no, Transpose::yes, R{1}, vectors, vectors, R{0}, gram.view());
    DenseMatrix<R> core(w, w);  // T of H_1 … H_w = I − Vᵀ T V, upper triangular, column by column
    for (Index j = 0; j < w; ++j) {
        const R factor = tau[static_cast<std::size_t>(j)];
        for (Index i = 0; i < j; ++i) {
            R sum = 0;
            for (Index t = i; t < j; ++t) sum += core(i, t) * gram(j, t);
            core(i, j) = -factor * sum;
        }
        core(j, j) = factor;
    }
    DenseMatrix<R> along(x.rows, w);
    DenseMatrix<R> scaled(x.rows, w);
    gemm<R>(Transpose::no, Transpose::yes, R{1}, x, vectors, R{0}, along.view());
    gemm<R>(Transpose::no, Transpose::yes, R{1}, std::as_const(along).view(),
            std::as_const(core).view(), R{0}, scaled.view());
    gemm<R>(Transpose::no, Transpose::no, R{-1}, std::as_const(scaled).view(), vectors, R{1}, x);
}

void invert_upper(MatrixView<double> u) {
    if (u.rows == 0) return;
    const int n = narrow<int>(u.rows);
    const int lda = narrow<int>(u.ld);
    int info = 0;
    dtrtri_("L", "N", &n, u.data, &lda, &info);
    RANKFOLD_EXPECT(info == 0);
}

template Index cholesky_upper(MatrixView<float>, float);
template Index cholesky_upper(MatrixView<double>, double);
template void cholesky_solve_rows(MatrixView<const float>, MatrixView<float>);
template void cholesky_solve_rows(MatrixView<const double>, MatrixView<double>);
template void apply_reflectors(MatrixView<const float>, std::span<const float>, MatrixView<float>);
template void apply_reflectors(MatrixView<const double>, std::span<const double>,
                               MatrixView<double>);

}  // namespace rankfold
