// Non-owning views of dense row-major and of compressed sparse row matrices.
#pragma once

#include <span>
#include <type_traits>

#include <rankfold/core/types.hpp>

namespace rankfold {

/// A dense row-major matrix that somebody else owns: element (i, j) is data[i * ld + j].
template <class T>
struct MatrixView {
    T* data = nullptr;
    Index rows = 0;
    Index cols = 0;
    Index ld = 0;  ///< elements from one row to the next, at least cols

    MatrixView() = default;
    MatrixView(T* data_, Index rows_, Index cols_, Index ld_)
        : data{data_}, rows{rows_}, cols{cols_}, ld{ld_} {}
    MatrixView(T* data_, Index rows_, Index cols_) : MatrixView(data_, rows_, cols_, cols_) {}

    /// A view of mutable elements is also one of constant elements.
    operator MatrixView<const T>() const  // NOLINT(google-explicit-constructor)
        requires(!std::is_const_v<T>) {
        return {data, rows, cols, ld};
    }

    [[nodiscard]] T& operator()(Index i, Index j) const { return data[i * ld + j]; }
    [[nodiscard]] std::span<T> row(Index i) const {
        return {data + i * ld, static_cast<std::size_t>(cols)};
    }
    /// Rows [range.begin, range.end).
    [[nodiscard]] MatrixView row_block(Range range) const {
        return {data + range.begin * ld, range.size(), cols, ld};
    }
    /// Columns [range.begin, range.end).
    [[nodiscard]] MatrixView col_block(Range range) const {
        return {data + range.begin, rows, range.size(), ld};
    }
};

/// One row of a sparse matrix that somebody else owns.
template <Real R>
struct SparseRow {
    std::span<const ColIndex> columns;
    std::span<const R> values;
};

/// A sparse matrix in compressed sparse rows that somebody else owns: row i has its entries at
/// positions row_ptr[i] … row_ptr[i + 1] − 1 of `col_idx` (increasing in a row) and `values`.
template <Real R>
struct CsrView {
    Index rows = 0;
    Index cols = 0;
    const Index* row_ptr = nullptr;  // rows + 1
    const ColIndex* col_idx = nullptr;
    const R* values = nullptr;

    [[nodiscard]] Index nnz() const { return rows == 0 ? 0 : row_ptr[rows] - row_ptr[0]; }
    [[nodiscard]] Index row_nnz(Index i) const { return row_ptr[i + 1] - row_ptr[i]; }
    [[nodiscard]] std::span<const ColIndex> row_cols(Index i) const {
        return {col_idx + row_ptr[i], static_cast<std::size_t>(row_nnz(i))};
    }
    [[nodiscard]] std::span<const R> row_values(Index i) const {
        return {values + row_ptr[i], static_cast<std::size_t>(row_nnz(i))};
    }
    /// Rows [range.begin, range.end); entry positions stay those of the whole.
    [[nodiscard]] CsrView row_block(Range range) const {
        return {range.size(), cols, row_ptr + range.begin, col_idx, values};
    }
};

}  // namespace rankfold
