#include <rankfold/linalg/tall_product.hpp>

#include <algorithm>

#include <hwy/cache_control.h>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tall_product.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace rankfold::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class R>
using Tag = hn::CappedTag<R, 64 / sizeof(R)>;

// Register tile: as many rows of C as leave room for the operands in 32 (AVX-512) or 16 registers.
constexpr bool many_registers = HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL;
constexpr Index widest = many_registers ? 5 : 2;
template <Index VECS>
constexpr Index tile_rows = (many_registers ? 24 : 12) / VECS > 12
                                ? 12
                                : (many_registers ? 24 : 12) / VECS;

/// Where a register tile finds its operands: element e of the inner dimension of row r of op(A)
/// stands at a[r · next_row + e · next].
template <class R>
struct Tile {
    const R* a;
    Index next_row;
    Index next;
    const R* b;
    Index ldb;
    R* c;
    Index ldc;
    Index inner;  ///< elements of the inner dimension
    Index width;  ///< columns, if they do not fill their vector
    bool first;   ///< C is written, else added to
    Index fetch;  ///< elements ahead in A that are fetched into the cache; 0: none
};

enum class Vectors { full, partial };

template <Index ROWS, Index VECS, Vectors KIND = Vectors::full, class R>
HWY_INLINE void run_tile(const Tile<R>& t) {
    const Tag<R> d;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    const auto load = [&](const R* from) {
        if constexpr (KIND == Vectors::full) return hn::LoadU(d, from);
        return hn::MaskedLoad(hn::FirstN(d, static_cast<std::size_t>(t.width)), d, from);
    };
    const auto store = [&](hn::Vec<Tag<R>> sum, R* to) {
        if constexpr (KIND == Vectors::full) {
            hn::StoreU(sum, d, to);
        } else {
            hn::BlendedStore(sum, hn::FirstN(d, static_cast<std::size_t>(t.width)), d, to);
        }
    };
    hn::Vec<Tag<R>> sum[ROWS][VECS];
    HWY_UNROLL(12)
    for (Index r = 0; r < ROWS; ++r) {
        HWY_UNROLL(5)
        for (Index v = 0; v < VECS; ++v) {
            sum[r][v] = t.first ? hn::Zero(d) : load(t.c + r * t.ldc + v * lanes);
        }
    }
    const R* HWY_RESTRICT a = t.a;
    const R* HWY_RESTRICT b = t.b;
    for (Index e = 0; e < t.inner; ++e, a += t.next, b += t.ldb) {
        if (t.fetch > 0) hwy::Prefetch(a + t.fetch);
        hn::Vec<Tag<R>> right[VECS];
        HWY_UNROLL(5)
        for (Index v = 0; v < VECS; ++v) right[v] = load(b + v * lanes);
        HWY_UNROLL(12)
        for (Index r = 0; r < ROWS; ++r) {
            const auto left = hn::Set(d, a[r * t.next_row]);
            HWY_UNROLL(5)
            for (Index v = 0; v < VECS; ++v) sum[r][v] = hn::MulAdd(left, right[v], sum[r][v]);
        }
    }
    HWY_UNROLL(12)
    for (Index r = 0; r < ROWS; ++r) {
        HWY_UNROLL(5)
        for (Index v = 0; v < VECS; ++v) store(sum[r][v], t.c + r * t.ldc + v * lanes);
    }
}

/// All columns of ROWS rows of C.
template <Index ROWS, class R>
HWY_INLINE void run_columns(Tile<R> t, Index k) {
    const Index lanes = static_cast<Index>(hn::Lanes(Tag<R>()));
    const auto run = [&]<Index VECS>() {
        for (; k >= VECS * lanes; k -= VECS * lanes) {
            constexpr Index rows = std::min(ROWS, tile_rows<VECS>);
            Tile<R> part = t;
            for (Index r = 0; r + rows <= ROWS; r += rows) {
                run_tile<rows, VECS>(part);
                part.a += rows * part.next_row;
                part.c += rows * part.ldc;
            }
            static_assert(ROWS % rows == 0);
            t.b += VECS * lanes;
            t.c += VECS * lanes;
        }
    };
    if constexpr (widest > 2) {
        run.template operator()<5>();
        run.template operator()<4>();
    }
    run.template operator()<2>();
    run.template operator()<1>();
    if (k == 0) return;
    t.width = k;
    run_tile<ROWS, 1, Vectors::partial>(t);
}

/// The product in chunks of the inner dimension whose part of B stays in the first-level cache.
template <class R>
void product(bool transposed, MatrixView<const R> a, MatrixView<const R> b, MatrixView<R> c,
             bool add) {
    if (b.rows == 0) {
        for (Index i = 0; i < c.rows && !add; ++i) std::ranges::fill(c.row(i), R{0});
        return;
    }
    constexpr Index bytes = 16384;
    const Index inner = b.rows;
    const Index chunk = std::max<Index>(32, bytes / (b.cols * Index{sizeof(R)}));
    for (Index e = 0; e < inner; e += chunk) {
        Tile<R> t{.a = transposed ? a.data + e * a.ld : a.data + e,
                  .next_row = transposed ? 1 : a.ld,
                  .next = transposed ? a.ld : 1,
                  .b = b.data + e * b.ld,
                  .ldb = b.ld,
                  .c = c.data,
                  .ldc = c.ld,
                  .inner = std::min(chunk, inner - e),
                  .width = 0,
                  .first = e == 0 && !add,
                  .fetch = transposed ? 2 * 64 / Index{sizeof(R)} : 0};
        Index i = 0;
        const auto run = [&]<Index ROWS>() {
            for (; i + ROWS <= c.rows; i += ROWS) {
                run_columns<ROWS>(t, c.cols);
                t.a += ROWS * t.next_row;
                t.c += ROWS * t.ldc;
            }
        };
        run.template operator()<12>();
        run.template operator()<4>();
        run.template operator()<1>();
    }
}

#define RANKFOLD_KERNELS(R, suffix)                                                      \
    void product_##suffix(bool transposed, MatrixView<const R> a, MatrixView<const R> b, \
                          MatrixView<R> c, bool add) {                                   \
        product<R>(transposed, a, b, c, add);                                            \
    }
RANKFOLD_KERNELS(float, f)
RANKFOLD_KERNELS(double, d)
#undef RANKFOLD_KERNELS

}  // namespace rankfold::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rankfold {

HWY_EXPORT(product_f);
HWY_EXPORT(product_d);

template <Real R>
void tall_product(Transpose op, MatrixView<const R> a, MatrixView<const R> b, MatrixView<R> c,
                  bool add) {
    RANKFOLD_EXPECT((op == Transpose::no ? a.rows : a.cols) == c.rows);
    RANKFOLD_EXPECT((op == Transpose::no ? a.cols : a.rows) == b.rows);
    RANKFOLD_EXPECT(b.cols == c.cols);
    if constexpr (std::same_as<R, float>) {
        HWY_DYNAMIC_DISPATCH(product_f)(op == Transpose::yes, a, b, c, add);
    } else {
        HWY_DYNAMIC_DISPATCH(product_d)(op == Transpose::yes, a, b, c, add);
    }
}

template void tall_product(Transpose, MatrixView<const float>, MatrixView<const float>,
                           MatrixView<float>, bool);
template void tall_product(Transpose, MatrixView<const double>, MatrixView<const double>,
                           MatrixView<double>, bool);

}  // namespace rankfold
#endif  // HWY_ONCE
