#include <rankfold/factor/nmf_cost.hpp>

#include <algorithm>
#include <limits>

#include <rankfold/core/sum_tree.hpp>
#include <rankfold/dist/grid_matrix.hpp>

namespace rankfold {

namespace {

/// Of tiles dealt to some parts: the greatest share of a part, and the most tree nodes.
struct Deal {
    double share = 0.0;
    double nodes = 0.0;
};

Deal deal(Index tiles, int parts) {
    Deal most;
    for (int i = 0; i < parts; ++i) {
        const Range mine = even_part(tiles, parts, i);
        most.share =
            std::max(most.share, static_cast<double>(mine.size()) / static_cast<double>(tiles));
        most.nodes = std::max(most.nodes, static_cast<double>(tree_nodes(tiles, mine).size()));
    }
    return most;
}

}  // namespace

template <Real R>
NmfSize nmf_size(const BlockRows<R>& a, Index k) {
    const auto tiles = [&](Index size, Index lines) {
        return tile_count(size, dense_factor_layout(size, 1).shards(), lines, size * lines);
    };
    return {.rows = a.rows(),
            .cols = a.cols(),
            .nnz = a.rows() * a.cols(),
            .k = k,
            .row_tiles = tiles(a.rows(), a.cols()),
            .col_tiles = tiles(a.cols(), a.rows()),
            .word = sizeof(R)};
}

template <Real R>
NmfSize nmf_size(const BlockRowCsr<R>& a, Index k) {
    const auto tiles = [&](Index size, Index lines) {
        const auto shards = ShardLayout::even(size, a.layout().shards(), 1);
        return tile_count(size, sparse_factor_layout(shards).shards(), lines, a.nnz());
    };
    return {.rows = a.rows(),
            .cols = a.cols(),
            .nnz = a.nnz(),
            .k = k,
            .row_tiles = tiles(a.rows(), a.cols()),
            .col_tiles = tiles(a.cols(), a.rows()),
            .word = sizeof(R)};
}

Cost nmf_sweep_cost(const NmfSize& size, GridShape grid) {
    const Deal rows = deal(size.row_tiles, grid.rows);
    const Deal cols = deal(size.col_tiles, grid.cols);
    const auto k = static_cast<double>(size.k);
    const double pr = grid.rows;
    const double pc = grid.cols;
    const double p = pr * pc;
    const double row_panel = rows.share * static_cast<double>(size.rows);
    const double col_panel = cols.share * static_cast<double>(size.cols);
    // a panel's factor rows are gathered by all who share it, and its partial products scattered
    const double row_words = row_panel / pc * (pc - 1.0) * (1.0 + cols.nodes);
    const double col_words = col_panel / pr * (pr - 1.0) * (1.0 + rows.nodes);
    Cost cost;
    cost.flops = 4.0 * static_cast<double>(size.nnz) * k * rows.share * cols.share +
                 2.0 * k * k * (row_panel / pc + col_panel / pr);
    cost.bytes =
        static_cast<double>(size.word) * k * (row_words + col_words) + 32.0 * k * k * (p - 1.0) / p;
    cost.messages = 2.0 * (pr - 1.0) + 2.0 * (pc - 1.0) + (p > 1.0 ? 4.0 : 0.0);
    return cost;
}

GridShape choose_grid(const NmfSize& size, int ranks, const MachineSpeed& speed) {
    GridShape best;
    double least = std::numeric_limits<double>::infinity();
    for (int rows = ranks; rows >= 1; --rows) {
        if (ranks % rows != 0) continue;
        const GridShape grid{rows, ranks / rows};
        const double seconds = nmf_sweep_cost(size, grid).seconds(speed);
        if (seconds < least) {
            least = seconds;
            best = grid;
        }
    }
    return best;
}

template NmfSize nmf_size(const BlockRows<float>&, Index);
template NmfSize nmf_size(const BlockRows<double>&, Index);
template NmfSize nmf_size(const BlockRowCsr<float>&, Index);
template NmfSize nmf_size(const BlockRowCsr<double>&, Index);

}  // namespace rankfold
