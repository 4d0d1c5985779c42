#include "krylov.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include <rankfold/core/random.hpp>
#include <rankfold/dist/inner.hpp>
#include <rankfold/linalg/blas.hpp>

namespace rankfold {

namespace {

Index block_size(Index preferred, const SvdOptions& options, Index n) {
    Index block = options.block;
    if (block == 0) {
        const Index enough = (options.k + 8 + 15) / 16 * 16;
        block = std::min<Index>(enough, preferred > 0 ? preferred : 128);
    }
    return std::min(block, n);
}

DenseMatrix<double> leading(const DenseMatrix<double>& h, Index d) {
    DenseMatrix<double> part(d, d);
    for (Index i = 0; i < d; ++i) {
        for (Index j = 0; j < d; ++j) part(i, j) = 0.5 * (h(i, j) + h(j, i));
    }
    return part;
}

double longest_column(const DenseMatrix<double>& c) {
    double longest = 0.0;
    for (Index j = 0; j < c.cols(); ++j) {
        double square = 0.0;
        for (Index i = 0; i < c.rows(); ++i) square += c(i, j) * c(i, j);
        longest = std::max(longest, square);
    }
    return std::sqrt(longest);
}

}  // namespace

template <Real R>
KrylovBasis<R>::KrylovBasis(const OperatorRef<R>& a, const SvdOptions& options)
    : a_{a},
      options_{options},
      block_{block_size(a.preferred_block(), options, a.cols())},
      most_{std::min(a.cols(), std::max(options.k + 6 * block_, 2 * options.k + 384))},
      basis_{a.comm(), a.col_layout(), most_},
      h_{most_, most_},
      counts_(counts, 0),
      numbers_(numbers, 1.0) {}

template <Real R>
TensorList KrylovBasis<R>::state() {
    TensorList list;
    list.add("basis", basis_);
    list.add_replicated("projected", {most_, most_}, h_.data());
    list.add_replicated("counts", {static_cast<Index>(counts_.size())}, std::span<Index>(counts_));
    list.add_replicated("numbers", {static_cast<Index>(numbers_.size())},
                        std::span<double>(numbers_));
    return list;
}

template <Real R>
void KrylovBasis<R>::start() {
    if (size() > 0) return;
    BlockRows<R> block(a_.comm(), a_.col_layout(), block_);
    const Philox random(options_.seed, Stream::sketch);
    for (Index i = 0; i < block.local().rows(); ++i) {
        for (Index f = 0; f < block_; ++f) {
            block.local()(i, f) = static_cast<R>(random.normal(block.first_row() + i, f));
        }
    }
    RandomColumns fill{options_.seed, 0};
    tall_qr(block, 0.0, fill, options_.threads);
    append(block);
}

template <Real R>
void KrylovBasis<R>::append(const BlockRows<R>& block) {
    const Range to{size(), size() + block.cols()};
    RANKFOLD_EXPECT(to.end <= most_);
    for (Index i = 0; i < block.local().rows(); ++i) {
        std::ranges::copy(block.local().row(i), basis_.local().view().col_block(to).row(i).begin());
    }
    counts_[size_at] = to.end;
    counts_[width_at] = block.cols();
}

/// Z ← Z − V C with C = VᵀZ for some columns V of the basis.
template <Real R>
DenseMatrix<double> KrylovBasis<R>::take_out(BlockRows<R>& z, Range from) const {
    constexpr double longest = 1.05;  // the basis is orthonormal
    DenseMatrix<double> c = inner(basis_, from, z, {0, z.cols()}, Accumulate::in_own_precision,
                                  options_.threads, longest);
    add_product(R{-1}, basis_, from, std::as_const(c).view(), z, {0, z.cols()}, options_.threads);
    return c;
}

/// Adds C r to these rows of the newest block's columns of H.
template <Real R>
void KrylovBasis<R>::record(const DenseMatrix<double>& c, Range rows,
                            const DenseMatrix<double>& r) {
    DenseMatrix<double> added(rows.size(), width());
    gemm<double>(Transpose::no, Transpose::no, 1.0, c.view(), r.view(), 0.0, added.view());
    const Index first = size() - width();
    for (Index i = rows.begin; i < rows.end; ++i) {
        for (Index j = 0; j < width(); ++j) {
            h_(i, first + j) += added(i - rows.begin, j);
            if (i < first) h_(first + j, i) = h_(i, first + j);
        }
    }
}

/// Makes Z orthonormal and orthogonal to the basis: with `recording`, Z was AᵀA times the newest
/// block, and its part in the basis goes into H. r ← R r for Z = Q R.
///
/// AᵀA is symmetric, so Z has more than rounding only in the newest two blocks: the first pass
/// takes these out, later ones all, until one finds little to take.
template <Real R>
void KrylovBasis<R>::orthonormalize(BlockRows<R>& z, double noise, RandomColumns& fill,
                                    bool recording, DenseMatrix<double>& r) {
    constexpr int most_passes = 8;
    constexpr double little = 0.1;  // of a column's length: what is left of that is rounding
    for (int pass = 0; pass < most_passes; ++pass) {
        const Range from = recording && pass == 0 ? coupled() : Range{0, size()};
        const DenseMatrix<double> c = take_out(z, from);
        if (recording) record(c, from, r);
        const TallQr qr = pass == 0 ? qr_pass(z, noise, fill, options_.threads)
                                    : tall_qr(z, 0.0, fill, options_.threads);
        DenseMatrix<double> product(z.cols(), r.cols());
        gemm<double>(Transpose::no, Transpose::no, 1.0, qr.r.view(), std::as_const(r).view(), 0.0,
                     product.view());
        r = std::move(product);
        if (pass > 0 && qr.rank == z.cols() && longest_column(c) < little) return;
    }
    throw Error(Fault::check, "no direction orthogonal to the Krylov basis was found", true);
}

/// The next block from Z, which is AᵀA times the newest one; r becomes R of Z = V C + Q R.
template <Real R>
BlockRows<R> KrylovBasis<R>::next_block(BlockRows<R> z, DenseMatrix<double>& r) {
    const auto phase = a_.comm().ledger().phase("svd orthogonalise");
    const double length = std::ranges::max(column_norms(z, options_.threads));
    const double noise = 4.0 * length * static_cast<double>(std::numeric_limits<R>::epsilon());
    RandomColumns fill{options_.seed, (steps() + 1) * 16 * block_};
    r = DenseMatrix<double>(width(), width());
    for (Index i = 0; i < width(); ++i) r(i, i) = 1.0;
    const Index left = a_.cols() - size();
    if (left >= z.cols()) {
        orthonormalize(z, noise, fill, true, r);
        return z;
    }
    const Range all{0, size()};
    for (int pass = 0; pass < 2; ++pass) record(take_out(z, all), all, r);
    if (left == 0) {  // the basis is the whole space: nothing is left but rounding
        r.fill(0.0);
        return {};
    }
    r = std::move(qr_pass(z, noise, fill, options_.threads).r);
    BlockRows<R> rest(a_.comm(), a_.col_layout(), left);  // what completes the space
    DenseMatrix<double> unused(left, left);
    tall_qr(rest, 0.0, fill, options_.threads);
    orthonormalize(rest, 0.0, fill, false, unused);
    return rest;
}

template <Real R>
void KrylovBasis<R>::step() {
    const Range newest{size() - width(), size()};
    BlockRows<R> z(a_.comm(), a_.col_layout(), width());
    for (Index i = 0; i < z.local().rows(); ++i) {
        std::ranges::copy(std::as_const(basis_).local().view().col_block(newest).row(i),
                          z.local().row(i).begin());
    }
    {
        const auto phase = a_.comm().ledger().phase("svd product");
        if (product_.cols() != z.cols()) {
            product_ = BlockRows<R>(a_.comm(), a_.row_layout(), z.cols());
        }
        a_.apply(z, product_);
        a_.apply_transposed(product_, z);
    }
    for (Index i = 0; i < size(); ++i) {
        for (Index j = newest.begin; j < newest.end; ++j) h_(i, j) = 0.0;
    }
    DenseMatrix<double> r;
    const BlockRows<R> next = next_block(std::move(z), r);
    ++counts_[steps_at];
    test(r);
    if (converged()) return;
    counts_[coupled_at] = newest.begin;
    if (size() + next.cols() > most_) restart();
    append(next);
}

template <Real R>
SymmetricEigen KrylovBasis<R>::eigen() const {
    const auto phase = a_.comm().ledger().phase("svd small problem");
    return symmetric_eigen(leading(h_, size()).view());
}

/// Stops if the k greatest are within the tolerance. Far from that, tests are rare.
template <Real R>
void KrylovBasis<R>::test(const DenseMatrix<double>& r) {
    const bool whole = size() == a_.cols();
    if (!large_enough() || (steps() < counts_[due_at] && !whole)) return;
    const SymmetricEigen pairs = eigen();
    const double top = std::max(0.0, pairs.values.front());
    const double floor = 4.0 * top * static_cast<double>(std::numeric_limits<R>::epsilon());
    double worst = 0.0;
    for (Index i = 0; i < options_.k; ++i) {
        double square = 0.0;
        for (Index row = 0; row < r.rows(); ++row) {
            double sum = 0.0;
            for (Index j = 0; j < width(); ++j) {
                sum += r(row, j) * pairs.vectors(size() - width() + j, i);
            }
            square += sum * sum;
        }
        const double theta = std::max(0.0, pairs.values[static_cast<std::size_t>(i)]);
        if (std::sqrt(square) <= floor) continue;  // AᵀA says no more in this precision
        worst = std::max(worst, std::min(1.0, std::sqrt(square / std::max(theta * top, 1e-300))));
    }
    plan_next_test(worst);
    constexpr double margin = 0.7;
    if (whole || worst <= margin * options_.tolerance) counts_[converged_at] = 1;
}

/// The residual falls about geometrically: the next test is due a little before it would be there.
template <Real R>
void KrylovBasis<R>::plan_next_test(double residual) {
    const double before = numbers_[residual_at];
    const Index apart = steps() - counts_[tested_at];
    numbers_[residual_at] = residual;
    counts_[due_at] = steps() + 1;
    if (counts_[tested_at] > 0 && residual < before && residual > options_.tolerance) {
        const double rate = std::log(before / residual) / static_cast<double>(apart);
        const double wait = std::log(residual / options_.tolerance) / rate;
        counts_[due_at] = steps() + std::clamp<Index>(static_cast<Index>(0.8 * wait), 1, 8);
    }
    counts_[tested_at] = steps();
}

/// Thick restart: only the best directions stay.
template <Real R>
void KrylovBasis<R>::restart() {
    const auto phase = a_.comm().ledger().phase("svd orthogonalise");
    const SymmetricEigen pairs = eigen();
    const Index keep = std::min(options_.k + block_, size());
    const MatrixView<const double> y = pairs.vectors.view().col_block({0, keep});
    const BlockRows<R> kept = times(basis_, {0, size()}, y, options_.threads);
    basis_.local().fill(R{0});
    h_.fill(0.0);
    for (Index i = 0; i < keep; ++i) h_(i, i) = pairs.values[static_cast<std::size_t>(i)];
    counts_[size_at] = 0;
    counts_[coupled_at] = 0;
    append(kept);
}

template <Real R>
BlockRows<R> KrylovBasis<R>::best(RandomColumns& fill) const {
    const SymmetricEigen pairs = eigen();
    const MatrixView<const double> y = pairs.vectors.view().col_block({0, options_.k});
    const auto phase = a_.comm().ledger().phase("svd orthogonalise");
    BlockRows<R> directions = times(basis_, {0, size()}, y, options_.threads);
    tall_qr(directions, 0.0, fill, options_.threads);
    return directions;
}

template class KrylovBasis<float>;
template class KrylovBasis<double>;

}  // namespace rankfold
