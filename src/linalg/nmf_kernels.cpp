#include <rankfold/linalg/nmf_kernels.hpp>

#include <algorithm>
#include <limits>
#include <vector>

#include <hwy/cache_control.h>

#include <rankfold/linalg/dense.hpp>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "nmf_kernels.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace rankfold::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class R>
using Tag = hn::CappedTag<R, 64 / sizeof(R)>;
template <class R>
using Vector = hn::Vec<Tag<R>>;

constexpr Index block_vectors = 4;  // independent chains hide the latency of an addition

/// Rows taken together: a whole number of vectors, one lane a row.
template <class R>
Index block_rows() {
    return block_vectors * static_cast<Index>(hn::Lanes(Tag<R>()));
}

/// Transposed blocks of rows, (k, block_rows), side by side.
template <class R>
class Panels {
public:
    Panels(Index k, Index count)
        : size_{k * block_rows<R>()}, storage_(static_cast<std::size_t>(count * size_)) {}
    [[nodiscard]] R* operator[](Index panel) { return storage_.data() + panel * size_; }

private:
    Index size_;
    AlignedVector<R> storage_;
};

/// to[f, r] = from[first + r, f]; lanes without a row are zero.
template <class R>
void load_transposed(MatrixView<const R> from, Index first, R* HWY_RESTRICT to) {
    const Index block = block_rows<R>();
    const Index rows = std::min(block, from.rows - first);
    if (rows < block) std::fill_n(to, from.cols * block, R{0});
    for (Index r = 0; r < rows; ++r) {
        const R* HWY_RESTRICT row = from.data + (first + r) * from.ld;
        for (Index f = 0; f < from.cols; ++f) to[f * block + r] = row[f];
    }
}

template <class R>
void store_transposed(const R* HWY_RESTRICT from, MatrixView<R> to, Index first) {
    const Index block = block_rows<R>();
    const Index rows = std::min(block, to.rows - first);
    for (Index r = 0; r < rows; ++r) {
        R* HWY_RESTRICT row = to.data + (first + r) * to.ld;
        for (Index f = 0; f < to.cols; ++f) row[f] = from[f * block + r];
    }
}

/// sum[u] = start[u] − Σ_l g[l] w[l, u]
template <class R>
HWY_INLINE void subtract_product(const R* HWY_RESTRICT g, const R* HWY_RESTRICT w, Index k,
                                 Vector<R> (&sum)[block_vectors]) {
    const Tag<R> d;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    for (Index l = 0; l < k; ++l) {
        const auto left = hn::Set(d, g[l]);
        HWY_UNROLL(4)
        for (Index u = 0; u < block_vectors; ++u) {
            sum[u] = hn::NegMulAdd(left, hn::Load(d, w + (l * block_vectors + u) * lanes), sum[u]);
        }
    }
}

/// One pass over the factors of a block; `moved` gets each row's squared change.
template <class R>
HWY_INLINE void hals_pass(MatrixView<const R> gram, const R* HWY_RESTRICT inverse,
                          const R* HWY_RESTRICT v, R* HWY_RESTRICT w,
                          const hn::Mask<Tag<R>> (&moving)[block_vectors],
                          Vector<R> (&moved)[block_vectors]) {
    const Tag<R> d;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    const Index k = gram.rows;
    for (Index u = 0; u < block_vectors; ++u) moved[u] = hn::Zero(d);
    for (Index f = 0; f < k; ++f) {
        Vector<R> sum[block_vectors];
        HWY_UNROLL(4)
        for (Index u = 0; u < block_vectors; ++u) {
            sum[u] = hn::Load(d, v + (f * block_vectors + u) * lanes);
        }
        subtract_product<R>(gram.data + f * gram.ld, w, k, sum);
        const auto scale = hn::Set(d, inverse[f]);
        HWY_UNROLL(4)
        for (Index u = 0; u < block_vectors; ++u) {
            R* at = w + (f * block_vectors + u) * lanes;
            const auto old = hn::Load(d, at);
            const auto step = hn::Max(hn::Zero(d), hn::MulAdd(sum[u], scale, old));
            const auto next = hn::IfThenElse(moving[u], step, old);
            hn::Store(next, d, at);
            const auto change = hn::Sub(next, old);
            moved[u] = hn::MulAdd(change, change, moved[u]);
        }
    }
}

