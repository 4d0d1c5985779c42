#include "nmf_given.hpp"

#include <algorithm>
#include <cmath>

#include <omp.h>

#include <rankfold/comm/reproducible_sum.hpp>
#include <rankfold/linalg/row_kernels.hpp>

namespace rankfold {

namespace {

/// r ← r − change · h
template <Real R>
void subtract(std::span<R> r, std::span<const R> h, R change) {
    for (std::size_t e = 0; e < r.size(); ++e) r[e] -= change * h[e];
}

}  // namespace

template <Real R>
GivenSide<R>::GivenSide(const BlockRowCsr<R>& a, const ShardLayout& fixed, double lambda,
                        double exponent, Index threads)
    : a_{a},
      lambda_{lambda},
      exponent_{exponent},
      threads_{threads},
      exchange_{RowExchange::all(a.comm(), fixed)} {}

template <Real R>
GivenSums GivenSide<R>::row(Index local, std::span<R> x, InnerPasses passes, Work& work) const {
    const CsrView<R> rows = a_.local().view();
    const auto idx = rows.row_cols(local);
    const auto values = rows.row_values(local);
    const std::size_t n = idx.size();
    if (n == 0) {
        std::ranges::fill(x, R{0});
        return {};
    }
    const std::size_t stride = static_cast<std::size_t>(padded(static_cast<Index>(n)));
    work.panel.resize(x.size() * stride);
    work.rest.assign(values.begin(), values.end());
    for (std::size_t e = 0; e < n; ++e) {
        const R* from = fixed_.data().data() + idx[e] * fixed_.cols();
        for (std::size_t f = 0; f < x.size(); ++f) work.panel[f * stride + e] = from[f];
    }
    const auto column = [&](std::size_t f) {
        return std::span<const R>(work.panel).subspan(f * stride, n);
    };
    const std::span<R> rest(work.rest);
    for (std::size_t f = 0; f < x.size(); ++f) subtract<R>(rest, column(f), x[f]);

    const R lambda = static_cast<R>(lambda_ * std::pow(static_cast<double>(n), exponent_));
    GivenSums sums;
    for (std::size_t f = 0; f < x.size(); ++f) {
        double g = static_cast<double>(lambda * x[f] - dot<R>(column(f), rest));
        if (x[f] <= R{0}) g = std::min(g, 0.0);
        sums.gradient += g * g;
    }
    double enough = 0.0;
    for (Index pass = 0; pass < passes.most; ++pass) {
        double moved = 0.0;
        for (std::size_t f = 0; f < x.size(); ++f) {
            const R square = dot<R>(column(f), column(f)) + lambda;
            if (!(square > R{0})) continue;
            const R slope = dot<R>(column(f), rest) - lambda * x[f];
            const R next = std::max(R{0}, x[f] + slope / square);
            subtract<R>(rest, column(f), next - x[f]);
            moved += static_cast<double>((next - x[f]) * (next - x[f]));
            x[f] = next;
        }
        if (pass == 0) enough = passes.settle * passes.settle * moved;
        if (moved <= enough) break;
    }
    for (const R r : rest) sums.error += static_cast<double>(r) * static_cast<double>(r);
    for (const R f : x) {
        sums.ridge += static_cast<double>(lambda) * static_cast<double>(f) * static_cast<double>(f);
    }
    return sums;
}

template <Real R>
GivenSums GivenSide<R>::pass(const BlockRows<R>& fixed, BlockRows<R>& x, InnerPasses passes) {
    const Communicator& comm = a_.comm();
    {
        const auto phase = comm.ledger().phase("nmf exchange");
        if (fixed_.cols() != fixed.cols()) {
            fixed_ = DenseMatrix<R>(exchange_.buffer_rows(), fixed.cols());
        }
        exchange_.gather(fixed, fixed_.view());
    }
    const auto phase = comm.ledger().phase("nmf update");
    const Range shards = a_.shards();
    std::vector<double> terms(static_cast<std::size_t>(3 * shards.size()));
    std::vector<Work> work(static_cast<std::size_t>(threads_));
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(threads_))
    for (Index s = shards.begin; s < shards.end; ++s) {
        const Range rows = a_.layout().shard_rows(s);
        GivenSums sum;
        for (Index i = rows.begin - a_.first_row(); i < rows.end - a_.first_row(); ++i) {
            const GivenSums one = row(i, x.local().row(i), passes,
                                      work[static_cast<std::size_t>(omp_get_thread_num())]);
            sum.error += one.error;
            sum.ridge += one.ridge;
            sum.gradient += one.gradient;
        }
        const auto at = static_cast<std::size_t>(3 * (s - shards.begin));
        terms[at] = sum.error;
        terms[at + 1] = sum.ridge;
        terms[at + 2] = sum.gradient;
    }
    comm.ledger().add_flops(static_cast<double>(a_.local().nnz() * x.cols()) *
                            (4.0 + 6.0 * static_cast<double>(passes.most)));
    double sums[3];
    reproducible_sum(comm, terms, sums);
    return {sums[0], sums[1], sums[2]};
}

template class GivenSide<float>;
template class GivenSide<double>;

}  // namespace rankfold
