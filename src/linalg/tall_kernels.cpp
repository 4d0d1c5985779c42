#include <rankfold/linalg/tall_kernels.hpp>

#include <algorithm>

// One instruction set of each generation is enough, and halves the time to compile this.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tall_kernels.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace rankfold::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Rows of B that are taken at once: they stay in the second cache while all rows of C are met.
/// Fewer where A is transposed, so that its lines, of which a tile uses a part, stay in the first.
constexpr Index rows_at_once = 512;
constexpr Index rows_at_once_transposed = 64;
/// Rows of C whose sums are held in registers.
constexpr Index sums_at_once = 5;
/// Vectors of columns held in registers, beside which the operands must find room.
constexpr Index widest = HWY_TARGET == HWY_AVX3 ? 5 : 2;

/// A as it is met: element (i, e) of op(A) is data[i * row_step + e * step].
template <class R>
struct Left {
    const R* data;
    Index row_step;
    Index step;
};

/// ROWS rows and VECS vectors of C += op(A) B over n rows of B.
template <Index ROWS, Index VECS, class D, class R = hn::TFromD<D>>
HWY_INLINE void add_tile(D d, Index n, Left<R> a, const R* HWY_RESTRICT b, Index ldb,
                         R* HWY_RESTRICT c, Index ldc) {
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    hn::Vec<D> sum[ROWS][VECS];
    HWY_UNROLL(8)
    for (Index r = 0; r < ROWS; ++r) {
        HWY_UNROLL(8)
        for (Index v = 0; v < VECS; ++v) sum[r][v] = hn::LoadU(d, c + r * ldc + v * lanes);
    }
    for (Index e = 0; e < n; ++e) {
        hn::Vec<D> right[VECS];
        HWY_UNROLL(8)
        for (Index v = 0; v < VECS; ++v) right[v] = hn::LoadU(d, b + e * ldb + v * lanes);
        HWY_UNROLL(8)
        for (Index r = 0; r < ROWS; ++r) {
            const auto left = hn::Set(d, a.data[r * a.row_step + e * a.step]);
            HWY_UNROLL(8)
            for (Index v = 0; v < VECS; ++v) sum[r][v] = hn::MulAdd(left, right[v], sum[r][v]);
        }
    }
    HWY_UNROLL(8)
    for (Index r = 0; r < ROWS; ++r) {
        HWY_UNROLL(8)
        for (Index v = 0; v < VECS; ++v) hn::StoreU(sum[r][v], d, c + r * ldc + v * lanes);
    }
}

/// All columns that whole vectors of D cover, from column `j` on, which moves on; ROWS rows of C.
template <Index ROWS, Index VECS, class D, class R = hn::TFromD<D>>
HWY_INLINE void add_columns(D d, Index n, Left<R> a, const R* b, Index ldb, R* c, Index ldc,
                            Index cols, Index& j) {
    const Index width = VECS * static_cast<Index>(hn::Lanes(d));
    for (; j + width <= cols; j += width) {
        add_tile<ROWS, VECS>(d, n, a, b + j, ldb, c + j, ldc);
    }
}

/// Narrower and narrower vectors take the columns that are left.
template <Index ROWS, class R>
HWY_INLINE void add_rows(Index n, Left<R> a, const R* b, Index ldb, R* c, Index ldc, Index cols) {
    Index j = 0;
    const hn::CappedTag<R, 64 / sizeof(R)> full;
    add_columns<ROWS, widest>(full, n, a, b, ldb, c, ldc, cols, j);
    if constexpr (widest > 2) add_columns<ROWS, 2>(full, n, a, b, ldb, c, ldc, cols, j);
    add_columns<ROWS, 1>(full, n, a, b, ldb, c, ldc, cols, j);
    add_columns<ROWS, 1>(hn::CappedTag<R, 8>(), n, a, b, ldb, c, ldc, cols, j);
    add_columns<ROWS, 1>(hn::CappedTag<R, 4>(), n, a, b, ldb, c, ldc, cols, j);
    add_columns<ROWS, 1>(hn::CappedTag<R, 1>(), n, a, b, ldb, c, ldc, cols, j);
}

template <class R>
void add_product(bool transposed, MatrixView<const R> a, MatrixView<const R> b, MatrixView<R> c) {
    const Index at_once = transposed ? rows_at_once_transposed : rows_at_once;
    for (Index e = 0; e < b.rows; e += at_once) {
        const Index n = std::min(at_once, b.rows - e);
        const Left<R> left =
            transposed ? Left<R>{a.data + e * a.ld, 1, a.ld} : Left<R>{a.data + e, a.ld, 1};
        const R* right = b.data + e * b.ld;
        Index i = 0;
        for (; i + sums_at_once <= c.rows; i += sums_at_once) {
            add_rows<sums_at_once>(n,
                                   Left<R>{left.data + i * left.row_step, left.row_step, left.step},
                                   right, b.ld, c.data + i * c.ld, c.ld, b.cols);
        }
        for (; i < c.rows; ++i) {
            add_rows<1>(n, Left<R>{left.data + i * left.row_step, left.row_step, left.step}, right,
                        b.ld, c.data + i * c.ld, c.ld, b.cols);
        }
    }
}

#define RANKFOLD_KERNELS(R, suffix)                                                          \
    void add_product_##suffix(bool transposed, MatrixView<const R> a, MatrixView<const R> b, \
                              MatrixView<R> c) {                                             \
        add_product<R>(transposed, a, b, c);                                                 \
    }
RANKFOLD_KERNELS(float, f)
RANKFOLD_KERNELS(double, d)
#undef RANKFOLD_KERNELS

}  // namespace rankfold::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rankfold {

#define RANKFOLD_DISPATCH(R, suffix)                                                     \
    HWY_EXPORT(add_product_##suffix);                                                    \
    template <>                                                                          \
    void add_tall_product(bool transposed, MatrixView<const R> a, MatrixView<const R> b, \
                          MatrixView<R> c) {                                             \
        RANKFOLD_EXPECT((transposed ? a.cols : a.rows) == c.rows &&                      \
                        (transposed ? a.rows : a.cols) == b.rows && c.cols == b.cols);   \
        HWY_DYNAMIC_DISPATCH(add_product_##suffix)(transposed, a, b, c);                 \
    }
RANKFOLD_DISPATCH(float, f)
RANKFOLD_DISPATCH(double, d)
#undef RANKFOLD_DISPATCH

}  // namespace rankfold
#endif  // HWY_ONCE
