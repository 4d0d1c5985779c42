// The speed of finding the best columns of every row.
#pragma once

#include <cstdint>

#include <rankfold/bench/bench_result.hpp>

namespace rankfold {

struct TopKBenchOptions {
    Index rows = 138493;
    Index cols = 26744;
    Index k = 64;     ///< number of factors
    Index top = 100;  ///< columns wanted for each row
    Index repeats = 5;
    Index threads = 1;
    std::uint64_t seed = 1;
};

/// Times top_columns() for all rows of normal random factors over all columns: packing of the
/// columns, products and selection. Flops are those of the products, 2 m n k. A run before the
/// first repeat warms up.
/// @collective over comm
template <Real R>
[[nodiscard]] BenchResult bench_topk(const Communicator& comm, const TopKBenchOptions& options);

}  // namespace rankfold
