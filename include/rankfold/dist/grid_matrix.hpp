// A matrix in two-dimensional blocks on a grid of ranks, and its products with factor matrices.
#pragma once

#include <vector>

#include <rankfold/comm/process_grid.hpp>
#include <rankfold/dist/block_rows.hpp>

namespace rankfold {

/// Whose factor: that of the rows (W, m x k) or that of the columns (H, n x k).
enum class Side { rows, cols };

/// One axis of a matrix on a grid: shards make tiles, tiles make panels.
///
///     shards   | | | | | | | | |      of the data alone; who owns a factor row owns its shard
///     tiles    |   |   |   |   |      of the shape alone: a product is computed tile by tile
///     panels   |   0   |   1   |      tiles of one grid row (or column) of ranks
///     owners   |0 |1 |2|0|1| 2 |      the ranks of that grid row share the panel's factor rows
class GridAxis {
public:
    GridAxis() = default;
    /// @param layout  of the axis in row blocks over all ranks
    /// @param parts   panels; @param sharers  ranks that share one panel
    GridAxis(ShardLayout layout, Index tiles, int parts, int sharers)
        : layout_{std::move(layout)}, tiles_{tiles}, parts_{parts}, sharers_{sharers} {}

    [[nodiscard]] const ShardLayout& layout() const noexcept { return layout_; }
    [[nodiscard]] Index tiles() const noexcept { return tiles_; }
    [[nodiscard]] Range tile(Index t) const { return indices(even_part(shards(), tiles_, t)); }
    [[nodiscard]] Range panel_tiles(int part) const { return even_part(tiles_, parts_, part); }
    [[nodiscard]] Range panel_shards(int part) const;
    [[nodiscard]] Range panel(int part) const { return indices(panel_shards(part)); }
    [[nodiscard]] Range owned_shards(int part, int sharer) const;
    [[nodiscard]] Range owned(int part, int sharer) const {
        return indices(owned_shards(part, sharer));
    }
    /// Rows that each of a panel's sharers owns.
    [[nodiscard]] std::vector<Index> owned_counts(int part) const;

private:
    [[nodiscard]] Index shards() const noexcept { return layout_.shards(); }
    [[nodiscard]] Range indices(Range shards) const;

    ShardLayout layout_;
    Index tiles_ = 1;
    int parts_ = 1;
    int sharers_ = 1;
};

/// The shards of a dense matrix's factor with `size` rows: as many rows each, a power of two from
/// 32 to 128, as leave at least 64 shards. Vectors of rows are full then, and a shard's share of a
/// Gram matrix is worth its addition.
[[nodiscard]] ShardLayout dense_factor_layout(Index size, int ranks);

/// The same for a sparse matrix: its own shards, which balance entries, joined where they have
/// fewer than 32 rows on average.
[[nodiscard]] ShardLayout sparse_factor_layout(const ShardLayout& shards);

/// Tiles along an axis of `size` rows: the power of two that leaves tiles of about a thousand rows,
/// at least 4. A sparse matrix gets no more than leave a line some eight entries in a tile, as
/// those are summed together.
///
/// @param shards  of the axis @param lines  size of the other axis @param nnz  stored entries
[[nodiscard]] Index tile_count(Index size, Index shards, Index lines, Index nnz);

/// An m x n matrix, dense or sparse, of which rank (i, j) of a grid holds the block of row panel i
/// and column panel j; and factors W (m x k), H (n x k) of which every rank owns whole shards.
///
/// Products are computed tile by tile, and the partial products of a row's (or column's) tiles are
/// added in a fixed binary tree: first within a rank, then across the grid at the owner of the
/// factor row. So the bits depend neither on the grid nor on the number of ranks or threads.
///
/// All members are collective over the grid.
template <Real R>
class GridMatrix {
public:
    /// Brings the blocks to their ranks. A matrix on one rank is borrowed, not copied.
    /// @cost bytes sent: at most this rank's part of the matrix
    GridMatrix(const BlockRows<R>& a, const ProcessGrid& grid, Index k, Index threads);
    GridMatrix(const BlockRowCsr<R>& a, const ProcessGrid& grid, Index k, Index threads);

    [[nodiscard]] const ProcessGrid& grid() const noexcept { return *grid_; }
    [[nodiscard]] const GridAxis& axis(Side side) const { return state(side).axis; }
    [[nodiscard]] Index k() const noexcept { return k_; }
    [[nodiscard]] Index threads() const noexcept { return threads_; }
    [[nodiscard]] Index nnz() const noexcept { return nnz_; }
    /// Rows of the side's factor that this rank owns.
    [[nodiscard]] Range owned(Side side) const { return owned(side, grid_->comm().rank()); }
    [[nodiscard]] Range owned_shards(Side side) const;
    /// The part of an owned factor that is one of its shards.
    template <class T>
    [[nodiscard]] MatrixView<T> shard(Side side, MatrixView<T> factor, Index s) const {
        const Range rows = state(side).axis.layout().shard_rows(s);
        const Index first = owned(side).begin;
        return factor.row_block({rows.begin - first, rows.end - first});
    }

