// The entries that a joint model is fitted to, and what its network is to say of them.
#pragma once

#include <rankfold/hybrid/entry_samples.hpp>
#include <rankfold/hybrid/joint.hpp>

namespace rankfold {

/// The entries of the joint objective: those of `a`; for implicit feedback with the drawn pairs
/// that h sees, and in Rendle's form as 1 or 0. Without h there are no drawn pairs.
/// @collective
template <Real R>
[[nodiscard]] BlockRowCsr<R> joint_entries(const BlockRowCsr<R>& a, const JointOptions& options);

/// The problem of the rows of one side of these entries.
/// @param mean    μ
/// @param others  rows of the other side
[[nodiscard]] RowProblem joint_problem(const JointOptions& options, double mean, Index others);

/// p of an entry.
[[nodiscard]] double joint_preference(const RowProblem& problem, double value);

/// c of every local entry: the weights of h's samples; explicit ones are all 1.
template <Real R>
[[nodiscard]] std::vector<R> joint_weights(const BlockRowCsr<R>& entries,
                                           const RowProblem& problem);

/// What fit_joint() trains h on while the factors stand still: all joint_entries() with their
/// weights, and the targets p − x·y.
/// @param factors  of the rows and columns of `a`, in their order
/// @collective
template <Real R>
[[nodiscard]] EntrySamples<R> residual_samples(const BlockRowCsr<R>& a, const JointOptions& options,
                                               const Factors<R>& factors, Index blocks);

}  // namespace rankfold
