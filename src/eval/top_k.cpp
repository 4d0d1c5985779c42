#include <rankfold/eval/top_k.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

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
    const auto tiles = score_tiles(scorer.layout(), rank, scorer.cols());
    for_each_tile(std::ssize(tiles), threads, [&](Index t) {
        const Range tile = tiles[static_cast<std::size_t>(t)];
        const auto begin = std::ranges::lower_bound(rows, tile.begin) - rows.begin();
        const auto end = std::ranges::lower_bound(rows, tile.end) - rows.begin();
        if (begin == end) return;
        DenseMatrix<R> scores(tile.size(), scorer.cols());
        scorer.scores(tile, scores.view());
        for (Index at = begin; at < end; ++at) {
            const Index row = rows[static_cast<std::size_t>(at)];
            const auto known = seen == nullptr ? std::span<const ColIndex>()
                                               : seen->local().view().row_cols(row - mine.begin);
            const auto best = best_of_row<R>(std::as_const(scores).row(row - tile.begin), known,
                                             static_cast<std::size_t>(k));
            for (std::size_t place = 0; place < best.size(); ++place) {
                top.cols(at, static_cast<Index>(place)) = best[place].col;
                top.scores(at, static_cast<Index>(place)) = best[place].score;
            }
        }
    });
    return top;
}

#define RANKFOLD_INSTANTIATE(R)                                             \
    template TopColumns<R> top_columns(ScorerRef<R>, const BlockRowCsr<R>*, \
                                       std::span<const Index>, Index, int, Index);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
