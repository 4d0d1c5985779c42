#include <rankfold/dist/products.hpp>

#include <limits>

#include <rankfold/dist/inner.hpp>
#include <rankfold/dist/tall_qr.hpp>
#include <rankfold/dist/tensor_list.hpp>

#include "support/mpi_test.hpp"

#include "support/dense_and_sparse.hpp"

namespace rankfold::test {

namespace {

template <class R>
class Products : public MpiTest {
protected:
    double eps = std::numeric_limits<R>::epsilon();
    Ledger alone_ledger;
    Communicator alone{MPI_COMM_SELF, alone_ledger};

    template <class T>
    std::uint64_t digest_of(BlockRows<T>& x) {
        TensorList list;
        list.add("x", x);
        return digest(x.comm(), list);
    }
};

using Precisions = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Products, Precisions);

}  // namespace

TYPED_TEST(Products, SparseProductsEqualTheDefinitionWithTheSameBitsOnAnyRankCount) {
    using R = TypeParam;
    for (const double density : {0.02, 0.6}) {  // needed rows only, and all rows
        for (const Index b : {1, 7, 37, 100}) {
            const auto a = random_matrix(90, 70, density);
            const auto x = random_matrix(70, b, 1.0, 1);
            const auto expected = naive_product(a, x);
            const auto many = sparse_rows<R>(this->comm, a);
            const auto right = dense_rows<R>(this->comm, x, 5);
            const SparseProduct<R> product(many, right.layout(), 2);
            BlockRows<R> c(this->comm, many.layout(), b);
            product.multiply(right, c);
            product.multiply(right, c);
            EXPECT_LT(difference(gather_all(c), expected), 100 * this->eps);
            const auto one = sparse_rows<R>(this->alone, a);
            const auto one_right = dense_rows<R>(this->alone, x, 5);
            BlockRows<R> alone_c(this->alone, one.layout(), b);
            SparseProduct<R>(one, one_right.layout(), 1).multiply(one_right, alone_c);
            EXPECT_EQ(this->digest_of(c), this->digest_of(alone_c));
        }
    }
}

TYPED_TEST(Products, MatricesWithManyColumnsAreMultipliedBlockByBlock) {
    using R = TypeParam;
    const Index b = 21;
    const auto a = random_matrix(9, 40000, 0.01);
    const auto x = random_matrix(40000, b, 1.0, 1);
    const auto many = sparse_rows<R>(this->comm, a);
    const auto right = dense_rows<R>(this->comm, x);
    BlockRows<R> c(this->comm, many.layout(), b);
    SparseProduct<R>(many, right.layout(), 2).multiply(right, c);
    EXPECT_LT(difference(gather_all(c), naive_product(a, x)), 2000 * this->eps);
    const auto one = sparse_rows<R>(this->alone, a);
    const auto one_right = dense_rows<R>(this->alone, x);
    BlockRows<R> alone_c(this->alone, one.layout(), b);
    SparseProduct<R>(one, one_right.layout(), 1).multiply(one_right, alone_c);
    EXPECT_EQ(this->digest_of(c), this->digest_of(alone_c));
}

TYPED_TEST(Products, DenseProductsEqualTheDefinitionWithTheSameBitsOnAnyRankCount) {
    using R = TypeParam;
    // more shards than groups (so that a rank boundary cuts one), fewer, one; no row at some ranks
    for (const auto& [m, shards] : {std::pair<Index, Index>{200, 90}, {50, 7}, {2, 1}, {3, 64}}) {
        const Index n = 61;
        const Index b = 9;
        const auto a = random_matrix(m, n);
        const auto x = random_matrix(n, b, 1.0, 1);
        const auto p = random_matrix(m, b, 1.0, 2);
        const auto run = [&, count = shards](const Communicator& on, Index threads) {
            const auto rows = dense_rows<R>(on, a, count);
            const auto right = dense_rows<R>(on, x, 13);
            const DenseProducts<R> products(rows, right.layout(), threads);
            std::pair result{BlockRows<R>(on, rows.layout(), b),
                             BlockRows<R>(on, right.layout(), b)};
            products.multiply(right, result.first);
            products.multiply_transposed(dense_rows<R>(on, p, count), result.second);
            return result;
        };
        auto [c, ct] = run(this->comm, 2);
        EXPECT_LT(difference(gather_all(c), naive_product(a, x)), 2000 * this->eps);
        EXPECT_LT(difference(gather_all(ct), naive_product(a, p, Transpose::yes)),
                  2000 * this->eps);
        auto [alone_c, alone_ct] = run(this->alone, 1);
        EXPECT_EQ(this->digest_of(c), this->digest_of(alone_c));
        EXPECT_EQ(this->digest_of(ct), this->digest_of(alone_ct));
    }
    for (const auto& phase : this->ledger.phases()) {
        EXPECT_LE(phase.bytes_predicted, phase.bytes_sent);
    }
}

