// The speed of an exact ALS sweep.
#pragma once

#include <rankfold/bench/bench_result.hpp>
#include <rankfold/dist/synthetic.hpp>
#include <rankfold/factor/als.hpp>

namespace rankfold {

/// Seconds that the calling rank has spent in the phases of ALS sweeps so far: what a sweep costs,
/// without objectives and the certificate.
[[nodiscard]] double sweep_seconds(Ledger& ledger);

/// Times sweeps of als() on a generated matrix: exchange, Gram and solves, without the evaluation
/// of the objective. The first sweep warms up and is not counted. Then the same with
/// AlsOptions::reproducible off, for the cost of determinism.
/// @collective over comm
template <Real R>
[[nodiscard]] BenchResult bench_als(const Communicator& comm, const SyntheticRatings& matrix,
                                    AlsOptions options, Index repeats);

}  // namespace rankfold
