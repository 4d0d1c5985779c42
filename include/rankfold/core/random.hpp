// Counter-based random numbers: a value depends on (seed, stream, a, b) and on nothing else.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <vector>

#include <rankfold/core/hash.hpp>
#include <rankfold/core/types.hpp>

namespace rankfold {

/// The uses of random numbers; each has its own independent stream for every seed.
enum class Stream : std::uint64_t {
    row_factors = 1,
    col_factors,
    split,
    leave_one_out,
    negatives,
    synthetic_row,
    synthetic_col,
    synthetic_entry,
    synthetic_noise,
    weights,
    shuffle,
    dropout,
    sketch,
    completion,
};

/// Philox4x32-10 keyed by a seed and a stream (Salmon, Moraes, Dror, Shaw, SC 2011).
///
/// Any rank or thread may draw any value at any time; there is no state.
class Philox {
public:
    constexpr Philox(std::uint64_t seed, Stream stream) noexcept
        : key_{mix64(seed + 0x9e3779b97f4a7c15ULL * static_cast<std::uint64_t>(stream))} {}

    /// 128 random bits at the counter (a, b).
    [[nodiscard]] constexpr std::array<std::uint32_t, 4> block(std::uint64_t a,
                                                               std::uint64_t b) const noexcept {
        std::array<std::uint32_t, 4> c{lo(a), hi(a), lo(b), hi(b)};
        std::uint32_t k0 = lo(key_);
        std::uint32_t k1 = hi(key_);
        for (int round = 0; round < 10; ++round) {
            const std::uint64_t p0 = std::uint64_t{0xD2511F53} * c[0];
            const std::uint64_t p1 = std::uint64_t{0xCD9E8D57} * c[2];
            c = {hi(p1) ^ c[1] ^ k0, lo(p1), hi(p0) ^ c[3] ^ k1, lo(p0)};
            k0 += 0x9E3779B9;
            k1 += 0xBB67AE85;
        }
        return c;
    }

    /// 64 random bits.
    [[nodiscard]] constexpr std::uint64_t bits(Index a, Index b = 0) const noexcept {
        const auto r = block(static_cast<std::uint64_t>(a), static_cast<std::uint64_t>(b));
        return (std::uint64_t{r[1]} << 32) | r[0];
    }

    /// Uniform in [0, 1), a multiple of 2^-53.
    [[nodiscard]] constexpr double uniform(Index a, Index b = 0) const noexcept {
        return static_cast<double>(bits(a, b) >> 11) * 0x1p-53;
    }

    /// Uniform in {0, …, n − 1}; n > 0. The bias is below n · 2^-63.
    [[nodiscard]] constexpr Index below(Index n, Index a, Index b = 0) const noexcept {
        return static_cast<Index>((static_cast<WideIndex>(bits(a, b) >> 1) * n) >> 63);
    }

    /// Standard normal, by Box and Muller.
    [[nodiscard]] double normal(Index a, Index b = 0) const noexcept {
        const auto r = block(static_cast<std::uint64_t>(a), static_cast<std::uint64_t>(b));
        const double u =
            (static_cast<double>((std::uint64_t{r[1]} << 32 | r[0]) >> 11) + 0.5) * 0x1p-53;
        const double v = static_cast<double>((std::uint64_t{r[3]} << 32 | r[2]) >> 11) * 0x1p-53;
        return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
    }

    /// A uniformly random permutation of 0 … n − 1, by Fisher and Yates; draws use counter a.
    [[nodiscard]] std::vector<Index> permutation(Index n, Index a) const {
        std::vector<Index> order(static_cast<std::size_t>(n));
        for (Index i = 0; i < n; ++i) order[static_cast<std::size_t>(i)] = i;
        for (Index i = n - 1; i > 0; --i) {
            std::swap(order[static_cast<std::size_t>(i)],
                      order[static_cast<std::size_t>(below(i + 1, a, i))]);
        }
        return order;
    }

private:
    static constexpr std::uint32_t lo(std::uint64_t x) noexcept {
        return static_cast<std::uint32_t>(x);
    }
    static constexpr std::uint32_t hi(std::uint64_t x) noexcept {
        return static_cast<std::uint32_t>(x >> 32);
    }

    std::uint64_t key_;
};

}  // namespace rankfold
