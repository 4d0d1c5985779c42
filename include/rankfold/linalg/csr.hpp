// The owning sparse matrix.
#pragma once

#include <vector>

#include <rankfold/linalg/views.hpp>

namespace rankfold {

/// Owns a sparse matrix in compressed sparse rows (see CsrView); row_ptr[0] == 0.
template <Real R>
struct CsrMatrix {
    Index cols = 0;
    std::vector<Index> row_ptr{0};
    std::vector<ColIndex> col_idx;
    std::vector<R> values;

    [[nodiscard]] Index rows() const { return static_cast<Index>(row_ptr.size()) - 1; }
    [[nodiscard]] Index nnz() const { return static_cast<Index>(col_idx.size()); }
    [[nodiscard]] CsrView<R> view() const {
        return {rows(), cols, row_ptr.data(), col_idx.data(), values.data()};
    }
};

}  // namespace rankfold
