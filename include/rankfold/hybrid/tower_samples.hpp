// The rows of one side as samples of its tower, whose loss is that of an ALS half sweep.
#pragma once

#include <vector>

#include <rankfold/factor/row_problem.hpp>
#include <rankfold/hybrid/towers.hpp>

namespace rankfold {

/// Samples that are all rows of one side, each with its pairs: what Loss::factorization and
/// Loss::logistic_factorization compare the tower's outputs with, beside the other side's factors
/// as they were when set_other() was called.
///
/// With a RowProblem the loss of row i is the one that a half sweep of als() minimises,
///
///     Σ_e (w_e (f·y_e)² − 2 b_e f·y_e) + f·(α0 YᵀY)·f + λ_i ‖f‖² + const,
///
/// in which α0 YᵀY stands for all pairs (the Gram trick): its gradient costs k² a row.
template <Real R>
class TowerSamples {
public:
    /// @param inputs  borrowed; its layout is even in `blocks`
    /// @collective over comm
    TowerSamples(const Communicator& comm, const TowerRows<R>& inputs, Index blocks);

    [[nodiscard]] const Communicator& comm() const { return *comm_; }
    [[nodiscard]] Index samples() const { return inputs_->layout().rows(); }
    [[nodiscard]] Index blocks() const { return inputs_->layout().shards(); }
    void fill(MicroBatch<R>& batch) const;

    /// The pairs, with w and b as the problem says.
    /// @param pairs    in any layout of the rows
    /// @param sampled  true if only pairs with a positive value count for λ_i: others were drawn
    /// @collective
    void set_pairs(const BlockRowCsr<R>& pairs, const RowProblem& problem, bool sampled);

    /// The other side's factors, held fixed from now on. @collective
    void set_other(const BlockRows<R>& other);

    /// Σ over all rows of the loss of these factors. @collective
    /// @param[out] ridge  its ridge part
    [[nodiscard]] double loss(Loss loss, const BlockRows<R>& factors, double& ridge) const;
    /// The ridge part alone. @collective
    [[nodiscard]] double ridge(const BlockRows<R>& factors) const;

    /// Pairs of every local row.
    [[nodiscard]] Index count(Index row) const;

private:
    void add_target(Index row, Targets<R>& targets) const;

    const Communicator* comm_;
    const TowerRows<R>* inputs_;
    Index first_row_;
    double alpha0_ = 0.0;
    CsrMatrix<R> pairs_;  // its values are w
    std::vector<R> b_;
    std::vector<double> ridges_;
    std::vector<double> constants_;
    DenseMatrix<R> other_;
    DenseMatrix<R> all_pairs_;
};

extern template class TowerSamples<float>;
extern template class TowerSamples<double>;

}  // namespace rankfold
