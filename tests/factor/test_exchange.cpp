// However the fixed side's rows reach those who need them, the bits are the same.
#include <limits>

#include "als_problems.hpp"
#include "support/mpi_test.hpp"

namespace rankfold::test {

namespace {

using R = float;
constexpr double tolerance = 2e-4;

}  // namespace

class Exchanges : public MpiTest {};

TEST_F(Exchanges, EveryExchangeGivesTheSameBitsAndTheChosenOneSendsLeast) {
    const auto a = small_matrix(150, 90, 0.3, true);
    Ledger alone_ledger;
    const Communicator alone(MPI_COMM_SELF, alone_ledger);
    for (const AlsOptions& objective : objectives()) {
        AlsOptions options = objective;
        options.sweeps = 2;
        options.heavy = 30;
        auto one = als(sparse_rows<R>(alone, a), options, Steering{});
        options.threads = 2;
        for (const Exchange exchange :
             {Exchange::automatic, Exchange::all, Exchange::needed, Exchange::reduced}) {
            options.exchange = exchange;
            auto many = als(sparse_rows<R>(comm, a), options, Steering{});
            EXPECT_EQ(digest(alone, one.tensors()), digest(comm, many.tensors()));
            EXPECT_EQ(one.history.rows, many.history.rows);
        }
        options.heavy.reset();
        EXPECT_NEAR(als(sparse_rows<R>(comm, a), options, Steering{}).history.rows[1][1],
                    one.history.rows[1][1], tolerance * one.history.rows[1][1]);
    }
}

/// Panels of rows whose fixed rows do not all fit give the same bits, and keep within the memory.
TEST_F(Exchanges, ABoundOnMemoryChangesNoBits) {
    const auto a = sparse_rows<R>(comm, small_matrix(900, 70, 0.05, true));
    const auto transposed = transpose(a);
    for (const bool biases : {false, true}) {
        const AlsOptions options{.k = 6};
        SideOptions side{.problem = row_problem(options, 0.5, a.cols()), .biases = biases};
        side.heavy = 50;
        double sent = 0.0;
        const auto solved = [&](double buffer_bytes) {
            side.buffer_bytes = buffer_bytes;
            SparseSide<R> rows(transposed, side, a.layout(), options.k, &a);
            BlockRows<R> x(comm, transposed.layout(), options.k);
            BlockRows<R> y(comm, a.layout(), options.k);
            for (Index i = 0; i < y.local().rows(); ++i) {
                for (Index f = 0; f < y.cols(); ++f) {
                    y.local()(i, f) = R(std::sin(double(y.first_row() + i + 7 * f)));
                }
            }
            rows.solve(y, x);
            const SideLoss loss = rows.losses(x);
            const double certificate = rows.certificate(x);
            sent = rows.exchange_bytes().back();
            TensorList tensors;
            tensors.add("x", x);
            return std::tuple(digest(comm, tensors), loss.entries, loss.ridge, certificate);
        };
        const auto free = solved(std::numeric_limits<double>::infinity());
        EXPECT_LE(std::get<3>(free), tolerance);
        if (comm.size() == 1) continue;
        const double sent_freely = sent;
        EXPECT_EQ(solved(300.0 * 6 * sizeof(R)), free);
        EXPECT_GT(sent, sent_freely);  // some rows travel with several panels
        EXPECT_THROW(solved(2.0 * 6 * sizeof(R)), Error);
    }
}

/// Float solutions of a row of so many entries, however it travels, against sums in double.
TEST_F(Exchanges, ARowWithAMillionEntriesIsSolvedAccurately) {
    constexpr Index entries = 1000000;
    constexpr Index k = 3;
    const auto value = [](Index j) { return std::cos(0.001 * double(j)); };
    const auto factor = [](Index j, Index f) { return float(std::sin(double(j + 7 * f + 1))); };
    const auto row_layout = ShardLayout::even(2, 2, comm.size());
    CsrMatrix<R> local;
    local.cols = entries;
    for (Index i = 0; i < row_layout.rank_rows(comm.rank()).size(); ++i) {
        if (row_layout.rank_rows(comm.rank()).begin + i == 0) {
            for (Index j = 0; j < entries; ++j) {
                local.col_idx.push_back(static_cast<ColIndex>(j));
                local.values.push_back(static_cast<R>(value(j)));
            }
        }
        local.row_ptr.push_back(local.nnz());
    }
    const BlockRowCsr<R> a(comm, row_layout, std::move(local));
    const auto transposed = transpose(a);
    BlockRows<R> y(comm, transposed.layout(), k);
    for (Index j = 0; j < y.local().rows(); ++j) {
        for (Index f = 0; f < k; ++f) y.local()(j, f) = factor(y.first_row() + j, f);
    }
    DenseMatrix<double> normal(k, k);
    std::vector<double> rhs(k, 0.0);
    for (Index j = 0; j < entries; ++j) {
        for (Index f = 0; f < k; ++f) {
            for (Index g = 0; g < k; ++g) normal(f, g) += double(factor(j, f)) * factor(j, g);
            rhs[std::size_t(f)] += double(R(value(j))) * factor(j, f);
        }
    }
    for (Index f = 0; f < k; ++f) normal(f, f) += 0.1 * entries;
    const auto expected = naive_solve(std::move(normal), rhs);
    for (const Exchange exchange : {Exchange::needed, Exchange::reduced}) {
        const SideOptions side{.problem = RowProblem::explicit_values(0.1, 1.0, 0.0),
                               .exchange = exchange,
                               .heavy = 64 * transposed.layout().shards()};
        SparseSide<R> rows(a, side, transposed.layout(), k, &transposed);
        BlockRows<R> x(comm, a.layout(), k);
        rows.solve(y, x);
        const auto all = gather_all(x);
        for (Index f = 0; f < k; ++f) {
            EXPECT_NEAR(double(all(0, f)), expected[std::size_t(f)], 1e-6);
            EXPECT_EQ(all(1, f), 0.0F);
        }
    }
}

}  // namespace rankfold::test
