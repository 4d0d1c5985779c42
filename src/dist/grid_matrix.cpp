#include <rankfold/dist/grid_matrix.hpp>

#include <algorithm>
#include <bit>
#include <numeric>

#include <rankfold/comm/reproducible_sum.hpp>
#include <rankfold/core/sum_tree.hpp>

namespace rankfold {

namespace {

std::size_t at(Index i) {
    return static_cast<std::size_t>(i);
}

Range overlap(Range a, Range b) {
    const Index begin = std::max(a.begin, b.begin);
    return {begin, std::max(begin, std::min(a.end, b.end))};
}

/// The layout that the columns of a sparse matrix have in row blocks of its transpose.
template <Real R>
ShardLayout column_layout(const BlockRowCsr<R>& a) {
    std::vector<Index> counts(at(a.cols()), 0);
    for (const ColIndex j : a.local().col_idx) ++counts[at(j)];
    a.comm().all_reduce(std::span<Index>(counts), Reduce::sum);
    const Range piece = even_part(a.cols(), a.comm().size(), a.comm().rank());
    return balanced_layout(
        a.comm(), a.cols(), piece.begin,
        std::span<const Index>(counts).subspan(at(piece.begin), at(piece.size())));
}

/// Σ x² and Σ x, with one partial sum a shard.
template <Real R, class ShardValues>
std::pair<double, double> sums(const Communicator& comm, Range shards, const ShardValues& values) {
    std::vector<double> terms;
    for (Index s = shards.begin; s < shards.end; ++s) {
        double square = 0.0;
        double sum = 0.0;
        for (const R x : values(s)) {
            square += static_cast<double>(x) * static_cast<double>(x);
            sum += static_cast<double>(x);
        }
        terms.insert(terms.end(), {square, sum});
    }
    double totals[2];
    reproducible_sum(comm, terms, totals);
    return {totals[0], totals[1]};
}

}  // namespace

Range GridAxis::indices(Range shards) const {
    if (shards.size() == 0) {
        const Index i = shards.begin < layout_.shards() ? layout_.shard_rows(shards.begin).begin
                                                        : layout_.rows();
        return {i, i};
    }
    return {layout_.shard_rows(shards.begin).begin, layout_.shard_rows(shards.end - 1).end};
}

Range GridAxis::panel_shards(int part) const {
    const Range tiles = panel_tiles(part);
    return {even_part(shards(), tiles_, tiles.begin).begin,
            even_part(shards(), tiles_, tiles.end).begin};
}

Range GridAxis::owned_shards(int part, int sharer) const {
    const Range all = panel_shards(part);
    const Range mine = even_part(all.size(), sharers_, sharer);
    return {all.begin + mine.begin, all.begin + mine.end};
}

std::vector<Index> GridAxis::owned_counts(int part) const {
    std::vector<Index> counts;
    for (int q = 0; q < sharers_; ++q) counts.push_back(owned(part, q).size());
    return counts;
}

ShardLayout dense_factor_layout(Index size, int ranks) {
    Index rows = 128;
    while (rows > 32 && size < 64 * rows) rows /= 2;
    std::vector<Index> begins;
    for (Index i = 0; i < size; i += rows) begins.push_back(i);
    begins.push_back(size);
    return {std::move(begins), ranks};
}

ShardLayout sparse_factor_layout(const ShardLayout& shards) {
    const Index joined = std::min(shards.shards(), std::max<Index>(4, shards.rows() / 32));
    std::vector<Index> begins;
    for (Index s = 0; s < joined; ++s) {
        begins.push_back(shards.shard_rows(even_part(shards.shards(), joined, s).begin).begin);
    }
    begins.push_back(shards.rows());
    return {std::move(begins), shards.ranks()};
}

Index tile_count(Index size, Index shards, Index lines, Index nnz) {
    constexpr Index tile_rows = 1024;
    constexpr Index entries_per_line = 8;
    const auto power = [](Index i, bool up) {
        const auto n = static_cast<std::uint64_t>(std::max<Index>(1, i));
        return static_cast<Index>(up ? std::bit_ceil(n) : std::bit_floor(n));
    };
    const Index wanted = power((size + tile_rows - 1) / tile_rows, true);
    const Index useful = power(nnz / std::max<Index>(1, entries_per_line * lines), false);
    return std::max<Index>(4, std::min({wanted, useful, power(shards, false)}));
}

template <Real R>
GridMatrix<R>::GridMatrix(const BlockRows<R>& a, const ProcessGrid& grid, Index k, Index threads)
    : grid_{&grid}, k_{k}, threads_{threads}, nnz_{a.rows() * a.cols()}, sparse_{false} {
    RANKFOLD_EXPECT(grid.comm().size() == a.comm().size() && k > 0 && threads > 0);
    const auto phase = grid.comm().ledger().phase("grid redistribution");
    const int ranks = grid.comm().size();
    plan(Side::rows, dense_factor_layout(a.rows(), ranks), a.cols());
    plan(Side::cols, dense_factor_layout(a.cols(), ranks), a.rows());
    plan_trees();
    std::tie(square_, sum_) = sums<R>(grid.comm(), a.shards(), [&](Index s) {
        const MatrixView<const R> rows = a.shard(s);
        return std::span<const R>(rows.data, at(rows.rows * rows.cols));
    });
    take_block(a);
}

template <Real R>
GridMatrix<R>::GridMatrix(const BlockRowCsr<R>& a, const ProcessGrid& grid, Index k, Index threads)
    : grid_{&grid}, k_{k}, threads_{threads}, nnz_{a.nnz()}, sparse_{true} {
    RANKFOLD_EXPECT(grid.comm().size() == a.comm().size() && k > 0 && threads > 0);
    const auto phase = grid.comm().ledger().phase("grid redistribution");
    plan(Side::rows, sparse_factor_layout(a.layout()), a.cols());
    plan(Side::cols, sparse_factor_layout(column_layout(a)), a.rows());
    plan_trees();
    std::tie(square_, sum_) = sums<R>(grid.comm(), a.shards(), [&](Index s) {
        const CsrView<R> rows = a.shard(s);
        return std::span<const R>(rows.values + rows.row_ptr[0], at(rows.nnz()));
    });
    take_block(a);
}

template <Real R>
void GridMatrix<R>::plan(Side side, ShardLayout layout, Index lines) {
    const GridShape shape = grid_->shape();
    const Index tiles = tile_count(layout.rows(), layout.shards(), lines, nnz_);
    const bool rows = side == Side::rows;
    SideState& mine = state(side);
    mine.axis = rows ? GridAxis(std::move(layout), tiles, shape.rows, shape.cols)
                     : GridAxis(std::move(layout), tiles, shape.cols, shape.rows);
    mine.part = rows ? grid_->row() : grid_->col();
    mine.sharers = rows ? &grid_->row_comm() : &grid_->col_comm();
    mine.panel = mine.axis.panel(mine.part);
}

template <Real R>
void GridMatrix<R>::plan_trees() {
    for (const Side side : {Side::rows, Side::cols}) {
        SideState& mine = state(side);
        const GridAxis& inner = other(side).axis;
        std::vector<Range> held;
        for (int q = 0; q < mine.sharers->size(); ++q) {
            const auto nodes = tree_nodes(inner.tiles(), inner.panel_tiles(q));
            held.insert(held.end(), nodes.begin(), nodes.end());
            mine.nodes_of_sharer.push_back(static_cast<Index>(nodes.size()));
            if (q == mine.sharers->rank()) mine.nodes = nodes;
        }
        mine.additions = tree_additions(inner.tiles(), held);
        if (mine.sharers->size() == 1) continue;
        mine.gathered = DenseMatrix<R>(mine.panel.size(), k_);
        for (std::size_t n = 0; n < mine.nodes.size(); ++n) {
            mine.partials.emplace_back(mine.panel.size(), k_);
        }
    }
}

template <Real R>
void GridMatrix<R>::take_block(const BlockRows<R>& a) {
    const Communicator& comm = grid_->comm();
    if (comm.size() == 1) {
        dense_ = a.local().view();
        return;
    }
    const Range mine = a.layout().rank_rows(comm.rank());
    std::vector<Index> send_counts;
    std::vector<Index> recv_counts;
    std::vector<R> packed;
    const bool whole_rows = grid_->shape().cols == 1;
    for (int q = 0; q < comm.size(); ++q) {
        const Range rows = overlap(mine, rows_.axis.panel(grid_->row_of(q)));
        const Range cols = cols_.axis.panel(grid_->col_of(q));
        send_counts.push_back(rows.size() * cols.size());
        recv_counts.push_back(overlap(a.layout().rank_rows(q), rows_.panel).size() *
                              cols_.panel.size());
        for (Index i = rows.begin; i < rows.end && !whole_rows; ++i) {
            const auto row = a.local().row(i - mine.begin);
            packed.insert(packed.end(), row.begin() + cols.begin, row.begin() + cols.end);
        }
    }
    block_ = DenseMatrix<R>(rows_.panel.size(), cols_.panel.size());
    comm.all_to_all(whole_rows ? a.local().data() : std::span<const R>(packed), send_counts,
                    block_.data(), recv_counts);
    dense_ = block_.view();
}

template <Real R>
void GridMatrix<R>::take_block(const BlockRowCsr<R>& a) {
    const Communicator& comm = grid_->comm();
    const Range mine = a.layout().rank_rows(comm.rank());
    std::vector<Index> lengths, length_counts, entry_counts;
    std::vector<ColIndex> idx;
    std::vector<R> values;
    for (int q = 0; q < comm.size(); ++q) {
        const Range rows = overlap(mine, rows_.axis.panel(grid_->row_of(q)));
        const Range cols = cols_.axis.panel(grid_->col_of(q));
        const auto before = idx.size();
        for (Index i = rows.begin - mine.begin; i < rows.end - mine.begin; ++i) {
            const auto all = a.local().view().row_cols(i);
            const auto from = std::ranges::lower_bound(all, cols.begin) - all.begin();
            const auto to = std::ranges::lower_bound(all, cols.end) - all.begin();
            const auto row = a.local().view().row_values(i);
            for (auto e = from; e < to; ++e) {
                idx.push_back(static_cast<ColIndex>(all[at(e)] - cols.begin));
            }
            values.insert(values.end(), row.begin() + from, row.begin() + to);
            lengths.push_back(to - from);
        }
        length_counts.push_back(rows.size());
        entry_counts.push_back(static_cast<Index>(idx.size() - before));
    }
    lengths = comm.all_to_all(std::span<const Index>(lengths), length_counts);
    idx = comm.all_to_all(std::span<const ColIndex>(idx), entry_counts);
    values = comm.all_to_all(std::span<const R>(values), entry_counts);

    // the block's transpose, by counting sort
    std::vector<Index> next(at(cols_.panel.size()) + 1, 0);
    for (const ColIndex j : idx) ++next[at(j) + 1];
    std::partial_sum(next.begin(), next.end(), next.begin());
    std::vector<Index> column_lengths;
    for (std::size_t j = 0; j + 1 < next.size(); ++j)
        column_lengths.push_back(next[j + 1] - next[j]);
    std::vector<ColIndex> row_idx(idx.size());
    std::vector<R> row_values(idx.size());
    std::size_t e = 0;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
        for (Index n = 0; n < lengths[i]; ++n, ++e) {
            const auto to = at(next[at(idx[e])]++);
            row_idx[to] = static_cast<ColIndex>(i);
            row_values[to] = values[e];
        }
    }
    const auto set_lines = [this](Side side, const std::vector<Index>& line_lengths,
                                  std::vector<ColIndex> indices, std::vector<R> elements) {
        Lines& lines = state(side).lines;
        const SideState& inner = other(side);
        const Range tiles = inner.axis.panel_tiles(inner.part);
        lines.tiles = tiles.size();
        lines.begin.reserve(line_lengths.size() * at(lines.tiles) + 1);
        Index line_begin = 0;
        for (const Index length : line_lengths) {
            Index position = line_begin;
            for (Index t = tiles.begin; t < tiles.end; ++t) {
                const Index end = inner.axis.tile(t).end - inner.panel.begin;
                while (position < line_begin + length && indices[at(position)] < end) ++position;
                lines.begin.push_back(position);
            }
            line_begin += length;
        }
        lines.idx = std::move(indices);
        lines.values = std::move(elements);
    };
    set_lines(Side::rows, lengths, std::move(idx), std::move(values));
    set_lines(Side::cols, column_lengths, std::move(row_idx), std::move(row_values));
}