template <class R>
void hals_impl(MatrixView<const R> v, MatrixView<const R> gram, InnerPasses passes,
               MatrixView<R> w) {
    const Tag<R> d;
    const Index k = gram.rows;
    const Index block = block_rows<R>();
    Panels<R> panels(k, 2);
    R* const vt = panels[0];
    R* const wt = panels[1];
    std::vector<R> inverse(static_cast<std::size_t>(k));
    for (Index f = 0; f < k; ++f)
        inverse[static_cast<std::size_t>(f)] = gram(f, f) > R{0} ? R{1} / gram(f, f) : R{0};
    const auto settle = hn::Set(d, static_cast<R>(passes.settle * passes.settle));
    for (Index first = 0; first < w.rows; first += block) {
        load_transposed(v, first, vt);
        load_transposed<R>(w, first, wt);
        hn::Mask<Tag<R>> moving[block_vectors];
        Vector<R> enough[block_vectors];
        Vector<R> moved[block_vectors];
        for (auto& lanes : moving) lanes = hn::Eq(hn::Zero(d), hn::Zero(d));
        for (Index pass = 0; pass < passes.most; ++pass) {
            hals_pass<R>(gram, inverse.data(), vt, wt, moving, moved);
            bool any = false;
            for (Index u = 0; u < block_vectors; ++u) {
                if (pass == 0) enough[u] = hn::Mul(settle, moved[u]);
                moving[u] = hn::Gt(moved[u], enough[u]);
                any = any || !hn::AllFalse(d, moving[u]);
            }
            if (!any) break;
        }
        store_transposed(wt, w, first);
    }
}

template <class R>
void multiplicative_impl(MatrixView<const R> v, MatrixView<const R> gram, MatrixView<R> w) {
    const Tag<R> d;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    const Index k = gram.rows;
    const Index block = block_rows<R>();
    Panels<R> panels(k, 3);
    R* const vt = panels[0];
    R* const wt = panels[1];
    R* const next = panels[2];
    const auto least = hn::Set(d, std::numeric_limits<R>::epsilon());
    for (Index first = 0; first < w.rows; first += block) {
        load_transposed(v, first, vt);
        load_transposed<R>(w, first, wt);
        for (Index f = 0; f < k; ++f) {
            Vector<R> sum[block_vectors];
            for (auto& lane : sum) lane = hn::Zero(d);
            subtract_product<R>(gram.data + f * gram.ld, wt, k, sum);
            for (Index u = 0; u < block_vectors; ++u) {
                const Index at = (f * block_vectors + u) * lanes;
                const auto below = hn::Max(least, hn::Neg(sum[u]));
                const auto ratio = hn::Div(hn::Load(d, vt + at), below);
                hn::Store(hn::Mul(hn::Load(d, wt + at), ratio), d, next + at);
            }
        }
        store_transposed(next, w, first);
    }
}

template <class R>
double gradient_impl(MatrixView<const R> v, MatrixView<const R> gram, MatrixView<const R> w) {
    const Tag<R> d;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    const Index k = gram.rows;
    const Index block = block_rows<R>();
    Panels<R> panels(k, 2);
    Panels<R> sums(1, 1);
    R* const vt = panels[0];
    R* const wt = panels[1];
    R* const squares = sums[0];
    double total = 0.0;
    for (Index first = 0; first < w.rows; first += block) {
        load_transposed(v, first, vt);
        load_transposed(w, first, wt);
        std::fill_n(squares, block, R{0});
        for (Index f = 0; f < k; ++f) {
            Vector<R> sum[block_vectors];  // minus the gradient
            for (Index u = 0; u < block_vectors; ++u) {
                sum[u] = hn::Load(d, vt + (f * block_vectors + u) * lanes);
            }
            subtract_product<R>(gram.data + f * gram.ld, wt, k, sum);
            for (Index u = 0; u < block_vectors; ++u) {
                const auto x = hn::Load(d, wt + (f * block_vectors + u) * lanes);
                const auto counts =
                    hn::IfThenElse(hn::Gt(x, hn::Zero(d)), sum[u], hn::Max(sum[u], hn::Zero(d)));
                R* const at = squares + u * lanes;
                hn::Store(hn::MulAdd(counts, counts, hn::Load(d, at)), d, at);
            }
        }
        const Index rows = std::min(block, w.rows - first);
        for (Index r = 0; r < rows; ++r) total += static_cast<double>(squares[r]);
    }
    return total;
}