TYPED_TEST(Products, InnerProductsAreExactSums) {
    using R = TypeParam;
    const auto x = random_matrix(100, 6);
    const auto y = random_matrix(100, 4, 1.0, 1);
    const auto rows = dense_rows<R>(this->comm, x);
    const auto others = dense_rows<R>(this->comm, y);
    const auto expected = naive_product(x, y, Transpose::yes);
    EXPECT_LT(difference(inner(rows, others, Accumulate::in_double, 2), expected), 1e-12);
    EXPECT_LT(difference(inner(rows, others, Accumulate::in_own_precision, 2), expected),
              2000 * this->eps);
    EXPECT_NEAR(inner(rows, {2, 3}, others, {1, 2}, Accumulate::in_double, 1)(0, 0), expected(2, 1),
                1e-12);
    EXPECT_NEAR(column_dots(rows, rows, 2)[3], naive_product(x, x, Transpose::yes)(3, 3), 1e-11);
    DenseMatrix<double> w = random_matrix(4, 2, 1.0, 2);
    const auto sum = times(others, {0, 4}, std::as_const(w).view(), 2);
    EXPECT_LT(difference(gather_all(sum), naive_product(y, w)), 50 * this->eps);
}

TYPED_TEST(Products, TallQrGivesAnOrthonormalBasisWhateverTheMatrix) {
    using R = TypeParam;
    const Index m = 150;
    const Index k = 8;
    for (const char* kind :
         {"random", "graded", "dependent", "nearly dependent", "zero", "square"}) {
        SCOPED_TRACE(kind);
        auto a = random_matrix(kind == std::string("square") ? k : m, k);
        for (Index i = 0; i < a.rows(); ++i) {
            for (Index j = 0; j < k; ++j) {
                if (kind == std::string("graded")) a(i, j) *= std::pow(10.0, -2.0 * double(j));
                if (kind == std::string("zero")) a(i, j) = 0.0;
                if (kind == std::string("dependent") && j > 2) a(i, j) = a(i, j - 3);
                if (kind == std::string("nearly dependent") && j > 0) {
                    a(i, j) = a(i, 0) + 1e-3 * a(i, j);
                }
            }
        }
        auto x = dense_rows<R>(this->comm, a);
        const auto before = gather_all(x);
        RandomColumns fill;
        const TallQr qr = tall_qr(x, 0.0, fill, 2);
        const auto q = gather_all(x);
        DenseMatrix<double> exact(q.rows(), k);
        std::ranges::copy(q.data(), exact.data().begin());
        auto gram = naive_product(exact, exact, Transpose::yes);
        for (Index i = 0; i < k; ++i) gram(i, i) -= 1.0;
        EXPECT_LT(difference(gram, DenseMatrix<double>(k, k)), 20 * this->eps);
        EXPECT_LT(difference(naive_product(exact, qr.r), before), 100 * this->eps);
        const Index expected = kind == std::string("zero")        ? 0
                               : kind == std::string("dependent") ? 3
                                                                  : k;
        EXPECT_EQ(qr.rank, expected);

        auto one = dense_rows<R>(this->alone, a);
        RandomColumns one_fill;
        const TallQr one_qr = tall_qr(one, 0.0, one_fill, 1);
        EXPECT_EQ(this->digest_of(x), this->digest_of(one));
        EXPECT_EQ(difference(qr.r, one_qr.r), 0.0);
    }
}

}  // namespace rankfold::test