template <Real R>
Range GridMatrix<R>::owned(Side side, int rank) const {
    const int row = grid_->row_of(rank);
    const int col = grid_->col_of(rank);
    return side == Side::rows ? rows_.axis.owned(row, col) : cols_.axis.owned(col, row);
}

template <Real R>
Range GridMatrix<R>::owned_shards(Side side) const {
    const SideState& mine = state(side);
    return mine.axis.owned_shards(mine.part, mine.sharers->rank());
}

template <Real R>
void GridMatrix<R>::gather(Side side, const DenseMatrix<R>& factor) {
    SideState& mine = state(side);
    RANKFOLD_EXPECT(factor.rows() == owned(side).size() && factor.cols() == k_);
    if (mine.sharers->size() == 1) {
        mine.factor = factor.view();
        return;
    }
    const auto phase = grid_->comm().ledger().phase("grid exchange");
    std::vector<Index> counts = mine.axis.owned_counts(mine.part);
    for (Index& n : counts) n *= k_;
    grid_->comm().ledger().predict_bytes(static_cast<double>(factor.data().size_bytes()) *
                                         (mine.sharers->size() - 1));
    mine.sharers->all_gather(factor.data(), counts, mine.gathered.data());
    mine.factor = std::as_const(mine.gathered).view();
}

