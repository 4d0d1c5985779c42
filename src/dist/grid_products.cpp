// The products of GridMatrix: what a rank computes of them.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include <rankfold/comm/reproducible_sum.hpp>
#include <rankfold/core/sum_tree.hpp>
#include <rankfold/dist/grid_matrix.hpp>
#include <rankfold/linalg/blas.hpp>
#include <rankfold/linalg/nmf_kernels.hpp>
#include <rankfold/linalg/row_kernels.hpp>
#include <rankfold/linalg/tall_product.hpp>

namespace rankfold {

namespace {

std::size_t at(Index i) {
    return static_cast<std::size_t>(i);
}

template <Real R>
void add_rows(MatrixView<const R> term, MatrixView<R> sum) {
    const Index count = sum.rows * sum.cols;
    for (Index i = 0; i < count; ++i) sum.data[i] += term.data[i];
}

/// a / s, with s kept away from zero, and a log(a / s) added to `logs`.
template <Real R>
R quotient(R a, R s, double* logs) {
    const R below = std::max(s, std::numeric_limits<R>::epsilon());
    if (logs != nullptr && a > R{0}) {
        *logs +=
            static_cast<double>(a) * std::log(static_cast<double>(a) / static_cast<double>(below));
    }
    return a / below;
}

}  // namespace

template <Real R>
Range GridMatrix<R>::tile(const SideState& side, Index t) const {
    const Range rows = side.axis.tile(t);
    return {rows.begin - side.panel.begin, rows.end - side.panel.begin};
}

template <Real R>
MatrixView<const R> GridMatrix<R>::dense_tile(Index row_tile, Index col_tile) const {
    return dense_.row_block(tile(rows_, row_tile)).col_block(tile(cols_, col_tile));
}

template <Real R>
void GridMatrix<R>::tile_scores(Index row_tile, Index col_tile, DenseMatrix<R>& scores) const {
    const auto w = rows_.factor.row_block(tile(rows_, row_tile));
    const auto h = cols_.factor.row_block(tile(cols_, col_tile));
    scores = DenseMatrix<R>(w.rows, h.rows);
    gemm<R>(Transpose::no, Transpose::yes, R{1}, w, h, R{0}, scores.view());
}

template <Real R>
void GridMatrix<R>::dense_leaf(Side side, Index own, Index inner, const Target& target,
                               MatrixView<R> out) const {
    const bool rows = side == Side::rows;
    const Index row_tile = rows ? own : inner;
    const Index col_tile = rows ? inner : own;
    const MatrixView<const R> factor = other(side).factor.row_block(tile(other(side), inner));
    MatrixView<const R> a = dense_tile(row_tile, col_tile);
    DenseMatrix<R> quotients;
    if (target.quotients) {
        tile_scores(row_tile, col_tile, quotients);
        double logs = 0.0;
        for (Index i = 0; i < a.rows; ++i) {
            for (Index j = 0; j < a.cols; ++j) {
                quotients(i, j) =
                    quotient(a(i, j), quotients(i, j), target.logs != nullptr ? &logs : nullptr);
            }
        }
        a = std::as_const(quotients).view();
        if (target.logs != nullptr) {
            const Range tiles = other(side).axis.panel_tiles(other(side).part);
            const Index first = state(side).axis.panel_tiles(state(side).part).begin;
            (*target.logs)[at((own - first) * tiles.size() + inner - tiles.begin)] = logs;
        }
    }
    tall_product<R>(rows ? Transpose::no : Transpose::yes, a, factor, out);
}

template <Real R>
void GridMatrix<R>::dense_node(Side side, Index own, Range node, const Target& target,
                               MatrixView<R> out, MatrixView<R> spare) const {
    if (node.size() == 1) {
        dense_leaf(side, own, node.begin, target, out);
        return;
    }
    const auto [left, right] = tree_halves(node);
    const MatrixView<R> term = spare.row_block({0, out.rows});
    const MatrixView<R> rest = spare.row_block({out.rows, spare.rows});
    dense_node(side, own, left, target, out, spare);
    dense_node(side, own, right, target, term, rest);
    add_rows<R>(term, out);
}

/// Adds the node's part of one line of the product, if it has entries there.
template <Real R>
bool GridMatrix<R>::sparse_node(Side side, Index line, Range node, const Target& target, R* out,
                                R* spare, double* logs) const {
    const Lines& lines = state(side).lines;
    const SideState& inner = other(side);
    const Index first = inner.axis.panel_tiles(inner.part).begin;
    const Index from = lines.begin[at(line * lines.tiles + node.begin - first)];
    const Index to = lines.begin[at(line * lines.tiles + node.end - first)];
    if (from == to) return false;
    if (node.size() > 1) {
        const auto [left, right] = tree_halves(node);
        if (!sparse_node(side, line, left, target, out, spare, logs)) {
            return sparse_node(side, line, right, target, out, spare,
                               logs == nullptr ? nullptr : logs + left.size());
        }
        if (sparse_node(side, line, right, target, spare, spare + k_,
                        logs == nullptr ? nullptr : logs + left.size())) {
            for (Index f = 0; f < k_; ++f) out[f] += spare[f];
        }
        return true;
    }
    const auto idx = std::span<const ColIndex>(lines.idx).subspan(at(from));
    const auto values = std::span<const R>(lines.values).subspan(at(from), at(to - from));
    if (!target.quotients) {
        weighted_row_sum<R>(inner.factor, idx, values, out);
        return true;
    }
    AlignedVector<R> scores(values.size());
    gather_dots<R>(inner.factor, idx.first(values.size()), state(side).factor.row(line), scores);
    for (std::size_t e = 0; e < values.size(); ++e) {
        scores[e] = quotient(values[e], scores[e], logs);
    }
    weighted_row_sum<R>(inner.factor, idx, scores, out);
    return true;
}

template <Real R>
void GridMatrix<R>::sparse_lines(Side side, Index shard, const Target& target) const {
    const SideState& mine = state(side);
    const Range rows = mine.axis.layout().shard_rows(shard);
    const Index first_tile = other(side).axis.panel_tiles(other(side).part).begin;
    std::vector<R> spare(at(64 * k_));  // a row of factors for every level of the tree
    double* logs = nullptr;
    if (target.logs != nullptr) {
        const Index first = mine.axis.panel_shards(mine.part).begin;
        logs = target.logs->data() + (shard - first) * mine.lines.tiles;
    }
    for (Index i = rows.begin - mine.panel.begin; i < rows.end - mine.panel.begin; ++i) {
        for (std::size_t n = 0; n < mine.nodes.size(); ++n) {
            R* out = target.nodes[n].data + i * k_;
            const Range node = mine.nodes[n];
            if (!sparse_node(side, i, node, target, out, spare.data(),
                             logs == nullptr ? nullptr : logs + node.begin - first_tile)) {
                std::fill_n(out, k_, R{0});
            }
        }
    }
}

template <Real R>
void GridMatrix<R>::product(Side side, DenseMatrix<R>& result, bool quotients, double* log_sum) {
    SideState& mine = state(side);
    RANKFOLD_EXPECT(result.rows() == owned(side).size() && result.cols() == k_);
    const Range units =
        sparse_ ? mine.axis.panel_shards(mine.part) : mine.axis.panel_tiles(mine.part);
    const Index inner = other(side).axis.panel_tiles(other(side).part).size();
    std::vector<double> logs(log_sum != nullptr ? at(units.size() * inner) : 0, 0.0);
    Target target{
        .nodes = {}, .quotients = quotients, .logs = log_sum != nullptr ? &logs : nullptr};
    if (mine.sharers->size() == 1) {
        target.nodes.push_back(result.view());
    } else {
        for (auto& partial : mine.partials) target.nodes.push_back(partial.view());
    }
    const auto levels = static_cast<Index>(std::bit_width(static_cast<std::uint64_t>(inner)));
    {
        const auto phase = grid_->comm().ledger().phase("grid product");
        const double entries = sparse_ ? static_cast<double>(mine.lines.values.size())
                                       : static_cast<double>(dense_.rows * dense_.cols);
        grid_->comm().ledger().add_flops((quotients ? 4.0 : 2.0) * entries *
                                         static_cast<double>(k_));
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(threads_))
        for (Index u = units.begin; u < units.end; ++u) {
            if (sparse_) {
                sparse_lines(side, u, target);
                continue;
            }
            const Range rows = tile(mine, u);
            DenseMatrix<R> spare(levels * rows.size(), k_);
            for (std::size_t n = 0; n < mine.nodes.size(); ++n) {
                dense_node(side, u, mine.nodes[n], target, target.nodes[n].row_block(rows),
                           spare.view());
            }
        }
    }
    if (mine.sharers->size() > 1) reduce(side, result);
    if (log_sum != nullptr) *log_sum = reproducible_sum(grid_->comm(), logs);
}

