// Distributed products of a matrix in row blocks with tall matrices of few columns.
#pragma once

#include <vector>

#include <rankfold/dist/row_exchange.hpp>

namespace rankfold {

/// C = A B for a sparse m x n matrix A in row blocks, n x b and m x b matrices B and C.
///
/// Each rank computes the rows of C that it holds of A; the rows of B that its entries meet reach
/// it through a RowExchange, each once (all rows in one all_gather where every rank needs nearly
/// all). Made once for A and a layout of B, used for any number of products. For Aᵀ B pass the
/// transpose. The bits of C depend neither on the ranks nor on the threads. A matrix with many
/// columns is copied in blocks of columns, whose rows of B stay in the cache while all rows of A
/// are met; the order of the sums is the same.
template <Real R>
class SparseProduct {
public:
    /// @param a  borrowed; its values must stay as they are
    /// @param b  layout of the rows of B
    /// @collective over a.comm()
    /// @cost memory: the local entries again, if there are many columns
    SparseProduct(const BlockRowCsr<R>& a, const ShardLayout& b, Index threads);

    /// @param[out] c  in the layout of A, with as many columns as B
    /// @collective over the communicator
    /// @cost 2 nnz b flops; bytes: RowExchange::bytes_sent
    void multiply(const BlockRows<R>& b, BlockRows<R>& c) const;

    [[nodiscard]] const RowExchange& exchange() const noexcept { return exchange_; }

private:
    void renumber();
    void cut_into_blocks();

    const BlockRowCsr<R>* a_;
    Index threads_;
    RowExchange exchange_;
    std::vector<ColIndex> positions_;  // of the entries' rows of B in the buffer, if renumbered
    mutable DenseMatrix<R> buffer_;    // the rows of B, kept between products of equal width
    Index blocks_ = 1;                 // of columns; if more than one, the entries again:
    std::vector<Index> row_ptr_;       // blocks_ times local rows + 1
    AlignedVector<ColIndex> col_idx_;  // block by block, row by row
    AlignedVector<R> values_;
};

/// A B and Aᵀ P for a dense m x n matrix A in row blocks, without its transpose.
///
/// The shards of A are put together into groups, whose number depends on A alone. AᵀP is the sum
/// over groups of A_gᵀ P_g by a fixed binary tree over the groups: each rank adds up the aligned
/// subtrees of its own groups, and the owner of a row of the result gets one row of each such
/// subtree of every rank and adds them in tree order. The rows of a group that a rank boundary cuts
/// are fetched once, when this is made.
template <Real R>
class DenseProducts {
public:
    /// @param a     borrowed
    /// @param cols  layout of the n rows of B and of AᵀP
    /// @collective over a.comm()
    DenseProducts(const BlockRows<R>& a, ShardLayout cols, Index threads);

    /// C = A B. @param[out] c  m x b in the layout of A
    /// @collective @cost 2 m n b flops; bytes: (p − 1) own rows of B
    void multiply(const BlockRows<R>& b, BlockRows<R>& c) const;

    /// C = Aᵀ P. @param p  m x b in the layout of A  @param[out] c  n x b in the layout `cols`
    /// @collective @cost 2 m n b flops; bytes: n b (p − 1)/p for each subtree of a rank's groups,
    ///             one if the number of ranks is a power of two
    void multiply_transposed(const BlockRows<R>& p, BlockRows<R>& c) const;

    [[nodiscard]] const ShardLayout& cols() const noexcept { return cols_; }

    /// A node of the tree over groups: groups [index · 2^level, (index + 1) · 2^level).
    struct Node {
        Index level;
        Index index;
        friend bool operator==(const Node&, const Node&) = default;
    };

private:
    struct CutGroup {
        Index group;
        DenseMatrix<R> rows;  // all of the group's
    };
    [[nodiscard]] Range group_rows(Index group) const;
    [[nodiscard]] Range owned_groups(int rank) const;
    [[nodiscard]] MatrixView<const R> group(Index g) const;
    void fetch_cut_groups();
    [[nodiscard]] DenseMatrix<R> rows_of_cut_group(const BlockRows<R>& p) const;
    void add_subtrees(const BlockRows<R>& p, const DenseMatrix<R>& cut, Range slice,
                      std::vector<DenseMatrix<R>>& sums) const;

    const BlockRows<R>* a_;
    ShardLayout cols_;
    Index threads_;
    Index groups_;
    RowExchange all_cols_;
    std::vector<CutGroup> cut_;        // groups of which this rank holds a part only
    std::vector<Index> foreign_rows_;  // of the last own group, at other ranks
    RowExchange foreign_;              // which fetches them
};

}  // namespace rankfold