template <Real R>
void GridMatrix<R>::reduce(Side side, DenseMatrix<R>& result) const {
    const SideState& mine = state(side);
    const Communicator& comm = *mine.sharers;
    const auto phase = grid_->comm().ledger().phase("grid exchange");
    const Index nodes = static_cast<Index>(mine.nodes.size());
    const std::size_t own = result.data().size();
    std::vector<Index> send_counts;
    std::vector<Index> recv_counts;
    std::vector<R> packed;
    for (int q = 0; q < comm.size(); ++q) {
        const Range slice = mine.axis.owned(mine.part, q);
        const Index begin = (slice.begin - mine.panel.begin) * k_;
        send_counts.push_back(slice.size() * k_ * nodes);
        recv_counts.push_back(static_cast<Index>(own) * mine.nodes_of_sharer[at(q)]);
        if (nodes < 2) continue;
        for (const auto& partial : mine.partials) {
            const auto from = partial.data().begin() + begin;
            packed.insert(packed.end(), from, from + slice.size() * k_);
        }
    }
    std::span<const R> send(packed);
    if (nodes == 1) send = mine.partials[0].data();
    const Index all_nodes =
        std::accumulate(mine.nodes_of_sharer.begin(), mine.nodes_of_sharer.end(), Index{0});
    AlignedVector<R> received(own * at(all_nodes));
    const auto others = static_cast<double>(mine.panel.size() * k_) - static_cast<double>(own);
    grid_->comm().ledger().predict_bytes(others * static_cast<double>(nodes) * sizeof(R));
    comm.all_to_all(send, send_counts, std::span<R>(received), recv_counts);
    for (const auto& [to, from] : mine.additions) {
        R* sum = received.data() + at(to) * own;
        const R* term = received.data() + at(from) * own;
        for (std::size_t i = 0; i < own; ++i) sum[i] += term[i];
    }
    std::copy_n(received.begin(), own, result.data().begin());
}

