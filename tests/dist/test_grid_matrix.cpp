#include <rankfold/dist/grid_matrix.hpp>

#include <rankfold/core/random.hpp>
#include <rankfold/dist/tensor_list.hpp>

#include "support/mpi_test.hpp"

namespace rankfold::test {

namespace {

constexpr Index rows = 150;
constexpr Index cols = 90;
constexpr Index k = 5;

double element(Index i, Index j) {
    const Philox random(3, Stream::synthetic_entry);
    return random.uniform(i, j) < 0.3 ? 1.0 + random.uniform(i + rows, j) : 0.0;
}

double factor(Side side, Index i, Index f) {
    return Philox(4, side == Side::rows ? Stream::row_factors : Stream::col_factors).uniform(i, f);
}

BlockRows<double> dense_matrix(const Communicator& comm) {
    BlockRows<double> a(comm, ShardLayout::even(rows, 64, comm.size()), cols);
    for (Index i = 0; i < a.local().rows(); ++i) {
        for (Index j = 0; j < cols; ++j) a.local()(i, j) = element(a.first_row() + i, j);
    }
    return a;
}

BlockRowCsr<double> sparse_matrix(const Communicator& comm) {
    const BlockRows<double> a = dense_matrix(comm);
    CsrMatrix<double> local;
    local.cols = cols;
    for (Index i = 0; i < a.local().rows(); ++i) {
        for (Index j = 0; j < cols; ++j) {
            if (a.local()(i, j) == 0.0) continue;
            local.col_idx.push_back(static_cast<ColIndex>(j));
            local.values.push_back(a.local()(i, j));
        }
        local.row_ptr.push_back(local.nnz());
    }
    return {comm, a.layout(), std::move(local)};
}

DenseMatrix<double> owned_factor(const GridMatrix<double>& a, Side side) {
    const Range mine = a.owned(side);
    DenseMatrix<double> x(mine.size(), k);
    for (Index i = 0; i < mine.size(); ++i) {
        for (Index f = 0; f < k; ++f) x(i, f) = factor(side, mine.begin + i, f);
    }
    return x;
}

double score(Index i, Index j) {
    double s = 0.0;
    for (Index f = 0; f < k; ++f) s += factor(Side::rows, i, f) * factor(Side::cols, j, f);
    return s;
}

/// Checks every product on this grid, and returns a digest of all of them.
std::uint64_t check(GridMatrix<double>& a) {
    DenseMatrix<double> factors[2];
    for (const Side side : {Side::rows, Side::cols}) {
        auto& x = factors[side == Side::rows ? 0 : 1];
        x = owned_factor(a, side);
        a.gather(side, x);
    }
    double logs = 0.0;
    double square = 0.0;
    for (Index i = 0; i < rows; ++i) {
        for (Index j = 0; j < cols; ++j) {
            const double v = element(i, j);
            if (v > 0.0) logs += v * std::log(v / score(i, j));
            square += (v - score(i, j)) * (v - score(i, j));
        }
    }
    TensorList list;
    std::vector<DenseMatrix<double>> products;
    for (const Side side : {Side::rows, Side::cols}) {
        const Range mine = a.owned(side);
        for (const bool quotients : {false, true}) {
            double log_sum = 0.0;
            auto& product = products.emplace_back(mine.size(), k);
            quotients ? a.multiply_quotients(side, product, &log_sum) : a.multiply(side, product);
            EXPECT_NEAR(log_sum, quotients ? logs : 0.0, 1e-9 * std::abs(logs));
            for (Index i = 0; i < mine.size(); ++i) {
                for (Index f = 0; f < k; ++f) {
                    double expected = 0.0;
                    for (Index j = 0; j < (side == Side::rows ? cols : rows); ++j) {
                        const Index r = side == Side::rows ? mine.begin + i : j;
                        const Index c = side == Side::rows ? j : mine.begin + i;
                        expected += (quotients ? element(r, c) / score(r, c) : element(r, c)) *
                                    factor(side == Side::rows ? Side::cols : Side::rows, j, f);
                    }
                    EXPECT_NEAR(product(i, f), expected, 1e-11 * (1.0 + expected));
                }
            }
            list.tensors.push_back({.path = quotients ? "q" : "p",
                                    .shape = {a.axis(side).layout().rows(), k},
                                    .local = mine,
                                    .data = product.data()});
        }
    }
    double pairs = 0.0;
    for (Index i = 0; i < rows; ++i) {
        for (Index j = 0; j < cols; ++j) pairs += score(i, j) * score(i, j);
    }
    EXPECT_NEAR(a.residual_square(pairs), square, 1e-9 * square);
    return digest(a.grid().comm(), list);
}

}  // namespace

class GridMatrixTest : public MpiTest {};

TEST_F(GridMatrixTest, ProductsAreRightAndHaveTheSameBitsOnEveryGrid) {
    Ledger alone_ledger;
    const Communicator alone(MPI_COMM_SELF, alone_ledger);
    const ProcessGrid one(alone, {1, 1});
    const auto dense_alone = dense_matrix(alone);
    GridMatrix<double> one_dense(dense_alone, one, k, 1);
    GridMatrix<double> one_sparse(sparse_matrix(alone), one, k, 1);
    const std::uint64_t dense_digest = check(one_dense);
    const std::uint64_t sparse_digest = check(one_sparse);
    for (int r = 1; r <= comm.size(); ++r) {
        if (comm.size() % r != 0) continue;
        SCOPED_TRACE(testing::Message() << r << " rows of ranks");
        const ProcessGrid grid(comm, {r, comm.size() / r});
        EXPECT_EQ(grid.row_comm().rank(), grid.col());
        EXPECT_EQ(grid.col_comm().size(), r);
        const auto dense_many = dense_matrix(comm);
        GridMatrix<double> dense(dense_many, grid, k, 2);
        GridMatrix<double> sparse(sparse_matrix(comm), grid, k, 2);
        EXPECT_EQ(check(dense), dense_digest);
        EXPECT_EQ(check(sparse), sparse_digest);
        EXPECT_EQ(sparse.square(), one_sparse.square());
        EXPECT_EQ(dense.sum(), one_dense.sum());
    }
}

TEST_F(GridMatrixTest, FactorsMoveToTheirOwnersAndBack) {
    const ProcessGrid grid(comm, {1, comm.size()});
    const auto matrix = dense_matrix(comm);
    const GridMatrix<double> a(matrix, grid, k, 1);
    for (const Side side : {Side::rows, Side::cols}) {
        const auto owned = owned_factor(a, side);
        const auto block = a.to_block_rows(side, owned);
        for (Index i = 0; i < block.local().rows(); ++i) {
            for (Index f = 0; f < k; ++f) {
                EXPECT_EQ(block.local()(i, f), factor(side, block.first_row() + i, f));
            }
        }
        const auto elsewhere = redistribute(block, ShardLayout::even(block.rows(), 7, comm.size()));
        EXPECT_TRUE(std::ranges::equal(a.to_owned(side, elsewhere).data(), owned.data()));
    }
}

TEST_F(GridMatrixTest, PredictsTheBytesThatItSends) {
    const ProcessGrid grid(comm, {comm.size(), 1});
    const auto matrix = dense_matrix(comm);
    GridMatrix<double> a(matrix, grid, k, 1);
    DenseMatrix<double> product(a.owned(Side::cols).size(), k);
    const auto held = owned_factor(a, Side::rows);
    a.gather(Side::rows, held);
    a.multiply(Side::cols, product);
    for (const auto& phase : ledger.phases()) {
        if (phase.name != "grid exchange") continue;
        EXPECT_EQ(phase.bytes_sent, phase.bytes_predicted);
    }
}

TEST(TileCount, IsAPowerOfTwoThatTheShapeDecides) {
    EXPECT_EQ(tile_count(100, 64, 100, 10000), 4);
    EXPECT_EQ(tile_count(20000, 1525, 5000, 100000000), 32);
    EXPECT_EQ(tile_count(26744, 152, 138493, 10000000), 8);
}

}  // namespace rankfold::test
