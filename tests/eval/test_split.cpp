#include <rankfold/eval/split.hpp>

#include <algorithm>
#include <cmath>
#include <map>

#include <rankfold/eval/align.hpp>

#include "eval_problem.hpp"

namespace rankfold::test {

namespace {

using Entries = std::map<std::pair<Index, Index>, float>;

/// All entries of the matrix, on every rank.
Entries entries_of(const BlockRowCsr<float>& a) {
    std::vector<Triplet<float>> mine;
    const auto local = a.local().view();
    for (Index i = 0; i < local.rows; ++i) {
        for (std::size_t e = 0; e < local.row_cols(i).size(); ++e) {
            mine.push_back({a.first_row() + i, local.row_cols(i)[e], local.row_values(i)[e]});
        }
    }
    Entries all;
    for (const auto& t : a.comm().all_gather(std::span<const Triplet<float>>(mine))) {
        EXPECT_TRUE(all.emplace(std::pair(t.row, Index{t.col}), t.value).second);
    }
    return all;
}

/// Row 0 is empty, row 1 has one entry, row 2 has two, row 3 is full, the others are random.
BlockRowCsr<float> sample(const Communicator& comm) {
    return sparse_of<float>(comm, small_layout(comm, 120), 40, [](Index i, Index j) {
        const bool stands = i < 3    ? j < i
                            : i == 3 ? true
                                     : Philox(5, Stream::split).uniform(i, j) < 0.4;
        return stands ? 1.0 + double((i + j) % 5) : 0.0;
    });
}

}  // namespace

class Split : public MpiTest {
protected:
    std::unique_ptr<Communicator> alone = comm.split(comm.rank());