template <Real R>
void GridMatrix<R>::multiply(Side side, DenseMatrix<R>& result) {
    product(side, result, false, nullptr);
}

template <Real R>
void GridMatrix<R>::multiply_quotients(Side side, DenseMatrix<R>& result, double* log_sum) {
    product(side, result, true, log_sum);
}

template <Real R>
double GridMatrix<R>::residual_square(double all_pairs) const {
    const Range tiles = cols_.axis.panel_tiles(cols_.part);
    const Range units =
        sparse_ ? rows_.axis.panel_shards(rows_.part) : rows_.axis.panel_tiles(rows_.part);
    std::vector<double> terms(at(units.size() * tiles.size()), 0.0);
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(threads_))
    for (Index u = units.begin; u < units.end; ++u) {
        for (Index t = tiles.begin; t < tiles.end; ++t) {
            double sum = 0.0;
            if (sparse_) {
                const Range rows = rows_.axis.layout().shard_rows(u);
                const Lines& lines = rows_.lines;
                std::vector<R> scores;
                for (Index i = rows.begin - rows_.panel.begin; i < rows.end - rows_.panel.begin;
                     ++i) {
                    const Index* begin = &lines.begin[at(i * lines.tiles + t - tiles.begin)];
                    const auto count = at(begin[1] - begin[0]);
                    scores.resize(count);
                    gather_dots<R>(cols_.factor, std::span(lines.idx).subspan(at(begin[0]), count),
                                   rows_.factor.row(i), scores);
                    for (std::size_t e = 0; e < count; ++e) {
                        const auto a = static_cast<double>(lines.values[at(begin[0]) + e]);
                        sum += a * (a - 2.0 * static_cast<double>(scores[e]));
                    }
                }
            } else {
                DenseMatrix<R> scores;
                tile_scores(u, t, scores);
                const MatrixView<const R> a = dense_tile(u, t);
                for (Index i = 0; i < a.rows; ++i) {
                    for (Index j = 0; j < a.cols; ++j) {
                        const double d =
                            static_cast<double>(a(i, j)) - static_cast<double>(scores(i, j));
                        sum += d * d;
                    }
                }
            }
            terms[at((u - units.begin) * tiles.size() + t - tiles.begin)] = sum;
        }
    }
    const double stored = reproducible_sum(grid_->comm(), terms);
    return std::max(0.0, sparse_ ? stored + all_pairs : stored);
}

#define RANKFOLD_INSTANTIATE(R)                                                      \
    template void GridMatrix<R>::multiply(Side, DenseMatrix<R>&);                    \
    template void GridMatrix<R>::multiply_quotients(Side, DenseMatrix<R>&, double*); \
    template double GridMatrix<R>::residual_square(double) const;
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
