#include "tile_kernels.hpp"

#include <algorithm>
#include <cstdint>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tile_kernels.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include "lane_kernels.hpp"

HWY_BEFORE_NAMESPACE();
namespace rankfold::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Quads whose sums stay in registers: 24 of the 32 of AVX-512, 8 of 16 elsewhere.
constexpr Index most_quads = HWY_TARGET == HWY_AVX3 ? 3 : 1;

template <class R>
using Tag = hn::CappedTag<R, 64 / sizeof(R)>;

/// QUADS quads of rows times VECS vectors of columns.
template <bool PACKED, Index QUADS, Index VECS, class R>
HWY_INLINE void product(Index depth, TileRows<R> a, const R* HWY_RESTRICT b,
                        const Addends<R>& addends, const TileTarget<R>& to) {
    R* const out = to.data;
    const Index ld = to.ld;
    constexpr Index width = panel_width<R>;
    const Tag<R> d;
    const auto lanes = static_cast<Index>(hn::Lanes(d));
    hn::Vec<Tag<R>> sum[4 * QUADS][VECS];
    HWY_UNROLL(12)
    for (Index r = 0; r < 4 * QUADS; ++r) {
        HWY_UNROLL(2)
        for (Index v = 0; v < VECS; ++v) {
            sum[r][v] = hn::Zero(d);
            if (!to.streams) {
                __builtin_prefetch(out + (4 * QUADS + r) * ld + v * lanes);  // the next
            }
        }
    }
    for (Index k = 0; k < depth; ++k) {
        hn::Vec<Tag<R>> right[VECS];
        HWY_UNROLL(2)
        for (Index v = 0; v < VECS; ++v) right[v] = hn::Load(d, b + k * width + v * lanes);
        HWY_UNROLL(3)
        for (Index q = 0; q < QUADS; ++q) {
            const R* HWY_RESTRICT row = a.data + q * a.quad_stride + (PACKED ? quad_rows * k : k);
            HWY_UNROLL(4)
            for (Index r = 0; r < 4; ++r) {
                const auto factor = hn::Set(d, row[PACKED ? r : r * a.row_stride]);
                HWY_UNROLL(2)
                for (Index v = 0; v < VECS; ++v) {
                    sum[4 * q + r][v] = hn::MulAdd(factor, right[v], sum[4 * q + r][v]);
                }
            }
        }
    }
    for (Index i = 0; i < addends.count; ++i) {
        const R* const addend = addends.first + i * addends.step;
        HWY_UNROLL(12)
        for (Index r = 0; r < 4 * QUADS; ++r) {
            HWY_UNROLL(2)
            for (Index v = 0; v < VECS; ++v) {
                sum[r][v] = hn::Add(hn::LoadU(d, addend + r * addends.ld + v * lanes), sum[r][v]);
            }
        }
    }
    HWY_UNROLL(12)
    for (Index r = 0; r < 4 * QUADS; ++r) {
        HWY_UNROLL(2)
        for (Index v = 0; v < VECS; ++v) {
            if (to.streams) {
                hn::Stream(sum[r][v], d, out + r * ld + v * lanes);
            } else {
                hn::StoreU(sum[r][v], d, out + r * ld + v * lanes);
            }
        }
    }
}

template <bool PACKED, class R>
HWY_INLINE void tile_product_of(Index depth, TileRows<R> a, Index quads, const R* b, Index cols,
                                const Addends<R>& addends, TileTarget<R> out) {
    const Index lanes = static_cast<Index>(hn::Lanes(Tag<R>()));
    constexpr std::size_t line = 64;
    out.streams = out.streams && reinterpret_cast<std::uintptr_t>(out.data) % line == 0 &&
                  static_cast<std::size_t>(out.ld) * sizeof(R) % line == 0;
    Index q = 0;
    const auto run = [&]<Index QUADS>() HWY_ATTR {
        for (; q + QUADS <= quads; q += QUADS) {
            const auto vectors = [&]<Index VECS>(Index c) HWY_ATTR {
                TileRows<R> rows = a;
                rows.data += q * a.quad_stride;
                Addends<R> more = addends;
                if (more.count > 0) more.first += quad_rows * q * more.ld + c;
                product<PACKED, QUADS, VECS>(
                    depth, rows, b + c, more,
                    {out.data + quad_rows * q * out.ld + c, out.ld, out.streams});
            };
            Index c = 0;
            for (; c + lanes < cols; c += 2 * lanes) vectors.template operator()<2>(c);
            if (c < cols) vectors.template operator()<1>(c);
        }
    };
    run.template operator()<most_quads>();
    if constexpr (most_quads > 2) run.template operator()<2>();
    if constexpr (most_quads > 1) run.template operator()<1>();
}

template <class R>
void tile_product_impl(Index depth, const TileRows<R>& a, Index quads, const R* b, Index cols,
                       const Addends<R>& addends, const TileTarget<R>& out) {
    if (a.row_stride == 1) {
        tile_product_of<true>(depth, a, quads, b, cols, addends, out);
    } else {
        tile_product_of<false>(depth, a, quads, b, cols, addends, out);
    }
}

/// A square of as many rows as a vector has lanes.
template <class R>
HWY_INLINE void transpose_square(const R* from, Index ld_from, R* to, Index ld_to) {
    const Tag<R> d;
    constexpr auto side = static_cast<Index>(hn::MaxLanes(Tag<R>()));
    hn::Vec<Tag<R>> v[side];
    HWY_UNROLL(16)
    for (Index i = 0; i < side; ++i) v[i] = hn::LoadU(d, from + i * ld_from);
    transpose_lanes(d, v);
    HWY_UNROLL(16)
    for (Index i = 0; i < side; ++i) hn::StoreU(v[i], d, to + i * ld_to);
}

