// The growing basis of a block Krylov iteration on AᵀA.
#pragma once

#include <vector>

#include <rankfold/dist/tall_qr.hpp>
#include <rankfold/dist/tensor_list.hpp>
#include <rankfold/factor/linear_operator.hpp>
#include <rankfold/factor/svd.hpp>
#include <rankfold/linalg/lapack.hpp>

namespace rankfold {

/// See truncated_svd(). All members are collective over the operator's communicator.
template <Real R>
class KrylovBasis {
public:
    KrylovBasis(const OperatorRef<R>& a, const SvdOptions& options);

    /// Draws the first block, unless `state` was restored.
    void start();

    /// One step: multiplies the newest block, orthogonalises, and tests where that may pay. Appends
    /// the next block unless converged() then.
    void step();

    /// Steps done, also those of an earlier run.
    [[nodiscard]] Index steps() const { return counts_[steps_at]; }
    /// Whether the basis has at least k columns.
    [[nodiscard]] bool large_enough() const { return size() >= options_.k; }
    [[nodiscard]] bool converged() const { return counts_[converged_at] != 0; }
    /// The residual that the last test gave; 1 before the first.
    [[nodiscard]] double residual() const { return numbers_[residual_at]; }
    [[nodiscard]] Index size() const { return counts_[size_at]; }

    /// The k best directions, orthonormal.
    [[nodiscard]] BlockRows<R> best(RandomColumns& fill) const;

    /// All that a later run needs to go on.
    [[nodiscard]] TensorList state();

private:
    enum Count { size_at, width_at, coupled_at, steps_at, converged_at, tested_at, due_at, counts };
    enum Number { residual_at, numbers };
    [[nodiscard]] Index width() const { return counts_[width_at]; }
    /// Columns of the basis in which AᵀA times the newest block has more than rounding.
    [[nodiscard]] Range coupled() const { return {counts_[coupled_at], size()}; }

    [[nodiscard]] DenseMatrix<double> take_out(BlockRows<R>& z, Range from) const;
    void record(const DenseMatrix<double>& c, Range rows, const DenseMatrix<double>& r);
    void orthonormalize(BlockRows<R>& z, double noise, RandomColumns& fill, bool recording,
                        DenseMatrix<double>& r);
    [[nodiscard]] BlockRows<R> next_block(BlockRows<R> z, DenseMatrix<double>& r);
    void test(const DenseMatrix<double>& r);
    void plan_next_test(double residual);
    void restart();
    void append(const BlockRows<R>& block);
    [[nodiscard]] SymmetricEigen eigen() const;

    const OperatorRef<R>& a_;
    const SvdOptions& options_;
    Index block_;
    Index most_;                   // columns that the basis may have
    BlockRows<R> basis_;           // n x most_
    BlockRows<R> product_;         // m x width: A times the newest block
    DenseMatrix<double> h_;        // most_ x most_, symmetric: VᵀAᵀAV
    std::vector<Index> counts_;    // see Count
    std::vector<double> numbers_;  // see Number
};

extern template class KrylovBasis<float>;
extern template class KrylovBasis<double>;

}  // namespace rankfold
