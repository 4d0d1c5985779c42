// Things that name rows, sorted by them.
#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <rankfold/core/subscript.hpp>
#include <rankfold/core/types.hpp>

namespace rankfold {

/// What names each row, row by row: a counting sort over a map of bits, O(things + rows / 64).
template <class Thing>
class RowGroups {
public:
    /// @param rows  how many there are
    explicit RowGroups(Index rows = 0) : named_(at((rows + 63) / 64), 0), next_(at(rows), 0) {}

    /// @param for_each  calls its argument with (row, thing) for every thing; runs twice
    template <class ForEach>
    void sort(const ForEach& for_each) {
        for_each([this](Index row, const Thing&) {
            named_[at(row / 64)] |= std::uint64_t{1} << (row % 64);
            ++next_[at(row)];
        });
        place();
        for_each([this](Index row, const Thing& thing) { things_[at(next_[at(row)]++)] = thing; });
        for (const Index row : rows_) next_[at(row)] = 0;
    }

    /// The rows that are named, increasing.
    [[nodiscard]] const std::vector<Index>& rows() const noexcept { return rows_; }

    /// Calls visit(row, things) for every row, in order; the things as they came.
    template <class Visit>
    void for_each_row(const Visit& visit) const {
        Index begin = 0;
        for (std::size_t r = 0; r < rows_.size(); ++r) {
            const Index end = ends_[r];
            visit(rows_[r], std::span<const Thing>(things_).subspan(at(begin), at(end - begin)));
            begin = end;
        }
    }

private:
    /// From the rows' counts to the rows and to the place of each one's first thing.
    void place() {
        rows_.clear();
        ends_.clear();
        Index total = 0;
        for (std::size_t w = 0; w < named_.size(); ++w) {
            for (std::uint64_t word = std::exchange(named_[w], 0); word != 0; word &= word - 1) {
                const Index row = static_cast<Index>(64 * w) + std::countr_zero(word);
                const Index count = std::exchange(next_[at(row)], total);
                total += count;
                rows_.push_back(row);
                ends_.push_back(total);
            }
        }
        things_.resize(at(total));
    }

    std::vector<std::uint64_t> named_;  // one bit a row, clear outside sort()
    std::vector<Index> next_;           // of every row: where its next thing goes; else zero
    std::vector<Index> rows_;
    std::vector<Index> ends_;  // of each named row's things
    std::vector<Thing> things_;
};

}  // namespace rankfold