#if HWY_TARGET != HWY_SCALAR
/// Four rows of a vector each to a quad: element (r, c) to 4 c + r.
template <class R>
HWY_INLINE void transpose_quad(const R* from, Index ld, R* to) {
    const Tag<R> d;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    constexpr Index blocks = blocks_of<Tag<R>>;
    const auto a = hn::LoadU(d, from);
    const auto b = hn::LoadU(d, from + ld);
    const auto c = hn::LoadU(d, from + 2 * ld);
    const auto e = hn::LoadU(d, from + 3 * ld);
    const auto ab = hn::InterleaveLower(d, a, b);
    const auto ab_upper = hn::InterleaveUpper(d, a, b);
    const auto ce = hn::InterleaveLower(d, c, e);
    const auto ce_upper = hn::InterleaveUpper(d, c, e);
    hn::Vec<Tag<R>> v[4] = {ab, ce, ab_upper, ce_upper};  // blocks of a row's part of the quad
    if constexpr (sizeof(R) == 4) {
        v[0] = interleave_pairs_lower(d, ab, ce);
        v[1] = interleave_pairs_upper(d, ab, ce);
        v[2] = interleave_pairs_lower(d, ab_upper, ce_upper);
        v[3] = interleave_pairs_upper(d, ab_upper, ce_upper);
    }
    for (Index i = 0; i < 4; i += blocks) transpose_blocks(d, v + i, 1);
    // v[i + j] holds block j of vectors i … i + blocks − 1
    Index place = 0;
    for (Index j = 0; j < blocks; ++j) {
        for (Index i = 0; i < 4; i += blocks) hn::StoreU(v[i + j], d, to + lanes * place++);
    }
}
#endif

/// Rows [first, last) of `from` to columns of `to`, row after row of `to` if its rows are the
/// longer ones: neighbouring elements of far rows must not be written long after one another.
template <class R>
HWY_INLINE void transpose_strip(const R* from, Index ld_from, Index rows, Range cols, R* to,
                                Index ld_to) {
    const auto side = static_cast<Index>(hn::Lanes(Tag<R>()));
    Index whole_rows = rows / side * side;
    const Index whole_cols = cols.begin + cols.size() / side * side;
    const auto at = [&](Index i, Index j) HWY_ATTR {
        transpose_square(from + i * ld_from + j, ld_from, to + j * ld_to + i, ld_to);
    };
    if (ld_to > ld_from) {
        for (Index j = cols.begin; j < whole_cols; j += side) {
            for (Index i = 0; i < whole_rows; i += side) at(i, j);
        }
    } else {
        for (Index i = 0; i < whole_rows; i += side) {
            for (Index j = cols.begin; j < whole_cols; j += side) at(i, j);
        }
    }
#if HWY_TARGET != HWY_SCALAR
    if (rows == 4 && ld_to == 4 && whole_rows < rows) {
        for (Index j = cols.begin; j < whole_cols; j += side) {
            transpose_quad(from + j, ld_from, to + 4 * j);
        }
        whole_rows = rows;
    }
#endif
    for (Index i = 0; i < rows; ++i) {
        for (Index j = i < whole_rows ? whole_cols : cols.begin; j < cols.end; ++j) {
            to[j * ld_to + i] = from[i * ld_from + j];
        }
    }
}

/// In strips of 64 columns, so that the lines that are written stay in the cache.
template <class R>
void transpose_impl(const R* from, Index ld_from, Index rows, Index cols, R* to, Index ld_to) {
    constexpr Index strip = 64;
    for (Index first = 0; first < cols; first += strip) {
        transpose_strip(from, ld_from, rows, {first, std::min(first + strip, cols)}, to, ld_to);
    }
}

#define RANKFOLD_KERNELS(R, suffix)                                                               \
    void product_##suffix(Index depth, const TileRows<R>& a, Index quads, const R* b, Index cols, \
                          const Addends<R>& addends, const TileTarget<R>& out) {                  \
        tile_product_impl<R>(depth, a, quads, b, cols, addends, out);                             \
    }                                                                                             \
    void transpose_##suffix(const R* from, Index ld_from, Index rows, Index cols, R* to,          \
                            Index ld_to) {                                                        \
        transpose_impl<R>(from, ld_from, rows, cols, to, ld_to);                                  \
    }
RANKFOLD_KERNELS(float, f)
RANKFOLD_KERNELS(double, d)
#undef RANKFOLD_KERNELS

}  // namespace rankfold::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rankfold {

void end_streams() {
    hwy::FlushStream();
}

#define RANKFOLD_EXPORT(R, suffix)                                                            \
    HWY_EXPORT(product_##suffix);                                                             \
    HWY_EXPORT(transpose_##suffix);                                                           \
    template <>                                                                               \
    void tile_product(Index depth, const TileRows<R>& a, Index quads, const R* b, Index cols, \
                      const Addends<R>& addends, const TileTarget<R>& out) {                  \
        HWY_DYNAMIC_DISPATCH(product_##suffix)                                                \
        (depth, a, quads, b, cols, addends, out);                                             \
    }                                                                                         \
    template <>                                                                               \
    void transpose_into(MatrixView<const R> from, MatrixView<R> to) {                         \
        RANKFOLD_EXPECT(from.rows == to.cols && from.cols == to.rows);                        \
        HWY_DYNAMIC_DISPATCH(transpose_##suffix)                                              \
        (from.data, from.ld, from.rows, from.cols, to.data, to.ld);                           \
    }
RANKFOLD_EXPORT(float, f)
RANKFOLD_EXPORT(double, d)
#undef RANKFOLD_EXPORT

}  // namespace rankfold
#endif  // HWY_ONCE
