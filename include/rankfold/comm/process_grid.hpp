// The ranks as a rectangle.
#pragma once

#include <memory>

#include <rankfold/comm/communicator.hpp>

namespace rankfold {

/// Rows and columns of a rectangle of ranks.
struct GridShape {
    int rows = 1;
    int cols = 1;

    [[nodiscard]] int ranks() const noexcept { return rows * cols; }
    friend bool operator==(const GridShape&, const GridShape&) = default;
};

/// All ranks of a communicator as a grid, in row-major order, with one communicator a row and one
/// a column.
///
///     2 x 3      columns 0 1 2
///     row 0        ranks 0 1 2     rank 4 is in row 1 with 3 and 5,
///     row 1              3 4 5     and in column 1 with 1
class ProcessGrid {
public:
    /// @collective over comm, which must outlive the grid
    /// @pre shape.ranks() == comm.size()
    ProcessGrid(const Communicator& comm, GridShape shape);

    [[nodiscard]] const Communicator& comm() const noexcept { return *comm_; }
    [[nodiscard]] GridShape shape() const noexcept { return shape_; }
    [[nodiscard]] int row() const noexcept { return row_of(comm_->rank()); }
    [[nodiscard]] int col() const noexcept { return col_of(comm_->rank()); }
    [[nodiscard]] int row_of(int rank) const noexcept { return rank / shape_.cols; }
    [[nodiscard]] int col_of(int rank) const noexcept { return rank % shape_.cols; }

    /// The shape.cols ranks of this rank's grid row; the rank there is col().
    [[nodiscard]] const Communicator& row_comm() const noexcept { return *row_comm_; }
    /// The shape.rows ranks of this rank's grid column; the rank there is row().
    [[nodiscard]] const Communicator& col_comm() const noexcept { return *col_comm_; }

private:
    const Communicator* comm_;
    GridShape shape_;
    std::unique_ptr<Communicator> row_comm_;
    std::unique_ptr<Communicator> col_comm_;
};

}  // namespace rankfold
