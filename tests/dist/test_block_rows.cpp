#include <rankfold/dist/block_rows.hpp>

#include <map>

#include <rankfold/core/random.hpp>
#include <rankfold/dist/entry_transpose.hpp>
#include <rankfold/dist/row_exchange.hpp>
#include <rankfold/dist/tensor_list.hpp>

#include "support/mpi_test.hpp"

namespace rankfold::test {

namespace {

double element(Index i, Index j) {
    return double(i * 1000 + j) + 0.25;
}

/// A ragged sparse matrix, given entry by entry by the ranks that happen to hold it.
BlockRowCsr<double> ragged(const Communicator& comm, Index m, Index n) {
    const Philox random(3, Stream::synthetic_entry);
    std::vector<Triplet<double>> mine;
    std::vector<Index> counts(static_cast<std::size_t>(m), 0);
    for (Index i = 0; i < m; ++i) {
        for (Index j = 0; j < n; ++j) {
            if (random.uniform(i, j) > 1.0 / double(1 + i % 7)) continue;
            ++counts[static_cast<std::size_t>(i)];
            if ((i + j) % comm.size() == comm.rank()) {
                mine.push_back({i, static_cast<ColIndex>(j), element(i, j)});
            }
        }
    }
    const Range part = even_part(m, comm.size(), comm.rank());
    const auto layout = balanced_layout(
        comm, m, part.begin,
        std::span<const Index>(counts).subspan(static_cast<std::size_t>(part.begin),
                                               static_cast<std::size_t>(part.size())));
    return assemble(comm, layout, n, std::move(mine));
}

/// All entries of a distributed matrix on every rank.
std::map<std::pair<Index, Index>, double> entries(const BlockRowCsr<double>& a) {
    std::vector<Triplet<double>> mine;
    const auto& local = a.local();
    for (Index i = 0; i < local.rows(); ++i) {
        const auto cols = local.view().row_cols(i);
        EXPECT_TRUE(std::ranges::is_sorted(cols));
        for (std::size_t e = 0; e < cols.size(); ++e) {
            mine.push_back({a.first_row() + i, cols[e], local.view().row_values(i)[e]});
        }
    }
    std::map<std::pair<Index, Index>, double> all;
    for (const auto& t : a.comm().all_gather(std::span<const Triplet<double>>(mine))) {
        EXPECT_TRUE(all.emplace(std::pair{t.row, Index{t.col}}, t.value).second);
    }
    return all;
}

}  // namespace

class BlockRowsTest : public MpiTest {};

TEST_F(BlockRowsTest, LayoutsCoverAllRowsAndDoNotDependOnTheRanks) {
    const auto a = ragged(comm, 300, 40);
    Ledger alone_ledger;
    const Communicator alone(MPI_COMM_SELF, alone_ledger);
    const auto whole = ragged(alone, 300, 40);
    EXPECT_EQ(a.layout().shards(), 64);
    Index covered = 0;
    for (Index s = 0; s < 64; ++s) {
        EXPECT_EQ(a.layout().shard_rows(s), whole.layout().shard_rows(s));
        covered += a.layout().shard_rows(s).size();
    }
    EXPECT_EQ(covered, 300);
    for (Index i = 0; i < 300; ++i) {
        EXPECT_TRUE(a.layout().rank_rows(a.layout().owner(i)).contains(i));
    }
}

TEST_F(BlockRowsTest, ShardsBalanceEntriesPlusRows) {
    const auto a = ragged(comm, 3000, 60);
    std::vector<double> costs(64, 0.0);
    for (Index s = a.shards().begin; s < a.shards().end; ++s) {
        costs[static_cast<std::size_t>(s)] =
            double(a.shard(s).nnz()) + double(row_cost * a.shard(s).rows);
    }
    comm.all_reduce(std::span<double>(costs), Reduce::sum);
    double total = 0.0;
    for (const double c : costs) total += c;
    for (const double c : costs) EXPECT_NEAR(c, total / 64.0, 60.0 + double(row_cost));
}

TEST_F(BlockRowsTest, AssembleAndTransposeKeepEveryEntry) {
    const auto a = ragged(comm, 100, 37);
    const auto all = entries(a);
    EXPECT_EQ(static_cast<Index>(all.size()), a.nnz());
    for (const auto& [place, value] : all) EXPECT_EQ(value, element(place.first, place.second));
    const auto t = transpose(a);
    EXPECT_EQ(t.rows(), 37);
    EXPECT_EQ(t.cols(), 100);
    const auto turned = entries(t);
    EXPECT_EQ(turned.size(), all.size());
    for (const auto& [place, value] : turned) {
        EXPECT_EQ(value, element(place.second, place.first));
    }
}

TEST_F(BlockRowsTest, EntryTransposeTakesNumbersToWhereTransposeTakesTheValues) {
    for (const auto& [m, n] : {std::pair<Index, Index>{100, 37}, {5, 90}, {1, 1}}) {
        const auto a = ragged(comm, m, n);
        const auto t = transpose(a);
        const EntryTranspose<double> to_columns(a, t);
        std::vector<double> found(t.local().values.size(), -1.0);
        for (int repeat = 0; repeat < 2; ++repeat) {
            to_columns.apply(a.local().values, found);
            EXPECT_TRUE(std::ranges::equal(found, t.local().values));
        }
    }
}

TEST_F(BlockRowsTest, RedistributeKeepsRowsInPlace) {
    const auto a = ragged(comm, 100, 37);
    const auto to = ShardLayout::even(100, 8, comm.size());
    const auto moved = redistribute(a, to);
    EXPECT_EQ(moved.layout(), to);
    EXPECT_EQ(entries(moved), entries(a));
    BlockRows<double> dense(comm, a.layout(), 5);
    for (Index i = 0; i < dense.local().rows(); ++i) {
        for (Index j = 0; j < 5; ++j) dense.local()(i, j) = element(dense.first_row() + i, j);
    }
    const auto dense_moved = redistribute(dense, to);
    for (Index i = 0; i < dense_moved.local().rows(); ++i) {
        for (Index j = 0; j < 5; ++j) {
            EXPECT_EQ(dense_moved.local()(i, j), element(dense_moved.first_row() + i, j));
        }
    }
    const auto turned = transpose(dense);
    for (Index i = 0; i < turned.local().rows(); ++i) {
        for (Index j = 0; j < 100; ++j) {
            EXPECT_EQ(turned.local()(i, j), element(j, turned.first_row() + i));
        }
    }
}

TEST_F(BlockRowsTest, GramMatchesTheTripleLoopWithTheSameBitsOnAnyRanks) {
    const auto fill = [](const Communicator& c) {
        BlockRows<float> y(c, ShardLayout::even(500, 64, c.size()), 6);
        const Philox random(2, Stream::weights);
        for (Index i = 0; i < y.local().rows(); ++i) {
            for (Index f = 0; f < 6; ++f) {
                y.local()(i, f) = float(random.normal(y.first_row() + i, f));
            }
        }
        return y;
    };
    const auto y = fill(comm);
    const auto g = gram(y);
    const auto whole = gather_all(y);
    for (Index a = 0; a < 6; ++a) {
        for (Index b = a; b < 6; ++b) {
            double expected = 0.0;
            for (Index i = 0; i < 500; ++i) expected += double(whole(i, a)) * double(whole(i, b));
            EXPECT_NEAR(g(a, b), expected, 1e-3);
        }
    }
    Ledger alone_ledger;
    const Communicator alone(MPI_COMM_SELF, alone_ledger);
    const auto same = gram(fill(alone));
    for (std::size_t e = 0; e < 36; ++e) EXPECT_EQ(same.data()[e], g.data()[e]);
}

TEST_F(BlockRowsTest, ExchangeBringsAllOrNeededRowsAndPredictsItsBytes) {
    BlockRows<float> y(comm, ShardLayout::even(50, 64, comm.size()), 3);
    for (Index i = 0; i < y.local().rows(); ++i) {
        for (Index f = 0; f < 3; ++f) y.local()(i, f) = float(element(y.first_row() + i, f));
    }
    std::vector<Index> needed;
    for (Index i = comm.rank(); i < 50; i += 3) needed.push_back(i);
    {
        const auto phase = ledger.phase("exchange");
        const RowExchange all = RowExchange::all(comm, y.layout());
        DenseMatrix<float> buffer(all.buffer_rows(), 3);
        all.gather(y, buffer.view());
        for (Index i = 0; i < 50; ++i) EXPECT_EQ(buffer(all.position(i), 2), float(element(i, 2)));
    }
    EXPECT_EQ(ledger.phases().back().bytes_sent, ledger.phases().back().bytes_predicted);
    const RowExchange some(comm, y.layout(), ExchangeScheme::needed, needed);
    DenseMatrix<float> buffer(some.buffer_rows(), 3);
    {
        const auto phase = ledger.phase("needed");
        some.gather(y, buffer.view());
    }
    EXPECT_EQ(ledger.phases().back().bytes_sent, ledger.phases().back().bytes_predicted);
    EXPECT_EQ(some.buffer_rows(), static_cast<Index>(needed.size()));
    for (const Index i : needed) EXPECT_EQ(buffer(some.position(i), 1), float(element(i, 1)));
}

TEST_F(BlockRowsTest, DigestSeesValuesAndPlacesButNotRanks) {
    const auto make = [](const Communicator& c) {
        BlockRows<double> y(c, ShardLayout::even(30, 64, c.size()), 2);
        for (Index i = 0; i < y.local().rows(); ++i) {
            y.local()(i, 0) = element(y.first_row() + i, 0);
        }
        return y;
    };
    auto y = make(comm);
    std::vector<double> extra{1.0, 2.0, 3.0};
    TensorList state;
    state.add("y", y);
    state.add_replicated("extra", {3}, std::span<double>(extra));
    Ledger alone_ledger;
    const Communicator alone(MPI_COMM_SELF, alone_ledger);
    auto whole = make(alone);
    TensorList same;
    same.add("y", whole);
    same.add_replicated("extra", {3}, std::span<double>(extra));
    EXPECT_EQ(digest(comm, state), digest(alone, same));
    std::swap(extra[0], extra[1]);
    EXPECT_NE(digest(comm, state), digest(alone, TensorList{{same.tensors[0]}, {}}));
    EXPECT_TRUE(all_finite(comm, state));
    if (comm.is_root()) y.local()(0, 1) = std::nan("");
    EXPECT_FALSE(all_finite(comm, state));
}

}  // namespace rankfold::test
