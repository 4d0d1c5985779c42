#include <rankfold/linalg/sparse_kernels.hpp>

#include <algorithm>

#include <hwy/cache_control.h>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "sparse_kernels.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace rankfold::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Columns of B that are taken at once: so many that the rows of a block of columns of A stay in
/// the second cache.
constexpr Index columns_at_once = 16;

/// How many entries before its use a row of B is fetched.
constexpr Index fetch_ahead = 16;

template <class R>
using SparseTag = hn::CappedTag<R, 64 / sizeof(R)>;

/// VECS vectors of columns of C; b and c point at the first of these columns.
template <Index VECS, class R>
HWY_INLINE void times_vectors(CsrView<R> a, const R* HWY_RESTRICT b, Index ldb, R* HWY_RESTRICT c,
                              Index ldc, bool add) {
    const SparseTag<R> d;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    const Index last = a.row_ptr[a.rows];
    for (Index i = 0; i < a.rows; ++i) {
        if (add && a.row_ptr[i] == a.row_ptr[i + 1]) continue;
        R* HWY_RESTRICT out = c + i * ldc;
        hn::Vec<SparseTag<R>> sum[VECS];
        HWY_UNROLL(8)
        for (Index v = 0; v < VECS; ++v) {
            sum[v] = add ? hn::LoadU(d, out + v * lanes) : hn::Zero(d);
        }
        for (Index e = a.row_ptr[i]; e < a.row_ptr[i + 1]; ++e) {
            const R* next = b + a.col_idx[std::min(e + fetch_ahead, last - 1)] * ldb;
            HWY_UNROLL(8)
            for (Index v = 0; v < VECS; ++v) hwy::Prefetch(next + v * lanes);
            const R* HWY_RESTRICT from = b + a.col_idx[e] * ldb;
            const auto value = hn::Set(d, a.values[e]);
            HWY_UNROLL(8)
            for (Index v = 0; v < VECS; ++v) {
                sum[v] = hn::MulAdd(value, hn::LoadU(d, from + v * lanes), sum[v]);
            }
        }
        HWY_UNROLL(8)
        for (Index v = 0; v < VECS; ++v) hn::StoreU(sum[v], d, out + v * lanes);
    }
}

/// The columns that are left over, fewer than a vector has lanes.
template <class R>
HWY_INLINE void times_rest(CsrView<R> a, const R* HWY_RESTRICT b, Index ldb, R* HWY_RESTRICT c,
                           Index ldc, Index cols, bool add) {
    for (Index i = 0; i < a.rows; ++i) {
        R* HWY_RESTRICT out = c + i * ldc;
        if (!add) std::fill(out, out + cols, R{0});
        for (Index e = a.row_ptr[i]; e < a.row_ptr[i + 1]; ++e) {
            const R* HWY_RESTRICT from = b + a.col_idx[e] * ldb;
            for (Index j = 0; j < cols; ++j) out[j] += a.values[e] * from[j];
        }
    }
}

template <class R>
void times_dense(CsrView<R> a, MatrixView<const R> b, MatrixView<R> c, bool add) {
    const Index lanes = static_cast<Index>(hn::Lanes(SparseTag<R>()));
    Index j = 0;
    const auto run = [&]<Index VECS>() {
        for (; j + VECS * lanes <= b.cols; j += VECS * lanes) {
            times_vectors<VECS>(a, b.data + j, b.ld, c.data + j, c.ld, add);
        }
    };
    if (4 * lanes <= columns_at_once) run.template operator()<4>();
    if (2 * lanes <= columns_at_once) run.template operator()<2>();
    run.template operator()<1>();
    if (j < b.cols) times_rest(a, b.data + j, b.ld, c.data + j, c.ld, b.cols - j, add);
}

#define RANKFOLD_KERNELS(R, suffix)                                                             \
    void times_dense_##suffix(CsrView<R> a, MatrixView<const R> b, MatrixView<R> c, bool add) { \
        times_dense<R>(a, b, c, add);                                                           \
    }
RANKFOLD_KERNELS(float, f)
RANKFOLD_KERNELS(double, d)
#undef RANKFOLD_KERNELS

}  // namespace rankfold::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rankfold {

#define RANKFOLD_DISPATCH(R, suffix)                                                          \
    HWY_EXPORT(times_dense_##suffix);                                                         \
    template <>                                                                               \
    void sparse_times_dense(CsrView<R> a, MatrixView<const R> b, MatrixView<R> c, bool add) { \
        RANKFOLD_EXPECT(c.rows == a.rows && c.cols == b.cols);                                \
        if (a.rows > 0) HWY_DYNAMIC_DISPATCH(times_dense_##suffix)(a, b, c, add);             \
    }
RANKFOLD_DISPATCH(float, f)
RANKFOLD_DISPATCH(double, d)
#undef RANKFOLD_DISPATCH

}  // namespace rankfold
#endif  // HWY_ONCE
