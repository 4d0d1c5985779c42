// Sums whose bits do not depend on the order of their terms.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace rankfold {

/// Order-free sum of vectors of doubles.
///
/// Every term is rounded once to a multiple of 2^-e and then added as int64, which is associative;
/// so any number of ranks and threads, in any order, gets the same bits. e is chosen from a bound
/// on Σ|term|, so that no sum can overflow; the error is at most (number of terms) · bound · 2^-60
/// (bounds below 2^-900 count as that).
/// A bound or a term that is not finite makes every result NaN.
class ExactSum {
public:
    /// @param size   elements of the sum
    /// @param bound  at least Σ|term| for every element, over all ranks; the same on all ranks
    ExactSum(std::size_t size, double bound);

    /// Adds `terms` element by element. @pre terms.size() == size()
    void add(std::span<const double> terms);

    [[nodiscard]] std::size_t size() const noexcept { return sums_.size() - 1; }

    /// The raw sums and, last, the count of terms that were not finite: adding these integers over
    /// all ranks gives the global sum.
    [[nodiscard]] std::span<std::int64_t> raw() noexcept { return sums_; }

    /// The sums as doubles. @pre out.size() == size()
    void result(std::span<double> out) const;

private:
    std::vector<std::int64_t> sums_;
    double scale_ = 0.0;    // 2^e, or 0 when the bound is 0
    double unscale_ = 0.0;  // 2^-e
};

}  // namespace rankfold
