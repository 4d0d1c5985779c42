// Matrices that depend on nothing but their indices, the same on any number of ranks.
#pragma once

#include <string>
#include <vector>

#include <rankfold/comm/communicator.hpp>
#include <rankfold/data/matrix_file.hpp>

namespace rankfold::test {

inline double sparse_value(Index i, Index j) {
    return static_cast<double>((7 * i + 3 * j) % 11) * 0.25 - 1.0;
}

/// Entries where (i + 2 j) is divisible by 3; row 2 is empty.
inline bool has_entry(Index i, Index j) {
    return i != 2 && (i + 2 * j) % 3 == 0;
}

template <Real R>
MatrixData<R> make_sparse(const Communicator& comm, Index rows, Index cols) {
    std::vector<Triplet<R>> triplets;
    std::vector<Index> counts;
    const Range part = even_part(rows, comm.size(), comm.rank());
    for (Index i = part.begin; i < part.end; ++i) {
        counts.push_back(0);
        for (Index j = 0; j < cols; ++j) {
            if (!has_entry(i, j)) continue;
            triplets.push_back({i, static_cast<ColIndex>(j), static_cast<R>(sparse_value(i, j))});
            ++counts.back();
        }
    }
    MatrixData<R> data;
    data.sparse =
        assemble(comm, balanced_layout(comm, rows, part.begin, counts), cols, std::move(triplets));
    return data;
}

template <Real R>
MatrixData<R> make_dense(const Communicator& comm, Index rows, Index cols, bool bytes = false) {
    MatrixData<R> data;
    data.dense =
        BlockRows<R>(comm, ShardLayout::even(rows, shard_count(rows * cols), comm.size()), cols);
    for (Index i = 0; i < data.dense->local().rows(); ++i) {
        for (Index j = 0; j < cols; ++j) {
            const Index row = data.dense->first_row() + i;
            data.dense->local()(i, j) =
                bytes ? static_cast<R>((13 * row + j) % 256) : static_cast<R>(sparse_value(row, j));
        }
    }
    return data;
}

/// Labels i mod classes, with names "class 0", …
template <Real R>
void add_labels(MatrixData<R>& data, Index classes) {
    data.labels = BlockRows<Index>(data.comm(), data.layout(), 1);
    for (Index i = 0; i < data.labels->local().rows(); ++i) {
        data.labels->local()(i, 0) = (data.labels->first_row() + i) % classes;
    }
    for (Index c = 0; c < classes; ++c) data.class_names.push_back("class " + std::to_string(c));
}

/// The whole matrix, dense, on every rank: 0 where there is no entry.
template <Real R>
DenseMatrix<double> whole(const MatrixData<R>& data) {
    BlockRows<R> rows(data.comm(), data.layout(), data.cols());
    if (data.dense) {
        std::ranges::copy(data.dense->local().data(), rows.local().data().begin());
    } else {
        const auto& local = data.sparse->local();
        for (Index i = 0; i < local.rows(); ++i) {
            const auto cols = local.view().row_cols(i);
            for (std::size_t e = 0; e < cols.size(); ++e) {
                rows.local()(i, cols[e]) = local.view().row_values(i)[e];
            }
        }
    }
    const DenseMatrix<R> all = gather_all(rows);
    DenseMatrix<double> result(all.rows(), all.cols());
    std::ranges::copy(all.data(), result.data().begin());
    return result;
}

}  // namespace rankfold::test
