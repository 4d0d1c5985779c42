#include <rankfold/linalg/row_kernels.hpp>

#include <algorithm>
#include <cmath>

#include <hwy/cache_control.h>

// One instruction set of each generation is enough, and halves the time to compile this.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "row_kernels.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace rankfold::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Register tile: `tile_rows` rows of G times `tile_vectors` vectors of its columns; the product
// leaves room for the operands in 32 (AVX-512) or 16 registers.
constexpr Index tile_rows = 6;
constexpr Index tile_vectors = HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL ? 4 : 2;

template <class R>
using Tag = hn::CappedTag<R, 64 / sizeof(R)>;

/// G[rows i … i+ROWS) x [columns j … j+VECS·N) += Pᵀ Q there.
template <Index ROWS, Index VECS, class R>
HWY_INLINE void update_tile(Index n, const R* HWY_RESTRICT p, Index ldp, const R* HWY_RESTRICT q,
                            Index ldq, R* HWY_RESTRICT g, Index ldg) {
    const Tag<R> d;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    hn::Vec<Tag<R>> sum[ROWS][VECS];
    HWY_UNROLL(8)
    for (Index r = 0; r < ROWS; ++r) {
        HWY_UNROLL(8)
        for (Index v = 0; v < VECS; ++v) sum[r][v] = hn::Zero(d);
    }
    for (Index e = 0; e < n; ++e) {
        hn::Vec<Tag<R>> right[VECS];
        HWY_UNROLL(8)
        for (Index v = 0; v < VECS; ++v) right[v] = hn::LoadU(d, q + e * ldq + v * lanes);
        HWY_UNROLL(8)
        for (Index r = 0; r < ROWS; ++r) {
            const auto left = hn::Set(d, p[e * ldp + r]);
            HWY_UNROLL(8)
            for (Index v = 0; v < VECS; ++v) sum[r][v] = hn::MulAdd(left, right[v], sum[r][v]);
        }
    }
    HWY_UNROLL(8)
    for (Index r = 0; r < ROWS; ++r) {
        HWY_UNROLL(8)
        for (Index v = 0; v < VECS; ++v) {
            R* at = g + r * ldg + v * lanes;
            hn::StoreU(hn::Add(hn::LoadU(d, at), sum[r][v]), d, at);
        }
    }
}

template <Index ROWS, class R>
HWY_INLINE void update_rows(MatrixView<const R> p, MatrixView<const R> q, MatrixView<R> g,
                            Index i) {
    const Index lanes = static_cast<Index>(hn::Lanes(Tag<R>()));
    const Index width = (p.cols + lanes - 1) / lanes * lanes;
    Index j = i / lanes * lanes;  // columns left of the diagonal's vector are not needed
    const auto run = [&]<Index VECS>() {
        for (; j + VECS * lanes <= width; j += VECS * lanes) {
            update_tile<ROWS, VECS>(p.rows, p.data + i, p.ld, q.data + j, q.ld,
                                    g.data + i * g.ld + j, g.ld);
        }
    };
    run.template operator()<tile_vectors>();
    if constexpr (tile_vectors > 2) run.template operator()<2>();
    run.template operator()<1>();
}

template <class R>
void rank_update(MatrixView<const R> p, MatrixView<const R> q, MatrixView<R> g) {
    const Index k = p.cols;
    Index i = 0;
    for (; i + tile_rows <= k; i += tile_rows) update_rows<tile_rows>(p, q, g, i);
    for (; i + 2 <= k; i += 2) update_rows<2>(p, q, g, i);
    for (; i < k; ++i) update_rows<1>(p, q, g, i);
}

/// Rows i … i+4 of the upper factor: subtract what the rows above give, then factor the block.
template <Index ROWS, Index VECS, class R>
HWY_INLINE void subtract_above(MatrixView<R> a, Index i, Index j) {
    const Tag<R> d;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    hn::Vec<Tag<R>> sum[ROWS][VECS];
    HWY_UNROLL(8)
    for (Index r = 0; r < ROWS; ++r) {
        HWY_UNROLL(8)
        for (Index v = 0; v < VECS; ++v) {
            sum[r][v] = hn::LoadU(d, a.data + (i + r) * a.ld + j + v * lanes);
        }
    }
    for (Index e = 0; e < i; ++e) {
        const R* HWY_RESTRICT above = a.data + e * a.ld;
        hn::Vec<Tag<R>> right[VECS];
        HWY_UNROLL(8)
        for (Index v = 0; v < VECS; ++v) right[v] = hn::LoadU(d, above + j + v * lanes);
        HWY_UNROLL(8)
        for (Index r = 0; r < ROWS; ++r) {
            const auto left = hn::Set(d, above[i + r]);
            HWY_UNROLL(8)
            for (Index v = 0; v < VECS; ++v) sum[r][v] = hn::NegMulAdd(left, right[v], sum[r][v]);
        }
    }
    HWY_UNROLL(8)
    for (Index r = 0; r < ROWS; ++r) {
        HWY_UNROLL(8)
        for (Index v = 0; v < VECS; ++v) {
            hn::StoreU(sum[r][v], d, a.data + (i + r) * a.ld + j + v * lanes);
        }
    }
}

