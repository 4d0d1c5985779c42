// What a round of the joint model costs beside its parts.
#pragma once

#include <rankfold/bench/bench_result.hpp>
#include <rankfold/dist/synthetic.hpp>
#include <rankfold/hybrid/joint.hpp>

namespace rankfold {

/// Times, on one generated matrix and in one run, `repeats` sweeps of als() (exchange, Gram and
/// solves, without its objective), as many epochs of the joint model's network alone, and as many
/// rounds of fit_joint(), all that is in them. The first of each warms up and is not counted.
///
/// The result's seconds are those of rounds. Its extras: the medians of a sweep and an epoch, what
/// a round takes more than both, and for every phase the bytes of a round over all ranks, predicted
/// and sent, beside those that it would take to give all ranks all of X and Y.
/// @collective over comm
template <Real R>
[[nodiscard]] BenchResult bench_hybrid(const Communicator& comm, const SyntheticRatings& matrix,
                                       JointOptions options, Index repeats);

}  // namespace rankfold
