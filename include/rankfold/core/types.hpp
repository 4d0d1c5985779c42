// The words every folder shares: integer types, scalar concept, checked narrowing.
#pragma once

#include <concepts>
#include <cstdint>
#include <utility>

#include <rankfold/core/error.hpp>

namespace rankfold {

/// Sizes and global indices. `int` exists only at the MPI and BLAS border, crossed by narrow<int>.
using Index = std::int64_t;

/// A column index as stored beside a value in memory; matrices have fewer than 2^31 columns
/// (and rows, since a matrix is also held transposed).
using ColIndex = std::int32_t;

/// 128 bits, for products of two indices.
__extension__ typedef __int128 WideIndex;

/// The two precisions in which the numerics are compiled.
template <class T>
concept Real = std::same_as<T, float> || std::same_as<T, double>;

/// The half-open interval [begin, end) of indices.
struct Range {
    Index begin = 0;
    Index end = 0;

    [[nodiscard]] constexpr Index size() const noexcept { return end - begin; }
    [[nodiscard]] constexpr bool contains(Index i) const noexcept { return i >= begin && i < end; }
    friend constexpr bool operator==(const Range&, const Range&) = default;
};

/// The part of [0, total) that falls to `part` when it is cut into `parts` pieces equal to ±1.
[[nodiscard]] constexpr Range even_part(Index total, Index parts, Index part) noexcept {
    const auto cut = [&](Index at) {
        return static_cast<Index>(static_cast<WideIndex>(total) * at / parts);
    };
    return {cut(part), cut(part + 1)};
}

/// Converts between integer types and throws Error (Fault::bug) when the value does not fit.
template <std::integral To, std::integral From>
[[nodiscard]] constexpr To narrow(From value) {
    if (!std::in_range<To>(value)) {
        throw Error(Fault::bug, "the integer " + std::to_string(value) +
                                    " does not fit the type that it is handed to");
    }
    return static_cast<To>(value);
}

}  // namespace rankfold
