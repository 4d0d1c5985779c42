// A matrix on a 2-D block-cyclic process grid, and its way from and to row blocks.
#pragma once

#include <array>

#include <rankfold/dist/block_rows.hpp>

namespace rankfold {

/// A BLACS grid over all ranks of a communicator, rank r at (r / cols, r % cols).
class BlacsGrid {
public:
    /// @collective over comm
    BlacsGrid(const Communicator& comm, int rows, int cols);
    ~BlacsGrid();
    BlacsGrid(const BlacsGrid&) = delete;
    BlacsGrid& operator=(const BlacsGrid&) = delete;

    [[nodiscard]] const Communicator& comm() const { return *comm_; }
    [[nodiscard]] int context() const { return context_; }
    [[nodiscard]] int rows() const { return rows_; }
    [[nodiscard]] int cols() const { return cols_; }
    [[nodiscard]] int row_of(int rank) const { return rank / cols_; }
    [[nodiscard]] int col_of(int rank) const { return rank % cols_; }

private:
    const Communicator* comm_;
    int rows_;
    int cols_;
    int system_;
    int context_;
    int uncaught_at_start_;
};

enum class Line { row, column };

/// A rows x cols matrix in blocks of `block` x `block`; block (I, J) stands at the grid's place
/// (I mod P, J mod Q), column-major.
template <Real R>
class CyclicMatrix {
public:
    /// Zero-filled. @pre local sizes fit int32 (see FullSvd's checks)
    CyclicMatrix(const BlacsGrid& grid, Index rows, Index cols, Index block);

    [[nodiscard]] Index rows() const { return rows_; }
    [[nodiscard]] Index cols() const { return cols_; }
    [[nodiscard]] Index block() const { return block_; }
    [[nodiscard]] Index local_rows() const { return std::ssize(row_of_); }
    [[nodiscard]] Index local_cols() const { return std::ssize(col_of_); }
    [[nodiscard]] R* data() { return data_.data(); }
    [[nodiscard]] const int* descriptor() const { return descriptor_.data(); }
    [[nodiscard]] const BlacsGrid& grid() const { return *grid_; }
    /// The local element (i, j).
    [[nodiscard]] R& local(Index i, Index j) {
        return data_[static_cast<std::size_t>(j * leading_ + i)];
    }
    /// Global indices of the local rows and columns.
    [[nodiscard]] const std::vector<Index>& row_indices() const { return row_of_; }
    [[nodiscard]] const std::vector<Index>& col_indices() const { return col_of_; }

    /// Fills the matrix with Xᵀ. @collective
    void deal_out_transposed(const BlockRows<R>& x);
    /// Rows or columns [range) of the matrix, each as a row of what every rank gets. @collective
    [[nodiscard]] DenseMatrix<R> lines(Line line, Range range);
    /// x ← the matrix. @collective
    void bring_back(BlockRows<R>& x);

private:
    const BlacsGrid* grid_;
    Index rows_;
    Index cols_;
    Index block_;
    Index leading_;
    std::vector<Index> row_of_;
    std::vector<Index> col_of_;
    std::array<int, 9> descriptor_{};
    AlignedVector<R> data_;
};

/// How many of `count` indices in blocks fall to place `at` of `places`.
[[nodiscard]] Index cyclic_count(Index count, Index block, int at, int places);

extern template class CyclicMatrix<float>;
extern template class CyclicMatrix<double>;

}  // namespace rankfold
