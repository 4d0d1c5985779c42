// Sums over ranks whose bits depend neither on the number of ranks nor on the order.
#pragma once

#include <span>

#include <rankfold/comm/communicator.hpp>
#include <rankfold/core/exact_sum.hpp>

namespace rankfold {

/// Adds `sum` over all ranks and writes the result, the same on every rank, to `out`.
/// @pre `sum` was made with the same size and bound on every rank
/// @collective over comm: one all_reduce of 8 bytes an element
void reproducible_sum(const Communicator& comm, ExactSum& sum, std::span<double> out);

/// Sums the rows of `terms` over all ranks.
///
/// @param terms  any number of rows of out.size() terms each. The multiset of all ranks' rows must
///               not depend on the number of ranks: pass one row per shard (or per matrix row),
///               never one per rank.
/// @param out    the sums, the same on every rank; NaN if any term is not finite
/// @collective over comm
void reproducible_sum(const Communicator& comm, std::span<const double> terms,
                      std::span<double> out);

/// The same for scalar terms.
[[nodiscard]] double reproducible_sum(const Communicator& comm, std::span<const double> terms);

}  // namespace rankfold