template <Index VECS, class R>
HWY_INLINE void sum_columns(MatrixView<const R> y, Index column, std::span<const ColIndex> idx,
                            std::span<const R> v, R* HWY_RESTRICT out) {
    const Tag<R> d;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    constexpr std::size_t ahead = 12;
    Vector<R> sum[VECS];
    HWY_UNROLL(8)
    for (Index u = 0; u < VECS; ++u) sum[u] = hn::Zero(d);
    for (std::size_t e = 0; e < v.size(); ++e) {
        if (e + ahead < idx.size()) {
            const R* next = y.data + idx[e + ahead] * y.ld + column;
            for (Index c = 0; c < VECS * lanes; c += 64 / Index{sizeof(R)}) hwy::Prefetch(next + c);
        }
        const R* HWY_RESTRICT row = y.data + idx[e] * y.ld + column;
        const auto weight = hn::Set(d, v[e]);
        HWY_UNROLL(8)
        for (Index u = 0; u < VECS; ++u) {
            sum[u] = hn::MulAdd(weight, hn::LoadU(d, row + u * lanes), sum[u]);
        }
    }
    HWY_UNROLL(8)
    for (Index u = 0; u < VECS; ++u) hn::StoreU(sum[u], d, out + column + u * lanes);
}

template <class R>
void row_sum_impl(MatrixView<const R> y, std::span<const ColIndex> idx, std::span<const R> v,
                  R* out) {
    const Index lanes = static_cast<Index>(hn::Lanes(Tag<R>()));
    Index c = 0;
    for (; c + 8 * lanes <= y.cols; c += 8 * lanes) sum_columns<8>(y, c, idx, v, out);
    if (c + 4 * lanes <= y.cols) {
        sum_columns<4>(y, c, idx, v, out);
        c += 4 * lanes;
    }
    if (c + 2 * lanes <= y.cols) {
        sum_columns<2>(y, c, idx, v, out);
        c += 2 * lanes;
    }
    if (c + lanes <= y.cols) {
        sum_columns<1>(y, c, idx, v, out);
        c += lanes;
    }
    for (; c < y.cols; ++c) {
        R sum{0};
        for (std::size_t e = 0; e < v.size(); ++e) sum += v[e] * y.data[idx[e] * y.ld + c];
        out[c] = sum;
    }
}

#define RANKFOLD_KERNELS(R, suffix)                                                         \
    void hals_##suffix(MatrixView<const R> v, MatrixView<const R> gram, InnerPasses passes, \
                       MatrixView<R> w) {                                                   \
        hals_impl<R>(v, gram, passes, w);                                                   \
    }                                                                                       \
    void multiplicative_##suffix(MatrixView<const R> v, MatrixView<const R> gram,           \
                                 MatrixView<R> w) {                                         \
        multiplicative_impl<R>(v, gram, w);                                                 \
    }                                                                                       \
    double gradient_##suffix(MatrixView<const R> v, MatrixView<const R> gram,               \
                             MatrixView<const R> w) {                                       \
        return gradient_impl<R>(v, gram, w);                                                \
    }                                                                                       \
    void row_sum_##suffix(MatrixView<const R> y, std::span<const ColIndex> idx,             \
                          std::span<const R> v, R* out) {                                   \
        row_sum_impl<R>(y, idx, v, out);                                                    \
    }
RANKFOLD_KERNELS(float, f)
RANKFOLD_KERNELS(double, d)
#undef RANKFOLD_KERNELS

}  // namespace rankfold::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rankfold {

#define RANKFOLD_DISPATCH(R, suffix)                                                             \
    HWY_EXPORT(hals_##suffix);                                                                   \
    HWY_EXPORT(multiplicative_##suffix);                                                         \
    HWY_EXPORT(gradient_##suffix);                                                               \
    HWY_EXPORT(row_sum_##suffix);                                                                \
    template <>                                                                                  \
    void hals_rows(MatrixView<const R> v, MatrixView<const R> gram, InnerPasses passes,          \
                   MatrixView<R> w) {                                                            \
        HWY_DYNAMIC_DISPATCH(hals_##suffix)(v, gram, passes, w);                                 \
    }                                                                                            \
    template <>                                                                                  \
    void multiplicative_rows(MatrixView<const R> v, MatrixView<const R> gram, MatrixView<R> w) { \
        HWY_DYNAMIC_DISPATCH(multiplicative_##suffix)(v, gram, w);                               \
    }                                                                                            \
    template <>                                                                                  \
    double projected_gradient_square(MatrixView<const R> v, MatrixView<const R> gram,            \
                                     MatrixView<const R> w) {                                    \
        return HWY_DYNAMIC_DISPATCH(gradient_##suffix)(v, gram, w);                              \
    }                                                                                            \
    template <>                                                                                  \
    void weighted_row_sum(MatrixView<const R> y, std::span<const ColIndex> idx,                  \
                          std::span<const R> v, R* out) {                                        \
        HWY_DYNAMIC_DISPATCH(row_sum_##suffix)(y, idx, v, out);                                  \
    }
RANKFOLD_DISPATCH(float, f)
RANKFOLD_DISPATCH(double, d)
#undef RANKFOLD_DISPATCH

}  // namespace rankfold
#endif  // HWY_ONCE