/// Factors rows i … i+ROWS of A, whose columns from i on reach `width`. Returns a bad pivot or −1.
template <Index ROWS, class R>
HWY_INLINE Index factor_rows(MatrixView<R> a, Index i, Index width, R least) {
    const Tag<R> d;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    const Index first = i / lanes * lanes;
    Index j = first;
    for (; j + 4 * lanes <= width; j += 4 * lanes) subtract_above<ROWS, 4>(a, i, j);
    for (; j < width; j += lanes) subtract_above<ROWS, 1>(a, i, j);
    for (Index r = i; r < i + ROWS; ++r) {
        R* HWY_RESTRICT row = a.data + r * a.ld;
        const R pivot = row[r];
        if (!(pivot > least)) return r;
        const auto scale = hn::Set(d, R{1} / std::sqrt(pivot));
        for (Index c = first; c < width; c += lanes) {
            hn::StoreU(hn::Mul(scale, hn::LoadU(d, row + c)), d, row + c);
        }
        for (Index s = r + 1; s < i + ROWS; ++s) {
            R* HWY_RESTRICT below = a.data + s * a.ld;
            const auto left = hn::Set(d, row[s]);
            for (Index c = first; c < width; c += lanes) {
                hn::StoreU(hn::NegMulAdd(left, hn::LoadU(d, row + c), hn::LoadU(d, below + c)), d,
                           below + c);
            }
        }
    }
    return -1;
}

template <class R>
R dot_impl(const R* HWY_RESTRICT a, const R* HWY_RESTRICT b, Index n) {
    const Tag<R> d;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    auto sum0 = hn::Zero(d);
    auto sum1 = hn::Zero(d);
    Index i = 0;
    for (; i + 2 * lanes <= n; i += 2 * lanes) {
        sum0 = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sum0);
        sum1 = hn::MulAdd(hn::LoadU(d, a + i + lanes), hn::LoadU(d, b + i + lanes), sum1);
    }
    for (; i + lanes <= n; i += lanes) {
        sum0 = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sum0);
    }
    R total = hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1)));
    for (; i < n; ++i) total += a[i] * b[i];
    return total;
}

template <class R>
HWY_INLINE void prefetch_row(MatrixView<const R> y, ColIndex row) {
    const R* from = y.data + row * y.ld;
    for (Index c = 0; c < y.cols; c += 64 / Index{sizeof(R)}) hwy::Prefetch(from + c);
}

template <class R>
void gather_panel_impl(MatrixView<const R> y, std::span<const ColIndex> idx,
                       std::span<const ColIndex> upcoming, const R* w, const R* b, MatrixView<R> p,
                       MatrixView<R> q, R* rhs) {
    const Tag<R> d;
    const Index k = y.cols;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    const Index n = static_cast<Index>(idx.size());
    for (Index e = 0; e < n; ++e) {
        if (e < static_cast<Index>(upcoming.size())) {
            prefetch_row(y, upcoming[static_cast<std::size_t>(e)]);
        }
        const R* HWY_RESTRICT from = y.data + idx[static_cast<std::size_t>(e)] * y.ld;
        R* HWY_RESTRICT to = p.data + e * p.ld;
        R* HWY_RESTRICT scaled = w == nullptr ? nullptr : q.data + e * q.ld;
        const R weight = w == nullptr ? R{1} : w[e];
        Index c = 0;
        for (; c + lanes <= k; c += lanes) {
            const auto v = hn::LoadU(d, from + c);
            hn::StoreU(v, d, to + c);
            if (scaled != nullptr) hn::StoreU(hn::Mul(v, hn::Set(d, weight)), d, scaled + c);
            hn::StoreU(hn::MulAdd(v, hn::Set(d, b[e]), hn::LoadU(d, rhs + c)), d, rhs + c);
        }
        for (; c < k; ++c) {
            to[c] = from[c];
            if (scaled != nullptr) scaled[c] = from[c] * weight;
            rhs[c] += from[c] * b[e];
        }
    }
}

template <class R>
void gather_dots_impl(MatrixView<const R> y, const ColIndex* idx, Index n, const R* x, R* out) {
    constexpr Index ahead = 8;
    for (Index e = 0; e < n; ++e) {
        if (e + ahead < n) prefetch_row(y, idx[e + ahead]);
        out[e] = dot_impl(y.data + idx[e] * y.ld, x, y.cols);
    }
}

