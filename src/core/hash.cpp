#include <rankfold/core/hash.hpp>

#include <concepts>
#include <cstddef>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hash.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace rankfold::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Words = hn::CappedTag<std::uint64_t, 8>;
using Word = hn::Vec<Words>;

/// mix64 of every lane.
Word mix(Word x) {
    const Words d;
    x = hn::Xor(x, hn::ShiftRight<30>(x));
    x = hn::Mul(x, hn::Set(d, 0xbf58476d1ce4e5b9ULL));
    x = hn::Xor(x, hn::ShiftRight<27>(x));
    x = hn::Mul(x, hn::Set(d, 0x94d049bb133111ebULL));
    return hn::Xor(x, hn::ShiftRight<31>(x));
}

/// digest_bits of the elements from `from` on, one to a lane.
template <class T>
Word bits(const T* from) {
    const Words d;
    if constexpr (sizeof(T) == 8) {
        const Word x = hn::LoadU(d, reinterpret_cast<const std::uint64_t*>(from));
        if constexpr (std::integral<T>) return x;
        return hn::IfThenZeroElse(hn::Eq(hn::Add(x, x), hn::Zero(d)), x);
    } else {
        const hn::Rebind<std::uint32_t, Words> half;
        const auto x = hn::LoadU(half, reinterpret_cast<const std::uint32_t*>(from));
        if constexpr (std::integral<T>) return hn::PromoteTo(d, x);
        return hn::PromoteTo(d, hn::IfThenZeroElse(hn::Eq(hn::Add(x, x), hn::Zero(half)), x));
    }
}

template <class T>
std::uint64_t sum(const T* elements, std::size_t count, std::uint64_t place) {
    const Words d;
    const std::size_t lanes = hn::Lanes(d);
    Word total = hn::Zero(d);
    Word places = hn::Iota(d, place);
    std::size_t i = 0;
    for (; i + lanes <= count; i += lanes) {
        total = hn::Add(total, mix(hn::Xor(bits(elements + i), mix(places))));
        places = hn::Add(places, hn::Set(d, lanes));
    }
    std::uint64_t result = hn::GetLane(hn::SumOfLanes(d, total));
    for (; i < count; ++i) result += digest_term(digest_bits(elements[i]), place, i);
    return result;
}

#define RANKFOLD_KERNEL(T, suffix)                                                          \
    std::uint64_t sum_##suffix(const T* elements, std::size_t count, std::uint64_t place) { \
        return sum(elements, count, place);                                                 \
    }
RANKFOLD_KERNEL(float, f)
RANKFOLD_KERNEL(double, d)
RANKFOLD_KERNEL(std::int32_t, i)
RANKFOLD_KERNEL(std::int64_t, l)
#undef RANKFOLD_KERNEL

}  // namespace rankfold::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rankfold {

#define RANKFOLD_DISPATCH(T, suffix)                                                         \
    HWY_EXPORT(sum_##suffix);                                                                \
    template <>                                                                              \
    std::uint64_t digest_sum(std::span<const T> elements, std::uint64_t path, Index first) { \
        return HWY_DYNAMIC_DISPATCH(sum_##suffix)(elements.data(), elements.size(),          \
                                                  path + static_cast<std::uint64_t>(first)); \
    }
RANKFOLD_DISPATCH(float, f)
RANKFOLD_DISPATCH(double, d)
RANKFOLD_DISPATCH(std::int32_t, i)
RANKFOLD_DISPATCH(std::int64_t, l)
#undef RANKFOLD_DISPATCH

template <>
std::uint64_t digest_sum(std::span<const std::uint8_t> elements, std::uint64_t path, Index first) {
    auto index = static_cast<std::uint64_t>(first);
    std::uint64_t sum = 0;
    for (const std::uint8_t x : elements) sum += digest_term(digest_bits(x), path, index++);
    return sum;
}

}  // namespace rankfold
#endif  // HWY_ONCE
