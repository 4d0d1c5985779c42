// Transposition and sums across the lanes of vectors. Included once for every instruction set, by
// files that are compiled by hwy/foreach_target.h: hence no ordinary include guard.
#if defined(RANKFOLD_LANE_KERNELS) == defined(HWY_TARGET_TOGGLE)
#ifdef RANKFOLD_LANE_KERNELS
#undef RANKFOLD_LANE_KERNELS
#else
#define RANKFOLD_LANE_KERNELS
#endif

#include <hwy/highway.h>

#include <rankfold/linalg/views.hpp>

HWY_BEFORE_NAMESPACE();
namespace rankfold::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR

/// v as an N x N matrix of N lanes each, transposed in place.
template <class D>
HWY_INLINE void transpose_lanes(D, hn::Vec<D>*) {}

/// Lane i of the result is Σ of the lanes of v[i]; v[0 … N) are used up.
template <class D>
HWY_INLINE hn::Vec<D> sum_lanes(D, hn::Vec<D>* v) {
    return v[0];
}

/// out[i] = Σ of the lanes of v[i], i = 0 … 3.
template <class D, class R = hn::TFromD<D>>
HWY_INLINE void sum_lanes_of_four(D d, const hn::Vec<D>* v, R* out) {
    for (Index i = 0; i < 4; ++i) hn::StoreU(v[i], d, out + i);
}

#else

template <class D>
constexpr Index block_lanes = 16 / sizeof(hn::TFromD<D>);  // of a block of 128 bits

template <class D>
constexpr Index blocks_of = static_cast<Index>(hn::MaxLanes(D())) / block_lanes<D>;

/// Lanes of a and b in turn, pairs of 64 bits at a time: those of the lower or of the upper halves
/// of each block.
template <class D>
HWY_INLINE auto interleave_pairs_lower(D d, hn::Vec<D> a, hn::Vec<D> b) {
    const hn::RepartitionToWide<D> wide;
    return hn::BitCast(d, hn::InterleaveLower(wide, hn::BitCast(wide, a), hn::BitCast(wide, b)));
}
template <class D>
HWY_INLINE auto interleave_pairs_upper(D d, hn::Vec<D> a, hn::Vec<D> b) {
    const hn::RepartitionToWide<D> wide;
    return hn::BitCast(d, hn::InterleaveUpper(wide, hn::BitCast(wide, a), hn::BitCast(wide, b)));
}

/// Block b of v[g] ↔ block g of v[b], for as many vectors as one has blocks, `stride` apart.
template <class D>
HWY_INLINE void transpose_blocks(D d, hn::Vec<D>* v, Index stride) {
    if constexpr (blocks_of<D> == 2) {
        const auto a = v[0];
        const auto b = v[stride];
        v[0] = hn::ConcatLowerLower(d, b, a);
        v[stride] = hn::ConcatUpperUpper(d, b, a);
    } else if constexpr (blocks_of<D> == 4) {
        const auto a = hn::OddEvenBlocks(hn::SwapAdjacentBlocks(v[stride]), v[0]);
        const auto b = hn::OddEvenBlocks(v[stride], hn::SwapAdjacentBlocks(v[0]));
        const auto c = hn::OddEvenBlocks(hn::SwapAdjacentBlocks(v[3 * stride]), v[2 * stride]);
        const auto e = hn::OddEvenBlocks(v[3 * stride], hn::SwapAdjacentBlocks(v[2 * stride]));
        v[0] = hn::ConcatLowerLower(d, c, a);
        v[stride] = hn::ConcatLowerLower(d, e, b);
        v[2 * stride] = hn::ConcatUpperUpper(d, c, a);
        v[3 * stride] = hn::ConcatUpperUpper(d, e, b);
    }
}

/// v as an N x N matrix of N lanes each, transposed in place.
template <class D>
HWY_INLINE void transpose_lanes(D d, hn::Vec<D>* v) {
    constexpr Index side = block_lanes<D>;
    constexpr Index lanes = side * blocks_of<D>;
    for (Index g = 0; g < lanes; g += side) {
        if constexpr (side == 4) {
            const auto a = hn::InterleaveLower(d, v[g], v[g + 1]);
            const auto b = hn::InterleaveUpper(d, v[g], v[g + 1]);
            const auto c = hn::InterleaveLower(d, v[g + 2], v[g + 3]);
            const auto e = hn::InterleaveUpper(d, v[g + 2], v[g + 3]);
            v[g] = interleave_pairs_lower(d, a, c);
            v[g + 1] = interleave_pairs_upper(d, a, c);
            v[g + 2] = interleave_pairs_lower(d, b, e);
            v[g + 3] = interleave_pairs_upper(d, b, e);
        } else {
            const auto a = hn::InterleaveLower(d, v[g], v[g + 1]);
            v[g + 1] = hn::InterleaveUpper(d, v[g], v[g + 1]);
            v[g] = a;
        }
    }
    for (Index j = 0; j < side; ++j) transpose_blocks(d, v + j, side);
    // v[g side + j] holds row j of block g: that is row g side + j
}

/// Each block is (Σ a, Σ b, Σ c, Σ e) or (Σ a, Σ b) of the four or two vectors' lanes in it.
template <class D>
HWY_INLINE auto sum_in_blocks(D d, const hn::Vec<D>* v) {
    const auto pair = [d](hn::Vec<D> a, hn::Vec<D> b) {
        return hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
    };
    if constexpr (block_lanes<D> == 2) {
        return pair(v[0], v[1]);
    } else {
        const auto first = pair(v[0], v[1]);
        const auto second = pair(v[2], v[3]);
        return hn::Add(interleave_pairs_lower(d, first, second),
                       interleave_pairs_upper(d, first, second));
    }
}

/// Lane i of the result is Σ of the lanes of v[i]; v[0 … N) are used up.
template <class D>
HWY_INLINE auto sum_lanes(D d, hn::Vec<D>* v) {
    constexpr Index side = block_lanes<D>;
    for (Index g = 0; g < blocks_of<D>; ++g) v[g] = sum_in_blocks(d, v + g * side);
    transpose_blocks(d, v, 1);
    if constexpr (blocks_of<D> == 1) {
        return v[0];
    } else if constexpr (blocks_of<D> == 2) {
        return hn::Add(v[0], v[1]);
    } else {
        return hn::Add(hn::Add(v[0], v[1]), hn::Add(v[2], v[3]));
    }
}

/// The upper half added to the lower, until one block is left.
template <class D>
HWY_INLINE auto fold(D d, hn::Vec<D> v) {
    if constexpr (blocks_of<D> == 1) {
        return v;
    } else {
        const hn::Half<D> half;
        return fold(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
    }
}

/// out[i] = Σ of the lanes of v[i], i = 0 … 3.
template <class D, class R = hn::TFromD<D>>
HWY_INLINE void sum_lanes_of_four(D d, const hn::Vec<D>* v, R* out) {
    const hn::CappedTag<R, 16 / sizeof(R)> one_block;
    for (Index i = 0; i < 4; i += block_lanes<D>) {
        hn::StoreU(fold(d, sum_in_blocks(d, v + i)), one_block, out + i);
    }
}

#endif

}  // namespace rankfold::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