/// The right-hand side rides along as column k, so the factorisation also gives z = U⁻ᵀ b.
template <class R>
Index spd_solve_impl(MatrixView<R> a, R* x, R tiny) {
    const Index k = a.rows;
    const Index lanes = static_cast<Index>(hn::Lanes(Tag<R>()));
    const Index width = (k + 1 + lanes - 1) / lanes * lanes;
    R largest = 0;
    for (Index i = 0; i < k; ++i) {
        largest = std::max(largest, a(i, i));
        a(i, k) = x[i];
        for (Index c = k + 1; c < width; ++c) a(i, c) = R{0};
    }
    const R least = tiny * largest;
    constexpr Index rows = 4;
    Index i = 0;
    for (; i + rows <= k; i += rows) {
        if (const Index bad = factor_rows<rows>(a, i, width, least); bad >= 0) return bad;
    }
    for (; i < k; ++i) {
        if (const Index bad = factor_rows<1>(a, i, width, least); bad >= 0) return bad;
    }
    for (Index j = k - 1; j >= 0; --j) {
        const R* row = a.data + j * a.ld;
        x[j] = (row[k] - dot_impl(row + j + 1, x + j + 1, k - 1 - j)) / row[j];
    }
    return -1;
}

#define RANKFOLD_KERNELS(R, suffix)                                                            \
    void rank_update_##suffix(MatrixView<const R> p, MatrixView<const R> q, MatrixView<R> g) { \
        rank_update<R>(p, q, g);                                                               \
    }                                                                                          \
    void gather_panel_##suffix(MatrixView<const R> y, std::span<const ColIndex> idx,           \
                               std::span<const ColIndex> upcoming, const R* w, const R* b,     \
                               MatrixView<R> p, MatrixView<R> q, R* rhs) {                     \
        gather_panel_impl<R>(y, idx, upcoming, w, b, p, q, rhs);                               \
    }                                                                                          \
    void gather_dots_##suffix(MatrixView<const R> y, const ColIndex* idx, Index n, const R* x, \
                              R* out) {                                                        \
        gather_dots_impl<R>(y, idx, n, x, out);                                                \
    }                                                                                          \
    Index spd_solve_##suffix(MatrixView<R> a, R* x, R tiny) {                                  \
        return spd_solve_impl<R>(a, x, tiny);                                                  \
    }                                                                                          \
    R dot_##suffix(const R* a, const R* b, Index n) {                                          \
        return dot_impl<R>(a, b, n);                                                           \
    }
RANKFOLD_KERNELS(float, f)
RANKFOLD_KERNELS(double, d)
#undef RANKFOLD_KERNELS

}  // namespace rankfold::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rankfold {

#define RANKFOLD_DISPATCH(R, suffix)                                                              \
    HWY_EXPORT(rank_update_##suffix);                                                             \
    HWY_EXPORT(gather_panel_##suffix);                                                            \
    HWY_EXPORT(gather_dots_##suffix);                                                             \
    HWY_EXPORT(spd_solve_##suffix);                                                               \
    HWY_EXPORT(dot_##suffix);                                                                     \
    template <>                                                                                   \
    void rank_update_upper(MatrixView<const R> p, MatrixView<const R> q, MatrixView<R> g) {       \
        HWY_DYNAMIC_DISPATCH(rank_update_##suffix)(p, q, g);                                      \
    }                                                                                             \
    template <>                                                                                   \
    void gather_panel(MatrixView<const R> y, std::span<const ColIndex> idx,                       \
                      std::span<const ColIndex> upcoming, std::span<const R> w,                   \
                      std::span<const R> b, MatrixView<R> p, MatrixView<R> q, std::span<R> rhs) { \
        HWY_DYNAMIC_DISPATCH(gather_panel_##suffix)                                               \
        (y, idx, upcoming, w.empty() ? nullptr : w.data(), b.data(), p, q, rhs.data());           \
    }                                                                                             \
    template <>                                                                                   \
    void gather_dots(MatrixView<const R> y, std::span<const ColIndex> idx, std::span<const R> x,  \
                     std::span<R> out) {                                                          \
        HWY_DYNAMIC_DISPATCH(gather_dots_##suffix)                                                \
        (y, idx.data(), static_cast<Index>(idx.size()), x.data(), out.data());                    \
    }                                                                                             \
    template <>                                                                                   \
    Index spd_solve(MatrixView<R> a, std::span<R> x, R tiny) {                                    \
        return HWY_DYNAMIC_DISPATCH(spd_solve_##suffix)(a, x.data(), tiny);                       \
    }                                                                                             \
    template <>                                                                                   \
    R dot(std::span<const R> a, std::span<const R> b) {                                           \
        return HWY_DYNAMIC_DISPATCH(dot_##suffix)(a.data(), b.data(),                             \
                                                  static_cast<Index>(a.size()));                  \
    }
RANKFOLD_DISPATCH(float, f)
RANKFOLD_DISPATCH(double, d)
#undef RANKFOLD_DISPATCH

std::string vector_target() {
    const auto supported = hwy::SupportedTargets() & HWY_TARGETS;
    return hwy::TargetName(supported & -supported);
}

}  // namespace rankfold
#endif  // HWY_ONCE
