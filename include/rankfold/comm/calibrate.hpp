// How fast the ranks of a communicator exchange messages.
#pragma once

#include <rankfold/comm/communicator.hpp>
#include <rankfold/core/cost.hpp>

namespace rankfold {

/// Measured between all ranks at once, as exchanges are made; zeros on one rank.
/// The rate of arithmetic is left at what it was. @collective over comm @cost some 50 ms
[[nodiscard]] MachineSpeed measure_exchange(const Communicator& comm);

}  // namespace rankfold
