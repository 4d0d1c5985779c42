// The greatest inner products of a row with many columns, without ever writing the others down.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>
#include <vector>

#include <rankfold/linalg/dense.hpp>

namespace rankfold {

/// Columns y_j with offsets o_j, packed for filter_scores: panels of `width` columns, factor by
/// factor, the last one filled up with columns whose score is −∞.
template <Real R>
class PackedColumns {
public:
    static constexpr Index width = 256 / Index{sizeof(R)};

    /// @param y       n x k, one column of the product in each row
    /// @param offset  n, or empty for none
    PackedColumns(MatrixView<const R> y, std::span<const R> offset);

    [[nodiscard]] Index cols() const noexcept { return cols_; }
    [[nodiscard]] Index k() const noexcept { return k_; }
    [[nodiscard]] Index panels() const noexcept { return (cols_ + width - 1) / width; }
    /// k x width, row-major.
    [[nodiscard]] const R* panel(Index p) const { return panels_.data() + p * k_ * width; }
    /// The offsets of a panel's columns.
    [[nodiscard]] const R* offsets(Index p) const { return offsets_.data() + p * width; }

private:
    Index cols_;
    Index k_;
    AlignedVector<R> panels_;
    AlignedVector<R> offsets_;
};

/// The best columns of one row so far: all columns whose score is above `threshold`, in increasing
/// order, of which there are at least as many as wanted once `threshold` is above −∞.
///
/// Whoever adds columns leaves room for one panel; make_room() drops what cannot be among the best.
template <Real R>
class TopSelection {
public:
    /// A column as stored beside its score, of the same size.
    using Column = std::conditional_t<sizeof(R) == 4, std::int32_t, std::int64_t>;

    /// @param top  columns wanted
    explicit TopSelection(Index top);

    /// Starts a row. @param left_out  columns that do not count, increasing; borrowed
    void start(std::span<const ColIndex> left_out);

    [[nodiscard]] R threshold() const noexcept { return threshold_; }
    [[nodiscard]] Index count() const noexcept { return count_; }
    /// Where the next candidate goes; there is room for a panel, and for a whole vector more.
    [[nodiscard]] R* scores() noexcept { return scores_.data(); }
    [[nodiscard]] Column* cols() noexcept { return cols_.data(); }
    /// Takes note of candidates that were appended, and makes room if there is none left.
    void appended(Index count) {
        count_ = count;
        if (count_ > full_) make_room();
    }

    /// The best columns, best first, of equal scores the lower one.
    /// @param cols, scores  as many as were wanted; columns beyond those found are −1
    /// @return how many were found
    Index finish(std::span<Index> cols, std::span<R> scores);

    /// Bytes of a selection, for the choice of blocks.
    [[nodiscard]] static Index bytes(Index top) { return 2 * capacity(top) * Index{sizeof(R)}; }

private:
    [[nodiscard]] static Index capacity(Index top);
    void make_room();
    void drop_left_out();
    void shrink_exactly();

    Index top_;
    Index full_;
    R threshold_ = -std::numeric_limits<R>::infinity();
    Index count_ = 0;
    Index checked_ = 0;  // candidates before this one are not left out
    std::span<const ColIndex> left_out_;
    AlignedVector<R> scores_;
    AlignedVector<Column> cols_;
};

/// Adds every column j of the given panels to the selection of row r if
///
///     o_j + Σ_f x_rf y_jf > its threshold
///
/// The sum is one chain of fused multiply-adds in the order of f, so its bits depend neither on the
/// rows that are computed together nor on the instruction set.
///
/// @param x           one row for each selection, at least y.k() columns
/// @param selections  as many as rows
/// @cost 2 k flops a row and column; reads each panel once for six rows
template <Real R>
void filter_scores(MatrixView<const R> x, const PackedColumns<R>& y, Range panels,
                   std::span<TopSelection<R>> selections);

/// Removes the least of n candidates so that at least `top` stay, and few more, in their order.
///
/// @param[in,out] threshold  a lower bound of all scores before; one of those that stay after
/// @return how many stay; n if their scores are too close to be parted in this way
template <Real R>
[[nodiscard]] Index drop_least(std::span<R> scores, typename TopSelection<R>::Column* cols,
                               Index top, R& threshold);

}  // namespace rankfold
