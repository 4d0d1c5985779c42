// Matrices as the truncated SVD sees them: products with tall matrices, and nothing else.
#pragma once

#include <concepts>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include <rankfold/dist/products.hpp>

namespace rankfold {

/// An m x n matrix A that can multiply: apply(B, C) is C = A B, apply_transposed(P, C) is C = Aᵀ P,
/// for tall matrices in row_layout() (m rows) and col_layout() (n rows). Both are collective over
/// comm(), and their bits depend neither on the ranks nor on the threads.
template <class Op, class R>
concept LinearOperator = Real<R> && requires(const Op& op, const BlockRows<R>& x, BlockRows<R>& y) {
    { op.comm() } -> std::same_as<const Communicator&>;
    { op.row_layout() } -> std::same_as<const ShardLayout&>;
    { op.col_layout() } -> std::same_as<const ShardLayout&>;
    { op.square_norm() } -> std::convertible_to<double>;     // ‖A‖_F², the same on all ranks
    { op.preferred_block() } -> std::convertible_to<Index>;  // columns that multiply cheaply, or 0
    op.apply(x, y);
    op.apply_transposed(x, y);
};

/// A sparse matrix, with its transpose in row blocks. Columns are laid out like rows of Aᵀ.
template <Real R>
class SparseOperator {
public:
    /// Borrows `a` and makes its transpose. @collective over a.comm()
    SparseOperator(const BlockRowCsr<R>& a, Index threads);
    /// Borrows both. @collective over a.comm()
    SparseOperator(const BlockRowCsr<R>& a, const BlockRowCsr<R>& transposed, Index threads);
    SparseOperator(const SparseOperator&) = delete;
    SparseOperator& operator=(const SparseOperator&) = delete;

    [[nodiscard]] const Communicator& comm() const { return a_->comm(); }
    [[nodiscard]] const ShardLayout& row_layout() const { return a_->layout(); }
    [[nodiscard]] const ShardLayout& col_layout() const { return transposed_->layout(); }
    [[nodiscard]] double square_norm() const { return square_norm_; }
    [[nodiscard]] Index preferred_block() const { return 16; }
    void apply(const BlockRows<R>& x, BlockRows<R>& y) const { times_->multiply(x, y); }
    void apply_transposed(const BlockRows<R>& x, BlockRows<R>& y) const {
        times_transposed_->multiply(x, y);
    }

private:
    void plan(Index threads);

    const BlockRowCsr<R>* a_;
    BlockRowCsr<R> own_transposed_;
    const BlockRowCsr<R>* transposed_;
    double square_norm_ = 0.0;
    std::unique_ptr<SparseProduct<R>> times_;
    std::unique_ptr<SparseProduct<R>> times_transposed_;
};

/// A dense matrix; nothing is transposed. Columns are laid out in even shards.
template <Real R>
class DenseOperator {
public:
    /// Borrows `a`. @collective over a.comm()
    DenseOperator(const BlockRows<R>& a, Index threads);

    [[nodiscard]] const Communicator& comm() const { return a_->comm(); }
    [[nodiscard]] const ShardLayout& row_layout() const { return a_->layout(); }
    [[nodiscard]] const ShardLayout& col_layout() const { return products_.cols(); }
    [[nodiscard]] double square_norm() const { return square_norm_; }
    [[nodiscard]] Index preferred_block() const { return 0; }
    /// ‖A − U diag(s) Vᵀ‖_F², element by element. @cost 2 m n k flops
    [[nodiscard]] std::optional<double> residual_square(const BlockRows<R>& u,
                                                        std::span<const double> s,
                                                        const BlockRows<R>& v) const;
    void apply(const BlockRows<R>& x, BlockRows<R>& y) const { products_.multiply(x, y); }
    void apply_transposed(const BlockRows<R>& x, BlockRows<R>& y) const {
        products_.multiply_transposed(x, y);
    }

private:
    const BlockRows<R>* a_;
    Index threads_;
    DenseProducts<R> products_;
    double square_norm_;
};

/// Any LinearOperator, borrowed; it must outlive the reference.
template <Real R>
class OperatorRef {
public:
    template <class Op>
    requires LinearOperator<Op, R> &&(!std::same_as<Op, OperatorRef>)
        OperatorRef(const Op& op)  // NOLINT(google-explicit-constructor)
        : comm_{&op.comm()},
          row_layout_{&op.row_layout()},
          col_layout_{&op.col_layout()},
          square_norm_{op.square_norm()},
          block_{op.preferred_block()},
          apply_{[&op](const BlockRows<R>& x, BlockRows<R>& y) { op.apply(x, y); }},
          apply_transposed_{
              [&op](const BlockRows<R>& x, BlockRows<R>& y) { op.apply_transposed(x, y); }} {
        if constexpr (requires(const BlockRows<R>& x, std::span<const double> s) {
                          { op.residual_square(x, s, x) } -> std::same_as<std::optional<double>>;
                      }) {
            residual_square_ = [&op](const BlockRows<R>& u, std::span<const double> s,
                                     const BlockRows<R>& v) { return op.residual_square(u, s, v); };
        }
    }