template <Real R>
DenseMatrix<R> GridMatrix<R>::to_owned(Side side, const BlockRows<R>& factor) const {
    const Communicator& comm = grid_->comm();
    RANKFOLD_EXPECT(factor.rows() == state(side).axis.layout().rows() && factor.cols() == k_);
    const Range mine = factor.layout().rank_rows(comm.rank());
    std::vector<Index> send_counts;
    std::vector<Index> recv_counts;
    std::vector<R> packed;
    for (int q = 0; q < comm.size(); ++q) {
        const Range rows = overlap(mine, owned(side, q));
        const auto from = factor.local().data().begin() + (rows.begin - mine.begin) * k_;
        packed.insert(packed.end(), from, from + rows.size() * k_);
        send_counts.push_back(rows.size() * k_);
        recv_counts.push_back(overlap(factor.layout().rank_rows(q), owned(side)).size() * k_);
    }
    DenseMatrix<R> result(owned(side).size(), k_);
    comm.all_to_all(std::span<const R>(packed), send_counts, result.data(), recv_counts);
    return result;
}

template <Real R>
BlockRows<R> GridMatrix<R>::to_block_rows(Side side, const DenseMatrix<R>& factor) const {
    const Communicator& comm = grid_->comm();
    BlockRows<R> result(comm, state(side).axis.layout(), k_);
    const Range mine = owned(side);
    const Range target = result.layout().rank_rows(comm.rank());
    std::vector<Index> send_counts;
    for (int q = 0; q < comm.size(); ++q) {
        send_counts.push_back(overlap(mine, result.layout().rank_rows(q)).size() * k_);
    }
    const std::vector<R> received = comm.all_to_all(factor.data(), send_counts);
    auto from = received.begin();
    for (int q = 0; q < comm.size(); ++q) {
        const Range rows = overlap(owned(side, q), target);
        std::copy_n(from, rows.size() * k_,
                    result.local().data().begin() + (rows.begin - target.begin) * k_);
        from += rows.size() * k_;
    }
    return result;
}

template class GridMatrix<float>;
template class GridMatrix<double>;

}  // namespace rankfold
