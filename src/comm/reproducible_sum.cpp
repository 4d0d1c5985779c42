#include <rankfold/comm/reproducible_sum.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

namespace rankfold {

void reproducible_sum(const Communicator& comm, ExactSum& sum, std::span<double> out) {
    comm.all_reduce(sum.raw(), Reduce::sum);
    sum.result(out);
}

void reproducible_sum(const Communicator& comm, std::span<const double> terms,
                      std::span<double> out) {
    const std::size_t width = out.size();
    RANKFOLD_EXPECT(width > 0 && terms.size() % width == 0);
    double largest = 0.0;
    for (const double term : terms) {
        largest = std::isfinite(term) ? std::max(largest, std::abs(term))
                                      : std::numeric_limits<double>::infinity();
        if (std::isinf(largest)) break;
    }
    largest = comm.all_reduce(largest, Reduce::max);
    const auto rows = comm.all_reduce(static_cast<Index>(terms.size() / width), Reduce::sum);
    ExactSum sum(width, largest * static_cast<double>(rows));
    for (std::size_t row = 0; row < terms.size(); row += width) sum.add(terms.subspan(row, width));
    reproducible_sum(comm, sum, out);
}

double reproducible_sum(const Communicator& comm, std::span<const double> terms) {
    double total = 0.0;
    reproducible_sum(comm, terms, std::span<double>(&total, 1));
    return total;
}

}  // namespace rankfold
