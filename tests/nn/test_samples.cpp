#include <rankfold/nn/negative_samples.hpp>
#include <rankfold/nn/row_samples.hpp>

#include "support/mpi_test.hpp"

namespace rankfold::test {

namespace {

constexpr Index m = 23;
constexpr Index n = 5;

BlockRows<double> dense_rows(const Communicator& comm, Index shards) {
    BlockRows<double> rows(comm, ShardLayout::even(m, shards, comm.size()), n);
    for (Index i = 0; i < rows.local().rows(); ++i) {
        for (Index j = 0; j < n; ++j) {
            rows.local()(i, j) = static_cast<double>(10 * (rows.first_row() + i) + j);
        }
    }
    return rows;
}

/// Row i has the entries (i mod 4 of them) of value i + 1 at columns 0, 1, …; so some have none.
BlockRowCsr<double> sparse_rows(const Communicator& comm, Index shards) {
    const auto layout = ShardLayout::even(m, shards, comm.size());
    std::vector<Triplet<double>> triplets;
    const Range mine = layout.rank_rows(comm.rank());
    for (Index i = mine.begin; i < mine.end; ++i) {
        for (Index j = 0; j < i % 4; ++j) {
            triplets.push_back({i, static_cast<ColIndex>(j), static_cast<double>(i + 1)});
        }
    }
    return assemble(comm, layout, n, std::move(triplets));
}

/// All samples of this rank, in one micro-batch with its input.
template <class Source>
std::pair<MicroBatch<double>, DenseMatrix<double>> all_samples(const Source& source, Index width,
                                                               std::vector<Index>& ids) {
    const Range blocks = even_part(source.blocks(), source.comm().size(), source.comm().rank());
    for (Index b = blocks.begin; b < blocks.end; ++b) {
        const Range block = even_part(source.samples(), source.blocks(), b);
        for (Index i = block.begin; i < block.end; ++i) ids.push_back(i);
    }
    DenseMatrix<double> input(static_cast<Index>(ids.size()), width);
    MicroBatch<double> batch;
    batch.samples = ids;
    batch.inputs.push_back(input.view());
    source.fill(batch);
    return {std::move(batch), std::move(input)};
}

}  // namespace

class Samples : public MpiTest {};

TEST_F(Samples, OfLabelledRowsStandInTheBlocksOfTheirRank) {
    const auto rows = dense_rows(comm, 3);
    BlockRows<Index> labels(comm, rows.layout(), 1);
    for (Index i = 0; i < labels.local().rows(); ++i) {
        labels.local()(i, 0) = (labels.first_row() + i) % 3;
    }
    for (const Index blocks : {1, 4, 7, 30}) {
        const RowSamples<double> samples(rows, 0.5, labels, 3, blocks);
        EXPECT_EQ(samples.samples(), m);
        std::vector<Index> ids;
        const auto [batch, input] = all_samples(samples, n, ids);
        for (std::size_t i = 0; i < ids.size(); ++i) {
            EXPECT_EQ(batch.targets.labels[i], ids[i] % 3);
            EXPECT_EQ(input(static_cast<Index>(i), 2), 0.5 * static_cast<double>(10 * ids[i] + 2));
        }
    }
}

TEST_F(Samples, OfDistributionsLeaveOutRowsWithoutEntriesAndSumToOne) {
    const auto rows = sparse_rows(comm, 5);
    std::vector<Index> wanted;  // the row of each sample
    for (Index i = 0; i < m; ++i) {
        if (i % 4 > 0) wanted.push_back(i);
    }
    for (const Index blocks : {1, 4, 6, 40}) {
        const RowSamples<double> samples(rows, 1.0, rows, blocks);
        EXPECT_EQ(samples.samples(), static_cast<Index>(wanted.size()));
        std::vector<Index> ids;
        const auto [batch, input] = all_samples(samples, n, ids);
        for (std::size_t i = 0; i < ids.size(); ++i) {
            const Index row = wanted[static_cast<std::size_t>(ids[i])];
            const auto& target = batch.targets.distributions[i];
            EXPECT_EQ(static_cast<Index>(target.columns.size()), row % 4);
            for (const double t : target.weights) {
                EXPECT_DOUBLE_EQ(t, 1.0 / static_cast<double>(row % 4));
            }
            EXPECT_EQ(input(static_cast<Index>(i), 0), static_cast<double>(row + 1));
            EXPECT_EQ(input(static_cast<Index>(i), 4), 0.0);
        }
    }
}

TEST_F(Samples, OfEntriesJoinTheRowsOfBothSides) {
    const auto entries = sparse_rows(comm, 5);
    const auto x = dense_rows(comm, 4);
    BlockRows<double> y(comm, ShardLayout::even(n, 2, comm.size()), 2);
    for (Index j = 0; j < y.local().rows(); ++j) {
        y.local()(j, 1) = static_cast<double>(y.first_row() + j);
    }
    for (const Index blocks : {1, 4, 50}) {
        const PairSamples<double> samples(entries, x, y, blocks);
        EXPECT_EQ(samples.samples(), entries.nnz());
        std::vector<Index> ids;
        const auto [batch, input] = all_samples(samples, n + 2, ids);
        double sum = 0.0;
        for (std::size_t s = 0; s < ids.size(); ++s) {
            const double row = batch.targets.values[s] - 1.0;  // a row's value tells its number
            EXPECT_EQ(input(static_cast<Index>(s), 3), 10.0 * row + 3.0);
            EXPECT_LT(input(static_cast<Index>(s), n + 1), 3.0);
            sum += batch.targets.values[s];
        }
        const double total = comm.all_reduce(sum, Reduce::sum);
        EXPECT_NEAR(samples.mean(), total / static_cast<double>(samples.samples()), 1e-12);
    }
}

TEST_F(Samples, ThatCannotBeLearntFromAreRefusedOnAllRanks) {
    auto rows = sparse_rows(comm, 5);
    BlockRows<Index> labels(comm, rows.layout(), 1);
    if (labels.local().rows() > 0) labels.local()(0, 0) = comm.is_root() ? 3 : 0;
    const std::string range =
        expect_error(Fault::input, [&] { RowSamples<double>(rows, 1.0, labels, 3, 4); });
    EXPECT_NE(range.find("row 0 has the label 3"), std::string::npos) << range;
    if (!rows.local().values.empty()) rows.local().values.back() = -1.0;
    const std::string negative =
        expect_error(Fault::input, [&] { RowSamples<double>(rows, 1.0, rows, 4); });
    EXPECT_NE(negative.find("negative"), std::string::npos) << negative;
    const auto nothing = assemble(comm, rows.layout(), n, std::vector<Triplet<double>>{});
    expect_error(Fault::input, [&] { RowSamples<double>(nothing, 1.0, nothing, 4); });
    expect_error(Fault::input, [&] {
        PairSamples<double>(nothing, dense_rows(comm, 4),
                            BlockRows<double>(comm, ShardLayout::even(n, 1, comm.size()), 2), 4);
    });
}

TEST_F(Samples, DefaultMicroBatchesArePowersOfTwoFromTheBatchAlone) {
    EXPECT_EQ(default_micro_batches(1), 4);
    EXPECT_EQ(default_micro_batches(256), 4);
    EXPECT_EQ(default_micro_batches(1023), 4);
    EXPECT_EQ(default_micro_batches(1024), 8);
    EXPECT_EQ(default_micro_batches(8192), 64);
}

TEST_F(Samples, DrawnPairsHaveNoEntryAndDependOnTheEpochAndTheSampleAlone) {
    const ShardLayout layout = ShardLayout::even(11, 4, comm.size());
    CsrMatrix<double> local;
    local.cols = 6;
    const auto has = [](Index i, Index j) { return (i * 3 + j) % 2 == 0 || j == i % 6; };
    for (Index i = layout.rank_rows(comm.rank()).begin; i < layout.rank_rows(comm.rank()).end;
         ++i) {
        for (Index j = 0; j < 6; ++j) {
            if (has(i, j)) local.col_idx.push_back(static_cast<ColIndex>(j));
        }
        local.row_ptr.push_back(static_cast<Index>(local.col_idx.size()));
    }
    local.values.assign(local.col_idx.size(), 1.0);
    const BlockRowCsr<double> matrix(comm, layout, std::move(local));
    const NegativeSamples<double> samples(matrix, 2, NegativeUse::labelled, 3, 9);
    EXPECT_EQ(samples.samples(), 3 * matrix.nnz());
    const Range blocks = even_part(3, comm.size(), comm.rank());
    std::vector<Index> seen;
    for (const Index epoch : {0, 1}) {
        for (Index b = blocks.begin; b < blocks.end; ++b) {
            const Range ids = even_part(samples.samples(), 3, b);
            std::vector<Index> names;
            for (Index s = ids.begin; s < ids.end; ++s) names.push_back(s);
            std::vector<Index> rows(names.size());
            std::vector<Index> cols(names.size());
            MicroBatch<double> batch;
            batch.samples = names;
            batch.epoch = epoch;
            batch.indices = {rows, cols};
            samples.fill(batch);
            for (std::size_t i = 0; i < names.size(); ++i) {
                const bool entry = names[i] % 3 == 0;
                EXPECT_EQ(has(rows[i], cols[i]), entry);
                EXPECT_EQ(batch.targets.values[i], entry ? 1.0 : 0.0);
                seen.insert(seen.end(), {names[i], rows[i], cols[i], epoch});
            }
        }
    }
    EXPECT_EQ(comm.all_reduce(static_cast<Index>(seen.size()), Reduce::sum),
              2 * 4 * samples.samples());
}

TEST_F(Samples, StandardisedColumnsHaveMeanZeroAndDeviationOne) {
    BlockRows<double> matrix(comm, ShardLayout::even(23, 5, comm.size()), 3);
    for (Index i = 0; i < matrix.local().rows(); ++i) {
        const auto row = static_cast<double>(matrix.first_row() + i);
        matrix.local()(i, 0) = 5.0 + 2.0 * row;
        matrix.local()(i, 1) = 7.0;
        matrix.local()(i, 2) = row * row;
    }
    const ColumnScale<double> scale = column_scale(matrix);
    EXPECT_NEAR(scale.mean[0], 27.0, 1e-12);
    EXPECT_EQ(scale.deviation[1], 1.0);
    InputRows<double> rows(matrix, matrix.layout(), 1.0);
    rows.standardise(scale.mean, scale.deviation);
    std::array<double, 6> sums{};
    for (Index i = 0; i < matrix.local().rows(); ++i) {
        std::array<double, 3> row{};
        rows.copy_row(matrix.first_row() + i, row);
        for (std::size_t j = 0; j < 3; ++j) {
            sums[2 * j] += row[j];
            sums[2 * j + 1] += row[j] * row[j];
        }
    }
    comm.all_reduce(std::span<double>(sums), Reduce::sum);
    for (const std::size_t j : {0U, 2U}) {
        EXPECT_NEAR(sums[2 * j], 0.0, 1e-9);
        EXPECT_NEAR(sums[2 * j + 1] / 23.0, 1.0, 1e-9);
    }
    EXPECT_EQ(sums[2], 0.0);
}

}  // namespace rankfold::test