    /// Makes the present values of the side's factor known to all ranks that need them. On a grid
    /// where nobody shares the panel it is borrowed until the next call.
    /// @cost bytes sent: (sharers − 1) · owned rows · k words
    void gather(Side side, const DenseMatrix<R>& factor);

    /// product ← A H for Side::rows, Aᵀ W for Side::cols, with the other side's factor as gathered.
    /// @param product  owned rows of the side x k
    /// @cost 2 nnz k / p flops; bytes sent: rows of the panel owned by others · k words, times the
    ///       tree nodes that the rank holds: one if the grid's sides are powers of two
    void multiply(Side side, DenseMatrix<R>& product);

    /// The same with Q = A ./ (W Hᵀ) in place of A, with both factors as gathered.
    /// @param log_sum  gets, if given, Σ over elements a > 0 of a log(a / s), s being that of W Hᵀ
    void multiply_quotients(Side side, DenseMatrix<R>& product, double* log_sum = nullptr);

    /// Σ over all elements of (a − s)² with both factors as gathered.
    /// @param all_pairs  Σ over all pairs of s², for what is not stored of a sparse matrix
    [[nodiscard]] double residual_square(double all_pairs) const;

    /// Σ a² and Σ a over all elements.
    [[nodiscard]] double square() const noexcept { return square_; }
    [[nodiscard]] double sum() const noexcept { return sum_; }

    /// The owned rows of a factor that lies in row blocks of any layout, and back.
    [[nodiscard]] DenseMatrix<R> to_owned(Side side, const BlockRows<R>& factor) const;
    [[nodiscard]] BlockRows<R> to_block_rows(Side side, const DenseMatrix<R>& factor) const;

private:
    /// A sparse block: the entries of line i in tile t of the other axis stand at positions
    /// begin[i · tiles + t] … begin[i · tiles + t + 1] − 1.
    struct Lines {
        Index tiles = 0;
        std::vector<Index> begin{0};
        std::vector<ColIndex> idx;  // relative to the other axis's panel
        std::vector<R> values;
    };
    struct SideState {
        GridAxis axis;
        int part = 0;                           // this rank's panel
        const Communicator* sharers = nullptr;  // the ranks that share it
        Range panel;
        DenseMatrix<R> gathered;
        MatrixView<const R> factor;  // the panel's rows of the factor, as gathered
        // the tree over the other axis's tiles, of which every sharer holds some
        std::vector<Range> nodes;
        std::vector<Index> nodes_of_sharer;
        std::vector<std::pair<Index, Index>> additions;
        std::vector<DenseMatrix<R>> partials;  // one a node: panel rows x k
        Lines lines;                           // of a sparse matrix
    };

    /// Where partial products go (one view a node, panel rows x k), and, if wanted, what the
    /// quotients add to their logarithms: one term for every pair of own unit and inner tile.
    struct Target {
        std::vector<MatrixView<R>> nodes;
        bool quotients = false;
        std::vector<double>* logs = nullptr;
    };

    void plan(Side side, ShardLayout layout, Index lines);
    void plan_trees();
    void take_block(const BlockRows<R>& a);
    void take_block(const BlockRowCsr<R>& a);
    [[nodiscard]] Range owned(Side side, int rank) const;
    [[nodiscard]] const SideState& state(Side side) const {
        return side == Side::rows ? rows_ : cols_;
    }
    [[nodiscard]] SideState& state(Side side) { return side == Side::rows ? rows_ : cols_; }
    [[nodiscard]] const SideState& other(Side side) const {
        return side == Side::rows ? cols_ : rows_;
    }
    [[nodiscard]] Range tile(const SideState& side, Index t) const;
    [[nodiscard]] MatrixView<const R> dense_tile(Index row_tile, Index col_tile) const;
    void tile_scores(Index row_tile, Index col_tile, DenseMatrix<R>& scores) const;
    void dense_leaf(Side side, Index own, Index inner, const Target& target,
                    MatrixView<R> out) const;
    void dense_node(Side side, Index own, Range node, const Target& target, MatrixView<R> out,
                    MatrixView<R> spare) const;
    bool sparse_node(Side side, Index line, Range node, const Target& target, R* out, R* spare,
                     double* logs) const;
    void sparse_lines(Side side, Index shard, const Target& target) const;
    void product(Side side, DenseMatrix<R>& result, bool quotients, double* log_sum);
    void reduce(Side side, DenseMatrix<R>& result) const;

    const ProcessGrid* grid_;
    Index k_;
    Index threads_;
    Index nnz_ = 0;
    bool sparse_;
    double square_ = 0.0;
    double sum_ = 0.0;
    SideState rows_;
    SideState cols_;
    DenseMatrix<R> block_;       // of a dense matrix
    MatrixView<const R> dense_;  // block_, or the borrowed matrix
};

}  // namespace rankfold
