#include <rankfold/core/random.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include <rankfold/core/hash.hpp>

namespace rankfold::test {

TEST(Philox, DrawsDependOnSeedStreamAndBothCounters) {
    const Philox a(1, Stream::split);
    std::set<std::uint64_t> seen{a.bits(5, 6), Philox(2, Stream::split).bits(5, 6),
                                 Philox(1, Stream::negatives).bits(5, 6), a.bits(6, 5),
                                 a.bits(5, 7)};
    EXPECT_EQ(seen.size(), 5U);
    EXPECT_EQ(a.bits(5, 6), Philox(1, Stream::split).bits(5, 6));
}

TEST(Philox, UniformNumbersHaveTheRightMeanAndVariance) {
    const Philox random(7, Stream::weights);
    double sum = 0.0;
    double square = 0.0;
    constexpr int n = 100000;
    for (int i = 0; i < n; ++i) {
        const double u = random.uniform(i);
        EXPECT_TRUE(u >= 0.0 && u < 1.0);
        sum += u;
        square += u * u;
    }
    EXPECT_NEAR(sum / n, 0.5, 0.005);
    EXPECT_NEAR(square / n - (sum / n) * (sum / n), 1.0 / 12.0, 0.002);
}

TEST(Philox, NormalNumbersHaveTheRightMoments) {
    const Philox random(7, Stream::weights);
    double sum = 0.0;
    double square = 0.0;
    double fourth = 0.0;
    constexpr int n = 100000;
    for (int i = 0; i < n; ++i) {
        const double z = random.normal(i, 3);
        sum += z;
        square += z * z;
        fourth += z * z * z * z;
    }
    EXPECT_NEAR(sum / n, 0.0, 0.02);
    EXPECT_NEAR(square / n, 1.0, 0.03);
    EXPECT_NEAR(fourth / n, 3.0, 0.2);
}

TEST(Philox, BelowIsUniformOverItsRange) {
    const Philox random(9, Stream::shuffle);
    std::vector<int> counts(7);
    for (Index i = 0; i < 70000; ++i) ++counts[static_cast<std::size_t>(random.below(7, i))];
    for (const int c : counts) EXPECT_NEAR(c, 10000, 500);
}

TEST(Philox, PermutationsHoldEveryNumberOnce) {
    const Philox random(11, Stream::shuffle);
    for (const Index n : {0, 1, 2, 100}) {
        auto order = random.permutation(n, 4);
        std::ranges::sort(order);
        for (Index i = 0; i < n; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
    }
    EXPECT_NE(random.permutation(100, 4), random.permutation(100, 5));
}

TEST(Digest, CountsNegativeZeroAsZeroAndSeesPlaces) {
    EXPECT_EQ(digest_bits(-0.0), digest_bits(0.0));
    EXPECT_EQ(digest_bits(-0.0F), digest_bits(0.0F));
    EXPECT_NE(digest_term(1, fnv1a("a"), 0), digest_term(1, fnv1a("b"), 0));
    EXPECT_NE(digest_term(1, fnv1a("a"), 0), digest_term(1, fnv1a("a"), 1));
    // published values: FNV-1a of "a", and the first output of splitmix64 with seed 0
    EXPECT_EQ(fnv1a("a"), 0xaf63dc4c8601ec8cULL);
    EXPECT_EQ(mix64(0x9e3779b97f4a7c15ULL), 0xe220a8397b1dcdafULL);
}

template <class T>
void expect_sum_of_terms(T step) {
    std::vector<T> x;
    for (int i = 0; i < 45; ++i) x.push_back(static_cast<T>(static_cast<T>(i - 20) * step));
    x[3] = static_cast<T>(-0.0);
    x[7] = std::numeric_limits<T>::lowest();
    x[30] = std::numeric_limits<T>::max();
    for (const std::size_t count : {0, 1, 7, 8, 13, 45}) {
        std::uint64_t expected = 0;
        for (std::size_t i = 0; i < count; ++i) {
            expected += digest_term(digest_bits(x[i]), fnv1a("X"), 5 + i);
        }
        const auto first = std::span<const T>(x).first(count);
        EXPECT_EQ(digest_sum<T>(first, fnv1a("X"), 5), expected) << count;
    }
}

TEST(Digest, SumsTheTermsOfElementsOfEveryType) {
    expect_sum_of_terms<float>(0.37F);
    expect_sum_of_terms<double>(0.37);
    expect_sum_of_terms<std::int32_t>(11);
    expect_sum_of_terms<std::int64_t>(11);
    expect_sum_of_terms<std::uint8_t>(3);
}

TEST(Narrow, RefusesWhatDoesNotFit) {
    EXPECT_EQ(narrow<int>(Index{2147483647}), 2147483647);
    EXPECT_THROW(static_cast<void>(narrow<int>(Index{2147483648})), Error);
    EXPECT_THROW(static_cast<void>(narrow<std::uint8_t>(-1)), Error);
}

TEST(EvenPart, CoversEverythingInPiecesThatDifferByOne) {
    for (const Index total : {0, 1, 7, 64, 1000}) {
        for (const Index parts : {1, 3, 64}) {
            Index next = 0;
            for (Index p = 0; p < parts; ++p) {
                const Range r = even_part(total, parts, p);
                EXPECT_EQ(r.begin, next);
                EXPECT_GE(r.size(), total / parts);
                EXPECT_LE(r.size(), total / parts + 1);
                next = r.end;
            }
            EXPECT_EQ(next, total);
        }
    }
}

}  // namespace rankfold::test
