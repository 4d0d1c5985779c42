// A matrix file read through once in small pieces: what a plan needs, without the matrix in memory.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include <rankfold/core/types.hpp>

namespace rankfold {

/// What stands in a matrix file's header.
struct MatrixShape {
    bool sparse = false;
    Index rows = 0, cols = 0;
    Index nnz = 0;                  ///< rows x cols of a dense matrix
    std::vector<Index> row_counts;  ///< entries of every row of a sparse matrix
    Index classes = 0;              ///< of its labels, 0 without
};

/// Reads the header and the row pointers. By one rank, for itself.
/// @throws Error (Fault::input): no matrix file, or one that is stored by columns
[[nodiscard]] MatrixShape scan_shape(const std::string& path);

/// Calls visit(i, columns) for every row of a sparse matrix, in order.
/// @throws Error (Fault::input): a column out of range
void scan_rows(const std::string& path, const MatrixShape& shape,
               const std::function<void(Index row, std::span<const ColIndex> cols)>& visit);

}  // namespace rankfold
