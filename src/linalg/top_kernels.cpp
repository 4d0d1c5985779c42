#include <rankfold/linalg/top_kernels.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <utility>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "top_kernels.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace rankfold::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr Index most_rows = 6;
constexpr Index tile_vectors = HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL ? 4 : 2;

template <class R>
using Tag = hn::CappedTag<R, 64 / sizeof(R)>;

/// Puts the columns of a vector of scores that are above the threshold behind the others. Whole
/// vectors are stored: a store that compresses costs some processors a hundred cycles.
template <class R>
HWY_INLINE Index append(hn::Vec<Tag<R>> score, hn::Mask<Tag<R>> above, Index first, R* scores,
                        typename TopSelection<R>::Column* cols, Index count) {
    const Tag<R> d;
    const hn::RebindToSigned<Tag<R>> di;
    using Column = typename TopSelection<R>::Column;
    const auto places = hn::Iota(di, static_cast<Column>(first));
    hn::StoreU(hn::Compress(places, hn::RebindMask(di, above)), di, cols + count);
    hn::StoreU(hn::Compress(score, above), d, scores + count);
    return count + static_cast<Index>(hn::CountTrue(d, above));
}

/// Scores ROWS rows with VECS vectors of a panel's columns, from `at` on.
template <Index ROWS, Index VECS, class R>
HWY_INLINE void filter_tile(const R* HWY_RESTRICT x, Index ldx, const PackedColumns<R>& y,
                            Index panel, Index at, TopSelection<R>* selections) {
    const Tag<R> d;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    constexpr Index width = PackedColumns<R>::width;
    hn::Vec<Tag<R>> sum[ROWS][VECS];
    HWY_UNROLL(8)
    for (Index v = 0; v < VECS; ++v) {
        const auto offset = hn::LoadU(d, y.offsets(panel) + at + v * lanes);
        HWY_UNROLL(8)
        for (Index r = 0; r < ROWS; ++r) sum[r][v] = offset;
    }
    const R* HWY_RESTRICT packed = y.panel(panel) + at;
    const Index k = y.k();
    for (Index f = 0; f < k; ++f) {
        hn::Vec<Tag<R>> right[VECS];
        HWY_UNROLL(8)
        for (Index v = 0; v < VECS; ++v) right[v] = hn::LoadU(d, packed + f * width + v * lanes);
        HWY_UNROLL(8)
        for (Index r = 0; r < ROWS; ++r) {
            const auto left = hn::Set(d, x[r * ldx + f]);
            HWY_UNROLL(8)
            for (Index v = 0; v < VECS; ++v) sum[r][v] = hn::MulAdd(left, right[v], sum[r][v]);
        }
    }
    const Index first = panel * width + at;
    HWY_UNROLL(8)
    for (Index r = 0; r < ROWS; ++r) {
        TopSelection<R>& best = selections[r];
        const auto threshold = hn::Set(d, best.threshold());
        auto any = hn::Gt(sum[r][0], threshold);
        HWY_UNROLL(8)
        for (Index v = 1; v < VECS; ++v) any = hn::Or(any, hn::Gt(sum[r][v], threshold));
        if (HWY_LIKELY(hn::AllFalse(d, any))) continue;
        Index count = best.count();
        HWY_UNROLL(8)
        for (Index v = 0; v < VECS; ++v) {
            const auto above = hn::Gt(sum[r][v], threshold);
            if (hn::AllFalse(d, above)) continue;
            count =
                append<R>(sum[r][v], above, first + v * lanes, best.scores(), best.cols(), count);
        }
        best.appended(count);
    }
}

template <Index ROWS, class R>
void filter_rows(const R* x, Index ldx, const PackedColumns<R>& y, Range panels,
                 TopSelection<R>* selections) {
    const Index lanes = static_cast<Index>(hn::Lanes(Tag<R>()));
    for (Index p = panels.begin; p < panels.end; ++p) {
        for (Index at = 0; at < PackedColumns<R>::width; at += tile_vectors * lanes) {
            filter_tile<ROWS, tile_vectors>(x, ldx, y, p, at, selections);
        }
    }
}

