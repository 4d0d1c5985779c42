#include <rankfold/core/exact_sum.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include <rankfold/core/error.hpp>
#include <rankfold/core/random.hpp>

namespace rankfold::test {

TEST(ExactSum, DoesNotDependOnTheOrderOfItsTerms) {
    const Philox random(3, Stream::split);
    std::vector<double> terms;
    for (Index i = 0; i < 1000; ++i) terms.push_back(std::exp(20.0 * random.normal(i)));
    double bound = 0.0;
    for (const double t : terms) bound += std::abs(t);
    const auto sum = [&] {
        ExactSum s(1, bound);
        for (const double t : terms) s.add(std::span<const double>(&t, 1));
        double total = 0.0;
        s.result(std::span<double>(&total, 1));
        return total;
    };
    const double forward = sum();
    std::ranges::reverse(terms);
    EXPECT_EQ(sum(), forward);
    std::ranges::sort(terms);
    EXPECT_EQ(sum(), forward);
    EXPECT_NEAR(forward, bound, bound * 1e-12);
}

TEST(ExactSum, IsExactOnIntegers) {
    ExactSum sum(2, 1e6);
    for (int i = 1; i <= 1000; ++i) sum.add(std::vector<double>{double(i), -double(i)});
    std::vector<double> out(2);
    sum.result(out);
    EXPECT_EQ(out[0], 500500.0);
    EXPECT_EQ(out[1], -500500.0);
}

TEST(ExactSum, GivesNanWhenATermOrTheBoundIsNotFinite) {
    std::vector<double> out(1);
    ExactSum terms(1, 10.0);
    terms.add(std::vector<double>{std::numeric_limits<double>::quiet_NaN()});
    terms.result(out);
    EXPECT_TRUE(std::isnan(out[0]));
    ExactSum bound(1, std::numeric_limits<double>::infinity());
    bound.add(std::vector<double>{1.0});
    bound.result(out);
    EXPECT_TRUE(std::isnan(out[0]));
}

TEST(ExactSum, OfZeroBoundIsZero) {
    ExactSum sum(1, 0.0);
    sum.add(std::vector<double>{0.0});
    std::vector<double> out(1, 7.0);
    sum.result(out);
    EXPECT_EQ(out[0], 0.0);
}

TEST(ExactSum, KeepsSmallAndHugeScales) {
    for (const double scale : {1e-250, 1e-30, 1.0, 1e30, 1e300}) {
        ExactSum sum(1, 3.0 * scale);
        sum.add(std::vector<double>{scale});
        sum.add(std::vector<double>{2.0 * scale});
        std::vector<double> out(1);
        sum.result(out);
        EXPECT_NEAR(out[0] / scale, 3.0, 1e-12) << scale;
    }
}

}  // namespace rankfold::test