    [[nodiscard]] const Communicator& comm() const { return *comm_; }
    [[nodiscard]] const ShardLayout& row_layout() const { return *row_layout_; }
    [[nodiscard]] const ShardLayout& col_layout() const { return *col_layout_; }
    [[nodiscard]] Index rows() const { return row_layout_->rows(); }
    [[nodiscard]] Index cols() const { return col_layout_->rows(); }
    [[nodiscard]] double square_norm() const { return square_norm_; }
    [[nodiscard]] Index preferred_block() const { return block_; }

    void apply(const BlockRows<R>& x, BlockRows<R>& y) const { apply_(x, y); }
    void apply_transposed(const BlockRows<R>& x, BlockRows<R>& y) const { apply_transposed_(x, y); }
    /// A X in row_layout().
    [[nodiscard]] BlockRows<R> times(const BlockRows<R>& x) const {
        BlockRows<R> y(*comm_, *row_layout_, x.cols());
        apply_(x, y);
        return y;
    }
    /// Aᵀ X in col_layout().
    [[nodiscard]] BlockRows<R> transposed_times(const BlockRows<R>& x) const {
        BlockRows<R> y(*comm_, *col_layout_, x.cols());
        apply_transposed_(x, y);
        return y;
    }
    /// ‖A − U diag(s) Vᵀ‖_F² element by element, by those operators that can. @collective
    [[nodiscard]] std::optional<double> residual_square(const BlockRows<R>& u,
                                                        std::span<const double> s,
                                                        const BlockRows<R>& v) const {
        if (!residual_square_) return std::nullopt;
        return transposed_ ? residual_square_(v, s, u) : residual_square_(u, s, v);
    }
    [[nodiscard]] OperatorRef transposed() const {
        OperatorRef other = *this;
        std::swap(other.row_layout_, other.col_layout_);
        std::swap(other.apply_, other.apply_transposed_);
        other.transposed_ = !transposed_;
        return other;
    }

private:
    using Product = std::function<void(const BlockRows<R>&, BlockRows<R>&)>;
    const Communicator* comm_;
    const ShardLayout* row_layout_;
    const ShardLayout* col_layout_;
    double square_norm_;
    Index block_;
    Product apply_;
    Product apply_transposed_;
    std::function<std::optional<double>(const BlockRows<R>&, std::span<const double>,
                                        const BlockRows<R>&)>
        residual_square_;
    bool transposed_ = false;
};

/// A − 1 μᵀ with μ the means of A's columns, without making it: (A − 1μᵀ) B = A B − 1 (μᵀB) and
/// (A − 1μᵀ)ᵀ P = Aᵀ P − μ (1ᵀP).
template <Real R>
class CenteredOperator {
public:
    /// Borrows what `a` refers to. @collective over a.comm(): one product with a vector
    CenteredOperator(const OperatorRef<R>& a, Index threads);

    [[nodiscard]] const Communicator& comm() const { return a_.comm(); }
    [[nodiscard]] const ShardLayout& row_layout() const { return a_.row_layout(); }
    [[nodiscard]] const ShardLayout& col_layout() const { return a_.col_layout(); }
    [[nodiscard]] double square_norm() const { return square_norm_; }
    [[nodiscard]] Index preferred_block() const { return a_.preferred_block(); }
    void apply(const BlockRows<R>& x, BlockRows<R>& y) const;
    void apply_transposed(const BlockRows<R>& x, BlockRows<R>& y) const;
    [[nodiscard]] std::optional<double> residual_square(const BlockRows<R>& u,
                                                        std::span<const double> s,
                                                        const BlockRows<R>& v) const;

    /// μ, n x 1 in col_layout().
    [[nodiscard]] const BlockRows<R>& mean() const { return mean_; }

private:
    OperatorRef<R> a_;
    Index threads_;
    BlockRows<R> ones_;  // m x 1
    BlockRows<R> mean_;
    double square_norm_ = 0.0;
};

extern template class SparseOperator<float>;
extern template class SparseOperator<double>;
extern template class DenseOperator<float>;
extern template class DenseOperator<double>;
extern template class CenteredOperator<float>;
extern template class CenteredOperator<double>;

}  // namespace rankfold
