// What the tests of eval share: small matrices from lists of entries, and a scorer from a table.
#pragma once

#include <functional>
#include <vector>

#include <rankfold/core/random.hpp>
#include <rankfold/eval/scorer.hpp>

#include "support/mpi_test.hpp"

namespace rankfold::test {

/// A layout of `rows` rows in few shards, so that small matrices reach all ranks.
inline ShardLayout small_layout(const Communicator& comm, Index rows) {
    return ShardLayout::even(rows, 7, comm.size());
}

/// The matrix whose entry (i, j) is value(i, j) where that is not 0; each rank makes its own rows.
template <Real R>
BlockRowCsr<R> sparse_of(const Communicator& comm, const ShardLayout& layout, Index cols,
                         const std::function<double(Index, Index)>& value) {
    const Range rows = layout.rank_rows(comm.rank());
    CsrMatrix<R> local;
    local.cols = cols;
    for (Index i = rows.begin; i < rows.end; ++i) {
        for (Index j = 0; j < cols; ++j) {
            const double x = value(i, j);
            if (x == 0.0) continue;
            local.col_idx.push_back(static_cast<ColIndex>(j));
            local.values.push_back(static_cast<R>(x));
        }
        local.row_ptr.push_back(local.nnz());
    }
    return {comm, layout, std::move(local)};
}

template <Real R>
BlockRows<R> dense_of(const Communicator& comm, const ShardLayout& layout, Index cols,
                      const std::function<double(Index, Index)>& value) {
    BlockRows<R> a(comm, layout, cols);
    for (Index i = 0; i < a.local().rows(); ++i) {
        for (Index j = 0; j < cols; ++j) {
            a.local()(i, j) = static_cast<R>(value(a.first_row() + i, j));
        }
    }
    return a;
}

/// Scores by a function of (row, column).
template <Real R>
struct TableScorer {
    ShardLayout shards;
    Index columns;
    std::function<double(Index, Index)> score;

    [[nodiscard]] Index rows() const { return shards.rows(); }
    [[nodiscard]] Index cols() const { return columns; }
    [[nodiscard]] const ShardLayout& layout() const { return shards; }
    void scores(Range range, MatrixView<R> out) const {
        for (Index i = range.begin; i < range.end; ++i) {
            for (Index j = 0; j < columns; ++j) {
                out(i - range.begin, j) = static_cast<R>(score(i, j));
            }
        }
    }
};

/// Random factors with all the parts that factors can have.
template <Real R>
Factors<R> random_factors(const Communicator& comm, const ShardLayout& layout, Index cols,
                          Index k) {
    const auto normal = [](std::uint64_t seed) {
        return [random = Philox(seed, Stream::row_factors)](Index i, Index j) {
            return random.normal(i, j);
        };
    };
    const ShardLayout other = small_layout(comm, cols);
    Factors<R> factors;
    factors.rows = dense_of<R>(comm, layout, k, normal(1));
    factors.cols = dense_of<R>(comm, other, k, normal(2));
    factors.row_bias = dense_of<R>(comm, layout, 1, normal(3));
    factors.col_bias = dense_of<R>(comm, other, 1, normal(4));
    factors.column_mean = dense_of<R>(comm, other, 1, normal(5));
    for (Index f = 0; f < k; ++f) factors.singular_values.push_back(static_cast<R>(k - f));
    factors.global_mean = 3.5;
    return factors;
}

}  // namespace rankfold::test
