// Small deterministic hash functions: digests of results and seeds of random streams.
#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <string_view>

#include <rankfold/core/types.hpp>

namespace rankfold {

/// The finaliser of splitmix64: a bijection of 64-bit words whose output bits look independent.
[[nodiscard]] constexpr std::uint64_t mix64(std::uint64_t x) noexcept {
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ULL;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebULL;
    x ^= x >> 31;
    return x;
}

/// FNV-1a of a text, 64 bits.
[[nodiscard]] constexpr std::uint64_t fnv1a(std::string_view text) noexcept {
    std::uint64_t hash = 0xcbf29ce484222325ULL;
    for (const char c : text) {
        hash ^= static_cast<unsigned char>(c);
        hash *= 0x100000001b3ULL;
    }
    return hash;
}

/// The bit pattern of a number as stored, zero-extended; −0 counts as +0.
template <class T>
[[nodiscard]] constexpr std::uint64_t digest_bits(T value) noexcept {
    if constexpr (sizeof(T) == 8) {
        return std::bit_cast<std::uint64_t>(value == T{0} ? T{0} : value);
    } else if constexpr (sizeof(T) == 4) {
        return std::bit_cast<std::uint32_t>(value == T{0} ? T{0} : value);
    } else {
        static_assert(sizeof(T) == 1);
        return std::bit_cast<std::uint8_t>(value);
    }
}

/// What one element adds (mod 2^64) to the digest of a result: the digest does not depend on the
/// order in which elements are visited, hence not on the number of ranks.
///
/// @param bits  digest_bits(x)
/// @param path  fnv1a of the tensor's path in its file
/// @param index the element's global linear (row-major) index
[[nodiscard]] constexpr std::uint64_t digest_term(std::uint64_t bits, std::uint64_t path,
                                                  std::uint64_t index) noexcept {
    return mix64(bits ^ mix64(path + index));
}

/// Σ mod 2^64 of the digest_term of elements that follow one another.
///
/// @tparam T    float, double, std::int32_t, std::int64_t or std::uint8_t
/// @param path  fnv1a of the tensor's path in its file
/// @param first the first element's global linear (row-major) index
template <class T>
[[nodiscard]] std::uint64_t digest_sum(std::span<const T> elements, std::uint64_t path,
                                       Index first);

}  // namespace rankfold
