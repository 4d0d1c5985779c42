#include <rankfold/factor/dual_systems.hpp>

#include <algorithm>

namespace rankfold {

namespace {

constexpr Index panel_rows = 32;  // gathered at a time

}  // namespace

template <Real R>
DualSystems<R>::DualSystems(Index k)
    : k_{k},
      step_{padded(std::max(k / 8, Index{1}))},
      panel_(panel_rows, padded(k)),
      solution_(static_cast<std::size_t>(padded(k))) {
    for (Index n = step_; n <= 3 * k / 4; n += step_) {
        CholeskyBatch<R> batch(n);
        DenseMatrix<R> scales(batch.capacity(), n);
        sizes_.push_back({std::move(batch), std::move(scales), {}});
    }
    const Index widest = step_ * std::ssize(sizes_);
    columns_.assign(static_cast<std::size_t>(k * widest), R{0});
    weights_.resize(static_cast<std::size_t>(widest));
}

template <Real R>
void DualSystems<R>::begin(MatrixView<const R> y) {
    y_ = y;
    first_bad_ = std::numeric_limits<Index>::max();
}

template <Real R>
typename DualSystems<R>::Size& DualSystems<R>::size_of(Index n) {
    return sizes_[static_cast<std::size_t>((n - 1) / step_)];
}

template <Real R>
typename DualSystems<R>::Observations DualSystems<R>::next(Index n) {
    Size& size = size_of(n);
    const auto slot = std::ssize(size.pending);
    const auto count = static_cast<std::size_t>(n);
    const std::span<R> t = size.batch.vector(slot);
    std::ranges::fill(t, R{0});
    return {size.scales.view().row(slot).first(count), t.first(count)};
}

template <Real R>
void DualSystems<R>::add(std::span<const ColIndex> cols, R ridge, Index index, std::span<R> x,
                         const Upcoming<R>& upcoming) {
    Size& size = size_of(std::ssize(cols));
    const auto slot = std::ssize(size.pending);
    const Index n = size.batch.k();
    const MatrixView<R> columns{columns_.data(), k_, n, n};
    gather_columns<R>(y_, cols, size.scales.view().row(slot), columns);
    const MatrixView<R> normal = size.batch.matrix(slot);
    rank_update_upper<R>(columns, columns, normal, Update::assign, upcoming);
    for (Index e = 0; e < n; ++e) normal(e, e) += ridge;
    size.pending.push_back({cols, index, x});
    if (std::ssize(size.pending) == size.batch.capacity()) solve(size);
}

template <Real R>
void DualSystems<R>::solve(Size& size) {
    const unsigned bad = size.batch.solve(std::ssize(size.pending), R{0});
    for (std::size_t s = 0; s < size.pending.size(); ++s) {
        const auto& [cols, index, x] = size.pending[s];
        if ((bad >> s & 1U) != 0) first_bad_ = std::min(first_bad_, index);
        const std::span<const R> z = size.batch.vector(static_cast<Index>(s));
        const std::span<const R> scales = size.scales.view().row(static_cast<Index>(s));
        for (std::size_t e = 0; e < cols.size(); ++e) weights_[e] = scales[e] * z[e];
        std::ranges::fill(solution_, R{0});
        for (std::size_t done = 0; done < cols.size();) {
            const std::size_t n = std::min(cols.size() - done, std::size_t{panel_rows});
            const MatrixView<R> rows{panel_.view().data, static_cast<Index>(n), k_, panel_.cols()};
            gather_weighed<R>(y_, cols.subspan(done, n), {},
                              std::span<const R>(weights_).subspan(done, n), rows, rows, solution_);
            done += n;
        }
        std::copy_n(solution_.begin(), x.size(), x.begin());
    }
    size.pending.clear();
}

template <Real R>
void DualSystems<R>::finish() {
    for (Size& size : sizes_) {
        if (!size.pending.empty()) solve(size);
    }
}

template class DualSystems<float>;
template class DualSystems<double>;

}  // namespace rankfold