template <class R>
void filter_impl(MatrixView<const R> x, const PackedColumns<R>& y, Range panels,
                 TopSelection<R>* selections) {
    Index r = 0;
    for (; r + most_rows <= x.rows; r += most_rows) {
        filter_rows<most_rows>(x.data + r * x.ld, x.ld, y, panels, selections + r);
    }
    for (; r + 2 <= x.rows; r += 2) {
        filter_rows<2>(x.data + r * x.ld, x.ld, y, panels, selections + r);
    }
    if (r < x.rows) filter_rows<1>(x.data + r * x.ld, x.ld, y, panels, selections + r);
}

/// How many of n scores are above a value.
template <class R>
HWY_INLINE Index count_above(const R* scores, Index n, R value) {
    const Tag<R> d;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    const auto bound = hn::Set(d, value);
    Index count = 0;
    Index i = 0;
    for (; i + lanes <= n; i += lanes) {
        count += static_cast<Index>(hn::CountTrue(d, hn::Gt(hn::LoadU(d, scores + i), bound)));
    }
    for (; i < n; ++i) count += scores[i] > value ? 1 : 0;
    return count;
}

/// The least and the greatest of n > 0 scores.
template <class R>
HWY_INLINE std::pair<R, R> range_of(const R* scores, Index n) {
    const Tag<R> d;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    auto low = hn::Set(d, scores[0]);
    auto high = low;
    Index i = 0;
    for (; i + lanes <= n; i += lanes) {
        const auto score = hn::LoadU(d, scores + i);
        low = hn::Min(low, score);
        high = hn::Max(high, score);
    }
    R least = hn::GetLane(hn::MinOfLanes(d, low));
    R greatest = hn::GetLane(hn::MaxOfLanes(d, high));
    for (; i < n; ++i) {
        least = std::min(least, scores[i]);
        greatest = std::max(greatest, scores[i]);
    }
    return {least, greatest};
}

/// Halves the range of values until few more than `top` scores are above its lower end.
template <class R>
Index drop_least_impl(R* scores, typename TopSelection<R>::Column* cols, Index n, Index top,
                      R& threshold) {
    constexpr int most_steps = 40;
    auto [low, high] = range_of(scores, n);
    Index above = n;  // of the threshold so far
    R bound = threshold;
    for (int step = 0; step < most_steps && above > top + top / 8; ++step) {
        const R middle = low + (high - low) / 2;
        if (!(middle > low && middle < high)) break;
        const Index count = count_above(scores, n, middle);
        if (count >= top) {
            bound = low = middle;
            above = count;
        } else {
            high = middle;
        }
    }
    if (above == n) return n;
    threshold = bound;
    const Tag<R> d;
    const hn::RebindToSigned<Tag<R>> di;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    const auto least = hn::Set(d, bound);
    Index kept = 0;
    Index i = 0;
    for (; i + lanes <= n; i += lanes) {  // what is written was read before
        const auto score = hn::LoadU(d, scores + i);
        const auto col = hn::LoadU(di, cols + i);
        const auto stays = hn::Gt(score, least);
        hn::StoreU(hn::Compress(col, hn::RebindMask(di, stays)), di, cols + kept);
        hn::StoreU(hn::Compress(score, stays), d, scores + kept);
        kept += static_cast<Index>(hn::CountTrue(d, stays));
    }
    for (; i < n; ++i) {
        if (!(scores[i] > bound)) continue;
        cols[kept] = cols[i];
        scores[kept++] = scores[i];
    }
    return kept;
}

#define RANKFOLD_KERNELS(R, suffix)                                                         \
    void filter_##suffix(MatrixView<const R> x, const PackedColumns<R>& y, Range panels,    \
                         TopSelection<R>* selections) {                                     \
        filter_impl<R>(x, y, panels, selections);                                           \
    }                                                                                       \
    Index drop_least_##suffix(R* scores, TopSelection<R>::Column* cols, Index n, Index top, \
                              R& threshold) {                                               \
        return drop_least_impl<R>(scores, cols, n, top, threshold);                         \
    }
