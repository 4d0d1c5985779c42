#include <rankfold/eval/top_k.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>

#include <omp.h>

#include <rankfold/linalg/top_kernels.hpp>

#include "for_each_tile.hpp"

namespace rankfold {

namespace {

template <Real R>
struct Scored {
    R score;
    Index col;
};

/// The better of two; NaN was replaced by −∞ before.
template <Real R>
bool better(const Scored<R>& a, const Scored<R>& b) {
    return a.score > b.score || (a.score == b.score && a.col < b.col);
}

/// The k best columns of a row of scores that are not in `seen`, best first.
template <Real R>
std::vector<Scored<R>> best_of_row(std::span<const R> scores, std::span<const ColIndex> seen,
                                   std::size_t k) {
    std::vector<Scored<R>> best;  // a heap with the worst on top
    auto next_seen = seen.begin();
    for (Index j = 0; j < std::ssize(scores); ++j) {
        if (next_seen != seen.end() && *next_seen == j) {
            ++next_seen;
            continue;
        }
        const R score = scores[static_cast<std::size_t>(j)];
        const Scored<R> entry{std::isnan(score) ? -std::numeric_limits<R>::infinity() : score, j};
        if (best.size() < k) {
            best.push_back(entry);
            std::ranges::push_heap(best, better<R>);
        } else if (better(entry, best.front())) {
            std::ranges::pop_heap(best, better<R>);
            best.back() = entry;
            std::ranges::push_heap(best, better<R>);
        }
    }
    std::ranges::sort_heap(best, better<R>);
    return best;
}

/// What a row has seen.
template <Real R>
std::span<const ColIndex> seen_by(const BlockRowCsr<R>* seen, Index local_row) {
    return seen == nullptr ? std::span<const ColIndex>() : seen->local().view().row_cols(local_row);
}

template <Real R>
void put_row(const std::vector<Scored<R>>& best, Index at, TopColumns<R>& top) {
    for (std::size_t place = 0; place < best.size(); ++place) {
        top.cols(at, static_cast<Index>(place)) = best[place].col;
        top.scores(at, static_cast<Index>(place)) = best[place].score;
    }
}

/// Blocks of rows and panels of an inner product that stay in the second-level cache together.
struct Blocking {
    Index rows;
    Index panels;
};

template <Real R>
Blocking choose_blocks(Index k, Index top) {
    constexpr Index cache = Index{1} << 18;  // bytes for each of the two
    constexpr Index group = 6;               // rows that are computed together
    const Index panel = k * PackedColumns<R>::width * Index{sizeof(R)};
    const Index row = TopSelection<R>::bytes(top) + k * Index{sizeof(R)};
    return {.rows = group * std::clamp<Index>(cache / (group * row), 1, 16),
            .panels = std::max<Index>(1, cache / panel)};
}

/// The selection of a block of rows, on one thread.
template <Real R>
class BlockSearch {
public:
    BlockSearch(const InnerProduct<R>& product, const PackedColumns<R>& packed, Blocking blocks,
                Index k)
        : product_{product},
          packed_{packed},
          blocks_{blocks},
          x_(blocks.rows, packed.k()),
          selections_(static_cast<std::size_t>(blocks.rows), TopSelection<R>(k)) {}

