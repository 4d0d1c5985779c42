#include <rankfold/dist/synthetic.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>

#include <rankfold/dist/tensor_list.hpp>

#include "support/mpi_test.hpp"

namespace rankfold::test {

namespace {

/// The digest of a sparse matrix's global content.
template <Real R>
std::uint64_t content(BlockRowCsr<R>& a) {
    auto& local = a.local();
    const Index before = a.comm().exclusive_scan(local.nnz());
    std::vector<std::int64_t> lengths;
    for (Index i = 0; i < local.rows(); ++i) lengths.push_back(local.view().row_nnz(i));
    TensorList list;
    list.add_part("lengths", a.rows(), a.first_row(), std::span(lengths));
    list.add_part("indices", a.nnz(), before, std::span(local.col_idx));
    list.add_part("data", a.nnz(), before, std::span(local.values));
    return digest(a.comm(), list);
}

template <Real R>
std::uint64_t content(BlockRows<R>& a) {
    TensorList list;
    list.add("X", a);
    return digest(a.comm(), list);
}

std::vector<Index> degrees(const BlockRowCsr<float>& a) {
    std::vector<Index> lengths;
    for (Index i = 0; i < a.local().rows(); ++i) lengths.push_back(a.local().view().row_nnz(i));
    return a.comm().all_gather(std::span<const Index>(lengths));
}

}  // namespace

class Synthetic : public MpiTest {
protected:
    /// Every rank also makes the matrix alone.
    std::unique_ptr<Communicator> alone = comm.split(comm.rank());
};

TEST_F(Synthetic, RatingsHaveTheSameBitsOnAnyRankCount) {
    for (const SyntheticRatings& what :
         {SyntheticRatings{.rows = 300, .cols = 200, .nnz = 6000, .seed = 7},
          SyntheticRatings{.rows = 40, .cols = 30, .nnz = 600, .noise = 0.0},  // half of all
          SyntheticRatings{.rows = 3, .cols = 1, .nnz = 1}}) {
        auto shared = generate_ratings<float>(comm, what);
        auto single = generate_ratings<float>(*alone, what);
        EXPECT_EQ(content(shared), content(single));
        EXPECT_EQ(shared.layout().shards(), single.layout().shards());
        EXPECT_EQ(shared.nnz(), what.nnz);
    }
}

TEST_F(Synthetic, RatingsAreWholeNumbersFromOneToFiveInDistinctIncreasingColumns) {
    const auto a = generate_ratings<double>(comm, {.rows = 500, .cols = 80, .nnz = 9000});
    std::vector<Index> seen(6, 0);
    for (Index i = 0; i < a.local().rows(); ++i) {
        const auto cols = a.local().view().row_cols(i);
        EXPECT_EQ(std::ranges::adjacent_find(cols, std::greater_equal<>()), cols.end());
        for (const double value : a.local().view().row_values(i)) {
            EXPECT_TRUE(value >= 1.0 && value <= 5.0 && value == std::round(value)) << value;
            ++seen[static_cast<std::size_t>(value)];
        }
    }
    comm.all_reduce(std::span<Index>(seen), Reduce::sum);
    for (std::size_t stars = 1; stars <= 5; ++stars) EXPECT_GT(seen[stars], 0);
}

TEST_F(Synthetic, DegreesOfRowsAndColumnsFallLikeAPowerLaw) {
    const auto a = generate_ratings<float>(comm, {.rows = 4000, .cols = 1000, .nnz = 100000});
    const auto transposed = transpose(a);
    for (auto lengths : {degrees(a), degrees(transposed)}) {
        const bool shuffled = !std::ranges::is_sorted(lengths, std::greater<>());
        EXPECT_TRUE(shuffled);
        std::ranges::sort(lengths, std::greater<>());
        const auto total = std::reduce(lengths.begin(), lengths.end());
        const auto tenth = static_cast<std::ptrdiff_t>(lengths.size() / 10);
        const auto top = std::reduce(lengths.begin(), lengths.begin() + tenth);
        EXPECT_EQ(total, 100000);
        EXPECT_GT(top, total / 4);      // an even spread would give the top tenth 10 %
        EXPECT_LT(top, total * 3 / 4);  // nor does a handful hold all
    }
}

TEST_F(Synthetic, NoiseFreeRatingsComeFromFactors) {
    // with one factor and no noise, rows rank columns alike up to sign: ratings of two rows with
    // equal factor signs never disagree strictly
    const auto a = generate_ratings<float>(
        comm, {.rows = 30, .cols = 40, .nnz = 500, .factors = 1, .noise = 0.0});
    const auto single = generate_ratings<float>(
        *alone, {.rows = 30, .cols = 40, .nnz = 500, .factors = 1, .noise = 0.0});
    EXPECT_EQ(a.nnz(), 500);
    DenseMatrix<float> whole(30, 40);
    for (Index i = 0; i < 30; ++i) {
        for (std::size_t e = 0; e < single.local().view().row_cols(i).size(); ++e) {
            whole(i, single.local().view().row_cols(i)[e]) = single.local().view().row_values(i)[e];
        }
    }
    for (Index i = 0; i < 30; ++i) {
        for (Index r = 0; r < i; ++r) {
            bool agree = false;
            bool differ = false;
            for (Index j = 0; j < 40; ++j) {
                if (whole(i, j) == 0.0F || whole(r, j) == 0.0F) continue;
                const float product = (whole(i, j) - 3.5F) * (whole(r, j) - 3.5F);
                if (std::abs(product) <= 0.25F) continue;  // too near the middle to have a sign
                agree = agree || product > 0.0F;
                differ = differ || product < 0.0F;
            }
            EXPECT_FALSE(agree && differ) << "rows " << i << " and " << r;
        }
    }
}

TEST_F(Synthetic, DenseMatricesHaveTheSameBitsOnAnyRankCount) {
    for (const SyntheticDense& what :
         {SyntheticDense{.rows = 130, .cols = 70, .spectrum = {5, 3, 1}, .noise = 0.1},
          SyntheticDense{.rows = 5, .cols = 90, .spectrum = {2}, .seed = 9},
          SyntheticDense{.rows = 101, .cols = 33, .uniform = true}}) {
        auto shared = generate_dense<float>(comm, what);
        auto single = generate_dense<float>(*alone, what);
        EXPECT_EQ(content(shared), content(single));
    }
}

TEST_F(Synthetic, DenseMatricesHaveTheGivenSpectrum) {
    // A = U S Vᵀ with k = n: AᵀA has the characteristic traces Σ s², Σ s⁴ and A's rows span all
    const std::vector<double> spectrum{9.0, 4.0, 1.0, 0.25};
    const auto a = generate_dense<double>(comm, {.rows = 60, .cols = 4, .spectrum = spectrum});
    const DenseMatrix<double> g = gram(a);
    double trace = 0.0;
    double square = 0.0;
    for (Index i = 0; i < 4; ++i) {
        trace += g(i, i);
        for (Index j = i; j < 4; ++j) square += (i == j ? 1.0 : 2.0) * g(i, j) * g(i, j);
    }
    double s2 = 0.0;
    double s4 = 0.0;
    double s8 = 0.0;
    for (const double s : spectrum) {
        s2 += std::pow(s, 2);
        s4 += std::pow(s, 4);
        s8 += std::pow(s, 8);
    }
    const double eps = std::numeric_limits<double>::epsilon();
    EXPECT_NEAR(trace, s2, 1e3 * eps * s2);
    EXPECT_NEAR(square, s4, 1e3 * eps * s4);
    double eighth = 0.0;  // ‖(AᵀA)²‖² = Σ s⁸
    for (Index i = 0; i < 4; ++i) {
        for (Index j = 0; j < 4; ++j) {
            double x = 0.0;
            for (Index f = 0; f < 4; ++f) {
                x += g(std::min(i, f), std::max(i, f)) * g(std::min(f, j), std::max(f, j));
            }
            eighth += x * x;
        }
    }
    EXPECT_NEAR(eighth, s8, 1e3 * eps * s8);
}

TEST_F(Synthetic, UniformElementsFillTheUnitInterval) {
    const auto a = generate_dense<double>(comm, {.rows = 100, .cols = 100, .uniform = true});
    double sum = 0.0;
    for (const double x : a.local().data()) {
        EXPECT_TRUE(x >= 0.0 && x < 1.0);
        sum += x;
    }
    EXPECT_NEAR(comm.all_reduce(sum, Reduce::sum) / 1e4, 0.5, 0.012);  // 4 standard errors
}

TEST_F(Synthetic, ImpossibleSizesAreNamed) {
    const auto many = expect_error(Fault::input, [&] {
        (void)generate_ratings<float>(comm, {.rows = 10, .cols = 10, .nnz = 51});
    });
    EXPECT_NE(many.find("rows x cols / 2"), std::string::npos) << many;
    const auto wide = expect_error(Fault::input, [&] {
        (void)generate_dense<float>(comm, {.rows = 2, .cols = 9, .spectrum = {3, 2, 1}});
    });
    EXPECT_NE(wide.find("2 x 9"), std::string::npos) << wide;
}

}  // namespace rankfold::test