RANKFOLD_KERNELS(float, f)
RANKFOLD_KERNELS(double, d)
#undef RANKFOLD_KERNELS

}  // namespace rankfold::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <hwy/contrib/sort/vqsort.h>

namespace rankfold {

template <Real R>
PackedColumns<R>::PackedColumns(MatrixView<const R> y, std::span<const R> offset)
    : cols_{y.rows},
      k_{y.cols},
      panels_(static_cast<std::size_t>(panels() * width * k_), R{0}),
      offsets_(static_cast<std::size_t>(panels() * width), -std::numeric_limits<R>::infinity()) {
    RANKFOLD_EXPECT(offset.empty() || std::ssize(offset) == cols_);
    for (Index j = 0; j < cols_; ++j) {
        R* to = panels_.data() + (j / width) * k_ * width + j % width;
        for (Index f = 0; f < k_; ++f) to[f * width] = y(j, f);
        offsets_[static_cast<std::size_t>(j)] =
            offset.empty() ? R{0} : offset[static_cast<std::size_t>(j)];
    }
}

namespace {

constexpr Index widest_vector = 64;  // bytes; whole ones are stored behind the last candidate

/// A score and its column as one number: the greater the score, the less; of equal scores the lower
/// column's is less.
std::uint64_t key_of(float score, std::int32_t col) {
    const auto bits = std::bit_cast<std::uint32_t>(score + 0.0F);  // −0 equals 0
    const std::uint32_t turned = bits ^ (bits >> 31 != 0 ? 0U : 0x7FFFFFFFU);
    return (std::uint64_t{turned} << 32) | static_cast<std::uint32_t>(col);
}

float score_of(std::uint64_t key) {
    const auto turned = static_cast<std::uint32_t>(key >> 32);
    return std::bit_cast<float>(turned ^ (turned >> 31 != 0 ? 0U : 0x7FFFFFFFU));
}

/// The best of all candidates, best first, of equal scores the lower column.
void put_best(std::span<const float> candidates, const std::int32_t* candidate_cols,
              std::span<Index> cols, std::span<float> scores) {
    thread_local const hwy::Sorter sort;
    thread_local std::vector<std::uint64_t> keys;
    keys.resize(candidates.size());
    for (std::size_t c = 0; c < keys.size(); ++c) {
        keys[c] = key_of(candidates[c], candidate_cols[c]);
    }
    sort(keys.data(), keys.size(), hwy::SortAscending());
    for (std::size_t place = 0; place < cols.size(); ++place) {
        cols[place] = static_cast<Index>(keys[place] & 0xFFFFFFFFU);
        scores[place] = score_of(keys[place]);
    }
}

void put_best(std::span<const double> candidates, const std::int64_t* candidate_cols,
              std::span<Index> cols, std::span<double> scores) {
    thread_local std::vector<std::pair<double, Index>> order;
    order.clear();
    for (std::size_t c = 0; c < candidates.size(); ++c) {
        order.emplace_back(-candidates[c], candidate_cols[c]);
    }
    std::ranges::sort(order);
    for (std::size_t place = 0; place < cols.size(); ++place) {
        cols[place] = order[place].second;
        scores[place] = -order[place].first;
    }
}

}  // namespace

template <Real R>
Index TopSelection<R>::capacity(Index top) {
    constexpr Index batch = 160;  // candidates that are collected before the least are dropped
    return top + std::max(batch, top / 2) + PackedColumns<R>::width +
           widest_vector / Index{sizeof(R)};
}

template <Real R>
TopSelection<R>::TopSelection(Index top)
    : top_{top},
      full_{capacity(top) - PackedColumns<R>::width - widest_vector / Index{sizeof(R)}},
      scores_(static_cast<std::size_t>(capacity(top))),
      cols_(static_cast<std::size_t>(capacity(top))) {}

template <Real R>
void TopSelection<R>::start(std::span<const ColIndex> left_out) {
    threshold_ = -std::numeric_limits<R>::infinity();
    count_ = checked_ = 0;
    left_out_ = left_out;
}

template <Real R>
void TopSelection<R>::drop_left_out() {
    if (!left_out_.empty()) {
        Index kept = checked_;
        for (Index c = checked_; c < count_; ++c) {
            const auto at = static_cast<std::size_t>(c);
            const Column col = cols_[at];
            // candidates come in increasing order, so what is passed will not come again
            std::size_t passed = 0;
            while (passed < left_out_.size() && left_out_[passed] < col) ++passed;
            left_out_ = left_out_.subspan(passed);
            if (!left_out_.empty() && left_out_.front() == col) continue;
            cols_[static_cast<std::size_t>(kept)] = col;
            scores_[static_cast<std::size_t>(kept++)] = scores_[at];
        }
        count_ = kept;
    }
    checked_ = count_;
}

template <Real R>
void TopSelection<R>::make_room() {
    drop_left_out();
    if (count_ > full_) {
        count_ = drop_least<R>(std::span<R>(scores_).first(static_cast<std::size_t>(count_)),
                               cols_.data(), top_, threshold_);
        if (count_ > full_) shrink_exactly();
        checked_ = count_;
    }
}

/// Keeps exactly the wanted number: those above the last of them, and the lowest columns of those
/// that equal it. Later columns are higher, so they must be above it.
template <Real R>
void TopSelection<R>::shrink_exactly() {
    const auto n = static_cast<std::size_t>(count_);
    std::vector<R> order(scores_.begin(), scores_.begin() + count_);
    const auto last = order.begin() + top_ - 1;
    std::nth_element(order.begin(), last, order.end(), std::greater<>());
    const R least = *last;
    Index equal =
        top_ - std::count_if(order.begin(), order.end(), [&](R score) { return score > least; });
    std::size_t kept = 0;
    for (std::size_t c = 0; c < n; ++c) {
        if (scores_[c] < least || (scores_[c] == least && equal-- <= 0)) continue;
        cols_[kept] = cols_[c];
        scores_[kept++] = scores_[c];
    }
    count_ = static_cast<Index>(kept);
    threshold_ = least;
}

template <Real R>
Index TopSelection<R>::finish(std::span<Index> cols, std::span<R> scores) {
    drop_left_out();
    if (count_ > top_ + top_ / 8) {
        count_ = drop_least<R>(std::span<R>(scores_).first(static_cast<std::size_t>(count_)),
                               cols_.data(), top_, threshold_);
    }
    const Index found = std::min(top_, count_);
    const auto n = static_cast<std::size_t>(found);
    put_best(std::span<const R>(scores_).first(static_cast<std::size_t>(count_)), cols_.data(),
             cols.first(n), scores.first(n));
    std::ranges::fill(cols.subspan(n), Index{-1});
    std::ranges::fill(scores.subspan(n), R{0});
    return found;
}

#define RANKFOLD_DISPATCH(R, suffix)                                                   \
    HWY_EXPORT(filter_##suffix);                                                       \
    HWY_EXPORT(drop_least_##suffix);                                                   \
    template <>                                                                        \
    void filter_scores(MatrixView<const R> x, const PackedColumns<R>& y, Range panels, \
                       std::span<TopSelection<R>> selections) {                        \
        RANKFOLD_EXPECT(x.cols >= y.k() && std::ssize(selections) == x.rows);          \
        HWY_DYNAMIC_DISPATCH(filter_##suffix)(x, y, panels, selections.data());        \
    }                                                                                  \
    template <>                                                                        \
    Index drop_least(std::span<R> scores, TopSelection<R>::Column* cols, Index top,    \
                     R& threshold) {                                                   \
        return HWY_DYNAMIC_DISPATCH(drop_least_##suffix)(                              \
            scores.data(), cols, static_cast<Index>(scores.size()), top, threshold);   \
    }                                                                                  \
    template class PackedColumns<R>;                                                   \
    template class TopSelection<R>;
RANKFOLD_DISPATCH(float, f)
RANKFOLD_DISPATCH(double, d)
#undef RANKFOLD_DISPATCH

}  // namespace rankfold
#endif  // HWY_ONCE