    /// Parts are disjoint, complete, and the same on one rank.
    void check_parts(const SplitRule& rule) {
        const auto a = sample(comm);
        const auto parts = split_entries(a, rule);
        Entries joined = entries_of(parts.train);
        joined.merge(entries_of(parts.test));
        Index count = parts.train.nnz() + parts.test.nnz();
        if (parts.validation) {
            joined.merge(entries_of(*parts.validation));
            count += parts.validation->nnz();
        }
        EXPECT_EQ(joined, entries_of(a));
        EXPECT_EQ(count, a.nnz());
        const auto single = split_entries(sample(*alone), rule);
        EXPECT_EQ(entries_of(parts.train), entries_of(single.train));
        EXPECT_EQ(entries_of(parts.test), entries_of(single.test));
        EXPECT_EQ(parts.validation.has_value(), rule.validation > 0.0);
        if (parts.validation) {
            EXPECT_EQ(entries_of(*parts.validation), entries_of(*single.validation));
        }
        EXPECT_EQ(parts.rows_without_test, single.rows_without_test);
    }
};

TEST_F(Split, PartsAreDisjointCompleteAndTheSameOnAnyRankCount) {
    check_parts({.holdout = 0.2});
    check_parts({.holdout = 0.2, .validation = 0.3, .seed = 4});
    check_parts({.leave_one_out = true});
    check_parts({.validation = 1.0, .leave_one_out = true});
}

TEST_F(Split, FoldsTestEveryEntryOnce) {
    const auto a = sample(comm);
    const auto numbers = fold_numbers(a, 3, 1);
    Entries tested;
    for (Index fold = 1; fold <= 3; ++fold) {
        const auto parts = split_entries(a, {.folds = 3, .fold = fold}, numbers);
        EXPECT_EQ(parts.train.nnz() + parts.test.nnz(), a.nnz());
        EXPECT_NEAR(double(parts.test.nnz()), double(a.nnz()) / 3.0, 0.1 * double(a.nnz()));
        tested.merge(entries_of(parts.test));
        const auto single = sample(*alone);
        EXPECT_EQ(
            entries_of(parts.test),
            entries_of(split_entries(single, {.folds = 3, .fold = fold}, fold_numbers(single, 3, 1))
                           .test));
    }
    EXPECT_EQ(tested, entries_of(a));
}

TEST_F(Split, FoldsKeepAShareForValidation) {
    const auto a = sample(comm);
    const auto parts =
        split_entries(a, {.validation = 0.25, .folds = 4, .fold = 2}, fold_numbers(a, 4, 1));
    EXPECT_EQ(parts.train.nnz() + parts.test.nnz() + parts.validation->nnz(), a.nnz());
    const double left = double(a.nnz() - parts.test.nnz());
    EXPECT_NEAR(double(parts.validation->nnz()), 0.25 * left, 0.05 * left);
}

TEST_F(Split, TheLastEntryOfARowIsThatOfTheGreatestTimeAndColumn) {
    const auto a = sample(comm);
    std::vector<std::int64_t> times;
    const auto time_of = [](Index i, Index j) { return std::int64_t((5 * i + 3 * j) % 7); };
    const auto local = a.local().view();
    for (Index i = 0; i < local.rows; ++i) {
        for (const ColIndex j : local.row_cols(i)) times.push_back(time_of(a.first_row() + i, j));
    }
    const auto parts = split_entries(a, {.validation = 0.1, .leave_last_out = true}, times);
    for (Index i = 0; i < local.rows; ++i) {
        std::vector<std::pair<std::int64_t, ColIndex>> order;
        for (const ColIndex j : local.row_cols(i)) {
            order.emplace_back(time_of(a.first_row() + i, j), j);
        }
        std::ranges::sort(order, std::greater<>());
        const auto test = parts.test.local().view().row_cols(i);
        const auto validation = parts.validation->local().view().row_cols(i);
        EXPECT_EQ(test.size(), order.size() >= 2 ? 1U : 0U);
        EXPECT_EQ(validation.size(), order.size() >= 3 ? 1U : 0U);
        if (test.size() == 1) {
            EXPECT_EQ(test[0], order[0].second);
        }
        if (validation.size() == 1) {
            EXPECT_EQ(validation[0], order[1].second);
        }
    }
}

TEST_F(Split, RowsThatAreHeldOutAreNotInTraining) {
    const auto a = sample(comm);
    const auto parts = split_entries(a, {.validation = 0.2, .holdout_rows = 0.3});
    Index held = 0;
    for (Index i = 0; i < a.local().rows(); ++i) {
        const Index trained = parts.train.local().view().row_nnz(i);
        const Index tested =
            parts.test.local().view().row_nnz(i) + parts.test_in->local().view().row_nnz(i);
        const Index validated = parts.validation->local().view().row_nnz(i) +
                                parts.validation_in->local().view().row_nnz(i);
        EXPECT_EQ(std::max({trained, tested, validated}), a.local().view().row_nnz(i));
        held += tested > 0 ? 1 : 0;
    }
    held = comm.all_reduce(held, Reduce::sum);
    EXPECT_NEAR(double(held), 0.3 * 119.0, 15.0);
    const double shown = double(parts.test_in->nnz());
    EXPECT_NEAR(shown / (shown + double(parts.test.nnz())), 0.8, 0.05);
    const auto single = split_entries(sample(*alone), {.validation = 0.2, .holdout_rows = 0.3});
    EXPECT_EQ(entries_of(*parts.test_in), entries_of(*single.test_in));
}

TEST_F(Split, HoldoutTakesTheWantedShareByTheDrawnNumber) {
    const auto a = sample(comm);
    const auto parts = split_entries(a, {.holdout = 0.2, .validation = 0.25, .seed = 9});
    const auto n = static_cast<double>(a.nnz());
    const double margin = 4.0 * std::sqrt(0.16 / n);
    EXPECT_NEAR(static_cast<double>(parts.test.nnz()) / n, 0.2, margin);
    EXPECT_NEAR(static_cast<double>(parts.validation->nnz()) / n, 0.2, margin);
    const Philox random(9, Stream::split);
    for (const auto& [at, value] : entries_of(parts.test)) {
        EXPECT_LT(random.uniform(at.first, at.second), 0.2);
    }
}

TEST_F(Split, LeaveOneOutTakesOneOfEachRowThatHasTwo) {
    const auto parts = split_entries(sample(comm), {.validation = 0.5, .leave_one_out = true});
    std::vector<Index> test(120, 0);
    std::vector<Index> validation(120, 0);
    for (const auto& [at, value] : entries_of(parts.test)) ++test[std::size_t(at.first)];
    for (const auto& [at, value] : entries_of(*parts.validation)) {
        ++validation[std::size_t(at.first)];
    }
    EXPECT_EQ(test[0], 0);
    EXPECT_EQ(test[1], 0);
    EXPECT_EQ(validation[2], 0);  // its second entry stays in training
    for (std::size_t i = 2; i < 120; ++i) EXPECT_EQ(test[i], 1) << i;
    for (std::size_t i = 3; i < 120; ++i) EXPECT_EQ(validation[i], 1) << i;
    EXPECT_EQ(parts.rows_without_test, 2);
}

TEST_F(Split, NegativesAreDistinctColumnsThatAreInNoPart) {
    const SplitRule rule{.leave_one_out = true, .negatives = 15};
    const auto a = sample(comm);
    const auto parts = split_entries(a, rule);
    const auto drawn = entries_of(*parts.negatives);
    EXPECT_EQ(drawn, entries_of(*split_entries(sample(*alone), rule).negatives));
    const auto all = entries_of(a);
    std::vector<Index> count(120, 0);
    std::vector<Index> free(120, 40);
    for (const auto& [at, value] : all) --free[std::size_t(at.first)];
    for (const auto& [at, value] : drawn) {
        EXPECT_FALSE(all.contains(at));
        EXPECT_EQ(value, 1.0F);
        ++count[std::size_t(at.first)];
    }
    Index short_rows = 0;
    for (std::size_t i = 0; i < 120; ++i) {
        EXPECT_EQ(count[i], std::min<Index>(15, free[i])) << i;
        short_rows += free[i] < 15 ? 1 : 0;
    }
    EXPECT_EQ(parts.rows_short_of_negatives, short_rows);
    EXPECT_GE(short_rows, 1);
}

TEST_F(Split, RowsOfADenseMatrixAreCutAndRenumbered) {
    const auto cut = [](const Communicator& on) {
        const auto a = dense_of<float>(on, small_layout(on, 200), 3,
                                       [](Index i, Index j) { return double(10 * i + j); });
        const auto rows = split_rows(a.layout().rank_rows(on.rank()), {.holdout = 0.3});
        const auto test = select_rows(a, rows.test);
        const auto train = select_rows(a, rows.train);
        EXPECT_EQ(test.rows() + train.rows(), 200);
        EXPECT_NEAR(double(test.rows()), 60.0, 26.0);
        std::vector<float> firsts;
        for (const auto* part : {&test, &train}) {
            const auto whole = gather_all(*part);
            for (Index i = 0; i < whole.rows(); ++i) {
                EXPECT_EQ(whole(i, 2), whole(i, 0) + 2.0F);
                firsts.push_back(whole(i, 0));
            }
        }
        return firsts;
    };
    auto firsts = cut(comm);
    EXPECT_EQ(firsts, cut(*alone));
    std::ranges::sort(firsts);
    for (std::size_t i = 0; i < 200; ++i) EXPECT_EQ(firsts[i], static_cast<float>(10 * i));
}

TEST_F(Split, AMatrixIsAlignedWithAModelByMaps) {
    const auto a = sparse_of<float>(comm, small_layout(comm, 6), 4, [](Index i, Index j) {
        return (i + j) % 2 == 0 ? double(10 * i + j + 1) : 0.0;
    });
    const std::vector<Index> row_map{3, -1, 0, 1, 2, 5};
    const std::vector<Index> col_map{1, 0, -1, 2};
    const auto layout = ShardLayout::even(8, 5, comm.size());
    const auto aligned = align(a, layout, Index{3}, row_map, col_map);
    Entries expected;
    Index strangers = 0;
    for (Index i = 0; i < 6; ++i) {
        for (Index j = 0; j < 4; ++j) {
            if ((i + j) % 2 != 0) continue;
            if (i == 1 || j == 2) {
                ++strangers;
            } else {
                expected[{row_map[std::size_t(i)], col_map[std::size_t(j)]}] =
                    static_cast<float>(10 * i + j + 1);
            }
        }
    }
    EXPECT_EQ(entries_of(aligned.matrix), expected);
    EXPECT_EQ(comm.all_reduce(static_cast<Index>(aligned.strangers.size()), Reduce::sum),
              strangers);
    EXPECT_EQ(entries_of(align(a, ShardLayout::even(6, 3, comm.size()), Index{4}, {}, {}).matrix),
              entries_of(a));
    EXPECT_EQ(entries_of(rebalance(a)), entries_of(a));
}

}  // namespace rankfold::test