    /// Lines [lines.begin, lines.end) of `top`; gives those back that need a closer look.
    void search(Range lines, Index first_row, const BlockRowCsr<R>* seen, TopColumns<R>& top,
                std::vector<Index>& unclear) {
        const Index count = lines.size();
        const auto local = [&](Index t) {
            return top.rows[static_cast<std::size_t>(lines.begin + t)] - first_row;
        };
        for (Index t = 0; t < count; ++t) {
            std::ranges::copy(product_.rows.row(local(t)), x_.row(t).begin());
            selections_[static_cast<std::size_t>(t)].start(seen_by(seen, local(t)));
        }
        const auto selections =
            std::span<TopSelection<R>>(selections_).first(static_cast<std::size_t>(count));
        for (Index p = 0; p < packed_.panels(); p += blocks_.panels) {
            filter_scores<R>(std::as_const(x_).view().row_block({0, count}), packed_,
                             {p, std::min(packed_.panels(), p + blocks_.panels)}, selections);
        }
        for (Index t = 0; t < count; ++t) {
            const auto cols = top.cols.row(lines.begin + t);
            const auto scores = top.scores.row(lines.begin + t);
            const Index found = selections[static_cast<std::size_t>(t)].finish(cols, scores);
            const R offset = product_.row_offset[static_cast<std::size_t>(local(t))];
            for (R& score : scores.first(static_cast<std::size_t>(found))) score += offset;
            const Index free = packed_.cols() - std::ssize(seen_by(seen, local(t)));
            if (found < std::min(std::ssize(cols), free)) unclear.push_back(lines.begin + t);
        }
    }

private:
    const InnerProduct<R>& product_;
    const PackedColumns<R>& packed_;
    Blocking blocks_;
    DenseMatrix<R> x_;
    std::vector<TopSelection<R>> selections_;
};

/// Fills `top` from an inner product; the lines that it returns have scores which are no numbers.
template <Real R>
std::vector<Index> top_of_product(const InnerProduct<R>& product, Index first_row,
                                  const BlockRowCsr<R>* seen, Index threads, TopColumns<R>& top) {
    const Index wanted = top.cols.cols();
    const PackedColumns<R> packed(product.cols, product.col_offset);
    const Blocking blocks = choose_blocks<R>(packed.k(), wanted);
    const Index count = std::ssize(top.rows);
    std::vector<std::unique_ptr<BlockSearch<R>>> searches(static_cast<std::size_t>(threads));
    std::vector<Index> unclear;
    for_each_tile((count + blocks.rows - 1) / blocks.rows, threads, [&](Index b) {
        auto& search = searches[static_cast<std::size_t>(omp_get_thread_num())];
        if (!search) search = std::make_unique<BlockSearch<R>>(product, packed, blocks, wanted);
        std::vector<Index> mine;
        search->search({b * blocks.rows, std::min(count, (b + 1) * blocks.rows)}, first_row, seen,
                       top, mine);
        if (mine.empty()) return;
#pragma omp critical
        unclear.insert(unclear.end(), mine.begin(), mine.end());
    });
    std::ranges::sort(unclear);
    return unclear;
}

/// Fills the given lines of `top` from whole rows of scores.
template <Real R>
void top_of_tiles(ScorerRef<R> scorer, const BlockRowCsr<R>* seen, int rank, Index threads,
                  std::span<const Index> lines, TopColumns<R>& top) {
    const Index first = scorer.layout().rank_rows(rank).begin;
    const auto row_of = [&](Index line) { return top.rows[static_cast<std::size_t>(line)]; };
    const auto tiles = score_tiles(scorer.layout(), rank, scorer.cols());
    for_each_tile(std::ssize(tiles), threads, [&](Index t) {
        const Range tile = tiles[static_cast<std::size_t>(t)];
        const auto begin = std::ranges::lower_bound(lines, tile.begin, {}, row_of);
        const auto end = std::ranges::lower_bound(lines, tile.end, {}, row_of);
        if (begin == end) return;
        DenseMatrix<R> scores(tile.size(), scorer.cols());
        scorer.scores(tile, scores.view());
        for (auto line = begin; line != end; ++line) {
            const Index row = row_of(*line);
            put_row(best_of_row<R>(std::as_const(scores).row(row - tile.begin),
                                   seen_by(seen, row - first),
                                   static_cast<std::size_t>(top.cols.cols())),
                    *line, top);
        }
    });
}

}  // namespace

template <Real R>
TopColumns<R> top_columns(ScorerRef<R> scorer, const BlockRowCsr<R>* seen,
                          std::span<const Index> rows, Index k, int rank, Index threads) {
    RANKFOLD_EXPECT(k > 0 && (seen == nullptr || seen->layout() == scorer.layout()));
    const Range mine = scorer.layout().rank_rows(rank);
    RANKFOLD_EXPECT(rows.empty() || (mine.contains(rows.front()) && mine.contains(rows.back())));
    const auto count = static_cast<Index>(rows.size());
    TopColumns<R> top{.rows = {rows.begin(), rows.end()},
                      .cols = DenseMatrix<Index>(count, k),
                      .scores = DenseMatrix<R>(count, k)};
    top.cols.fill(-1);
    std::vector<Index> lines;
    if (const auto product = scorer.inner_product()) {
        lines = top_of_product(*product, mine.begin, seen, threads, top);
    } else {
        lines.resize(rows.size());
        std::iota(lines.begin(), lines.end(), Index{0});
    }
    if (!lines.empty()) top_of_tiles<R>(scorer, seen, rank, threads, lines, top);
    return top;
}

#define RANKFOLD_INSTANTIATE(R)                                             \
    template TopColumns<R> top_columns(ScorerRef<R>, const BlockRowCsr<R>*, \
                                       std::span<const Index>, Index, int, Index);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
