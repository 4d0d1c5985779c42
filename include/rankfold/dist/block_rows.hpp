// Distributed matrices: each rank holds the rows of its shards.
#pragma once

#include <cmath>

#include <rankfold/comm/communicator.hpp>
#include <rankfold/dist/shards.hpp>
#include <rankfold/linalg/csr.hpp>
#include <rankfold/linalg/dense.hpp>

namespace rankfold {

/// A dense m x n matrix in row blocks; local row i is global row first_row() + i.
///
/// A factor matrix is a BlockRows with k columns. The communicator is borrowed and must outlive it.
template <class T>
class BlockRows {
public:
    BlockRows() = default;

    /// Zero-filled. @pre `layout` and `cols` are the same on all ranks of `comm`
    BlockRows(const Communicator& comm, ShardLayout layout, Index cols)
        : comm_{&comm},
          layout_{std::move(layout)},
          local_{layout_.rank_rows(comm.rank()).size(), cols} {
        RANKFOLD_EXPECT(layout_.ranks() == comm.size());
    }

    [[nodiscard]] Index rows() const noexcept { return layout_.rows(); }
    [[nodiscard]] Index cols() const noexcept { return local_.cols(); }
    [[nodiscard]] Index first_row() const { return layout_.rank_rows(comm_->rank()).begin; }
    [[nodiscard]] const ShardLayout& layout() const noexcept { return layout_; }
    [[nodiscard]] const Communicator& comm() const noexcept { return *comm_; }

    [[nodiscard]] DenseMatrix<T>& local() noexcept { return local_; }
    [[nodiscard]] const DenseMatrix<T>& local() const noexcept { return local_; }

    /// The local rows of one of this rank's shards.
    [[nodiscard]] MatrixView<T> shard(Index s) { return local_.view().row_block(local_range(s)); }
    [[nodiscard]] MatrixView<const T> shard(Index s) const {
        return local_.view().row_block(local_range(s));
    }
    /// This rank's shards.
    [[nodiscard]] Range shards() const { return layout_.rank_shards(comm_->rank()); }

    [[nodiscard]] BlockRows clone() const {
        BlockRows copy;
        copy.comm_ = comm_;
        copy.layout_ = layout_;
        copy.local_ = local_.clone();
        return copy;
    }

private:
    [[nodiscard]] Range local_range(Index s) const {
        const Range rows = layout_.shard_rows(s);
        return {rows.begin - first_row(), rows.end - first_row()};
    }

    const Communicator* comm_ = nullptr;
    ShardLayout layout_;
    DenseMatrix<T> local_;
};

/// A sparse m x n matrix in row blocks, each a CSR matrix with global column indices.
template <Real R>
class BlockRowCsr {
public:
    BlockRowCsr() = default;

    /// @pre local.rows() is this rank's row count in `layout`; local.cols is global
    /// @collective over comm (the entries are counted)
    BlockRowCsr(const Communicator& comm, ShardLayout layout, CsrMatrix<R> local)
        : comm_{&comm},
          layout_{std::move(layout)},
          local_{std::move(local)},
          nnz_{comm.all_reduce(local_.nnz(), Reduce::sum)} {
        RANKFOLD_EXPECT(local_.rows() == layout_.rank_rows(comm.rank()).size());
    }

    [[nodiscard]] Index rows() const noexcept { return layout_.rows(); }
    [[nodiscard]] Index cols() const noexcept { return local_.cols; }
    [[nodiscard]] Index nnz() const noexcept { return nnz_; }
    [[nodiscard]] Index first_row() const { return layout_.rank_rows(comm_->rank()).begin; }
    [[nodiscard]] const ShardLayout& layout() const noexcept { return layout_; }
    [[nodiscard]] const Communicator& comm() const noexcept { return *comm_; }
    [[nodiscard]] const CsrMatrix<R>& local() const noexcept { return local_; }
    [[nodiscard]] CsrMatrix<R>& local() noexcept { return local_; }
    [[nodiscard]] Range shards() const { return layout_.rank_shards(comm_->rank()); }
    [[nodiscard]] CsrView<R> shard(Index s) const {
        const Range rows = layout_.shard_rows(s);
        return local_.view().row_block({rows.begin - first_row(), rows.end - first_row()});
    }

private:
    const Communicator* comm_ = nullptr;
    ShardLayout layout_;
    CsrMatrix<R> local_;
    Index nnz_ = 0;
};

/// One stored entry with global indices; `order` is its place in the source, for duplicates.
template <Real R>
struct Triplet {
    Index row;
    ColIndex col;
    R value;
};

/// The cost-balanced layout of a sparse matrix of which each rank knows some rows' entry counts.
///
/// @param counts  entries of rows [first, first + counts.size()); the ranks' pieces cover all rows
///                in rank order
/// @collective over comm
[[nodiscard]] ShardLayout balanced_layout(const Communicator& comm, Index rows, Index first,
                                          std::span<const Index> counts);

/// Sends every triplet to the owner of its row and builds the matrix there, columns increasing in
/// each row. Triplets with equal (row, col) stay side by side in the order of (rank, position).
///
/// @collective over comm
template <Real R>
[[nodiscard]] BlockRowCsr<R> assemble(const Communicator& comm, const ShardLayout& layout,
                                      Index cols, std::vector<Triplet<R>> triplets);

/// Aᵀ in cost-balanced row blocks.
/// @collective over a.comm()
/// @cost bytes per rank: 16 per local entry whose column lives elsewhere, and 8 per column of A
template <Real R>
[[nodiscard]] BlockRowCsr<R> transpose(const BlockRowCsr<R>& a);
template <Real R>
[[nodiscard]] BlockRows<R> transpose(const BlockRows<R>& a);

/// The same matrix in another layout of the same rows. @collective over a.comm()
template <class T>
[[nodiscard]] BlockRows<T> redistribute(const BlockRows<T>& a, const ShardLayout& layout);
template <Real R>
[[nodiscard]] BlockRowCsr<R> redistribute(const BlockRowCsr<R>& a, const ShardLayout& layout);

/// The whole matrix on every rank. @collective over a.comm() @cost bytes per rank: (p − 1) own rows
template <class T>
[[nodiscard]] DenseMatrix<T> gather_all(const BlockRows<T>& a);

/// Upper triangle of Σ over all rows of aᵢ aᵢᵀ, in double, order-free: the Gram matrix AᵀA.
/// @collective over a.comm()
template <Real R>
[[nodiscard]] DenseMatrix<double> gram(const BlockRows<R>& a);

}  // namespace rankfold
