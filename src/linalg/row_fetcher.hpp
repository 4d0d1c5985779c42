// Rows that will be gathered soon, fetched into the cache while something else is computed.
// Included once for every instruction set, as lane_kernels.hpp.
#if defined(RANKFOLD_ROW_FETCHER) == defined(HWY_TARGET_TOGGLE)
#ifdef RANKFOLD_ROW_FETCHER
#undef RANKFOLD_ROW_FETCHER
#else
#define RANKFOLD_ROW_FETCHER
#endif

#include <algorithm>

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <rankfold/linalg/row_kernels.hpp>

HWY_BEFORE_NAMESPACE();
namespace rankfold::HWY_NAMESPACE {

template <class R>
HWY_INLINE void prefetch_row(MatrixView<const R> y, ColIndex row) {
    const R* from = y.data + row * y.ld;
    for (Index c = 0; c < y.cols; c += 64 / Index{sizeof(R)}) hwy::Prefetch(from + c);
}

/// Hands out what is to be fetched for the next update, evenly over this one: a line of the first
/// or the second half of the rows to a tile.
template <class R>
class Fetcher {
public:
    /// @param entries  of this update: two for every line that a tile fetches
    HWY_INLINE Fetcher(const Upcoming<R>& upcoming, Index entries)
        : y_{upcoming.y},
          rows_{upcoming.rows.first(
              std::min(upcoming.rows.size(), static_cast<std::size_t>(entries)))} {
        for (const ColIndex row : upcoming.rows.subspan(rows_.size())) prefetch_row(y_, row);
    }

    /// The rows of which the next tile fetches a line, at most half as many as entries.
    HWY_INLINE std::span<const ColIndex> next() {
        const Index column = tile_ / 2 * (64 / Index{sizeof(R)});
        if (column >= y_.cols) return {};
        line_ = y_.data + column;
        const std::size_t half = rows_.size() / 2;
        return tile_++ % 2 == 0 ? rows_.first(half) : rows_.subspan(rows_.size() - half);
    }
    HWY_INLINE void fetch(ColIndex row) const { hwy::Prefetch(line_ + row * y_.ld); }

private:
    MatrixView<const R> y_;
    std::span<const ColIndex> rows_;
    const R* line_ = nullptr;
    Index tile_ = 0;
};

}  // namespace rankfold::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
