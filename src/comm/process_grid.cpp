#include <rankfold/comm/process_grid.hpp>

namespace rankfold {

ProcessGrid::ProcessGrid(const Communicator& comm, GridShape shape) : comm_{&comm}, shape_{shape} {
    RANKFOLD_EXPECT(shape.rows > 0 && shape.cols > 0 && shape.ranks() == comm.size());
    row_comm_ = comm.split(row());
    col_comm_ = comm.split(col());
}

}  // namespace rankfold
