#include <rankfold/linalg/row_kernels.hpp>

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "row_kernels.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include "lane_kernels.hpp"
#include "row_fetcher.hpp"

HWY_BEFORE_NAMESPACE();
namespace rankfold::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Register tile: `tile_rows` rows of G times up to `tile_vectors` vectors of its columns; the
// product leaves room for the operands in 32 (AVX-512) or 16 registers.
constexpr Index tile_rows = HWY_TARGET == HWY_AVX3 ? 8 : 4;
constexpr Index tile_vectors = 3;

template <class R>
using Tag = hn::CappedTag<R, 64 / sizeof(R)>;

template <Index ROWS, Index VECS, class D, class R>
HWY_INLINE void add_entry(D d, const R* HWY_RESTRICT p, const R* HWY_RESTRICT q,
                          hn::Vec<D> (&sum)[ROWS][VECS]) {
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    hn::Vec<D> right[VECS];
    HWY_UNROLL(8)
    for (Index v = 0; v < VECS; ++v) right[v] = hn::LoadU(d, q + v * lanes);
    HWY_UNROLL(8)
    for (Index r = 0; r < ROWS; ++r) {
        const auto left = hn::Set(d, p[r]);
        HWY_UNROLL(8)
        for (Index v = 0; v < VECS; ++v) sum[r][v] = hn::MulAdd(left, right[v], sum[r][v]);
    }
}

/// G[rows i … i+ROWS) x [columns j … j+VECS·N) = or += Pᵀ Q there, fetching between its entries.
template <Index ROWS, Index VECS, class R>
HWY_INLINE void update_tile(Index n, const R* HWY_RESTRICT p, Index ldp, const R* HWY_RESTRICT q,
                            Index ldq, R* HWY_RESTRICT g, Index ldg, Update update,
                            Fetcher<R>& fetcher) {
    const Tag<R> d;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    hn::Vec<Tag<R>> sum[ROWS][VECS];
    HWY_UNROLL(8)
    for (Index r = 0; r < ROWS; ++r) {
        HWY_UNROLL(8)
        for (Index v = 0; v < VECS; ++v) sum[r][v] = hn::Zero(d);
    }
    Index e = 0;
    for (const ColIndex row : fetcher.next()) {
        fetcher.fetch(row);
        add_entry(d, p + e * ldp, q + e * ldq, sum);
        add_entry(d, p + (e + 1) * ldp, q + (e + 1) * ldq, sum);
        e += 2;
    }
    for (; e < n; ++e) add_entry(d, p + e * ldp, q + e * ldq, sum);
    HWY_UNROLL(8)
    for (Index r = 0; r < ROWS; ++r) {
        HWY_UNROLL(8)
        for (Index v = 0; v < VECS; ++v) {
            R* at = g + r * ldg + v * lanes;
            hn::StoreU(update == Update::add ? hn::Add(hn::LoadU(d, at), sum[r][v]) : sum[r][v], d,
                       at);
        }
    }
}

/// Of so many vectors of columns, how many the next tile takes: four are better cut in two and two
/// than in three and one, which waits for its own sums.
constexpr Index next_tile(Index left) {
    return left >= tile_vectors && left != 4 ? tile_vectors : std::min(left, Index{2});
}

/// Vectors left of that of the diagonal are not needed.
template <Index ROWS, class R>
HWY_INLINE void update_rows(MatrixView<const R> p, MatrixView<const R> q, MatrixView<R> g, Index i,
                            Update update, Fetcher<R>& fetcher) {
    const Index lanes = static_cast<Index>(hn::Lanes(Tag<R>()));
    Index j = i / lanes * lanes;
    const auto run = [&]<Index VECS>() HWY_ATTR {
        update_tile<ROWS, VECS>(p.rows, p.data + i, p.ld, q.data + j, q.ld, g.data + i * g.ld + j,
                                g.ld, update, fetcher);
    };
    for (Index left = (padded(p.cols) - j) / lanes; left > 0;) {
        const Index vectors = next_tile(left);
        switch (vectors) {
            case tile_vectors:
                run.template operator()<tile_vectors>();
                break;
            case 2:
                run.template operator()<2>();
                break;
            default:
                run.template operator()<1>();
        }
        left -= vectors;
        j += vectors * lanes;
    }
}

template <class R>
void rank_update(MatrixView<const R> p, MatrixView<const R> q, MatrixView<R> g, Update update,
                 const Upcoming<R>& upcoming) {
    const Index k = p.cols;
    Fetcher<R> fetcher(upcoming, p.rows);  // k rows have two tiles for every line, or more
    Index i = 0;
    for (; i + tile_rows <= k; i += tile_rows) update_rows<tile_rows>(p, q, g, i, update, fetcher);
    for (; i + 2 <= k; i += 2) update_rows<2>(p, q, g, i, update, fetcher);
    for (; i < k; ++i) update_rows<1>(p, q, g, i, update, fetcher);
}

template <class R>
R dot_impl(const R* HWY_RESTRICT a, const R* HWY_RESTRICT b, Index n) {
    const Tag<R> d;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    auto sum = hn::Zero(d);
    Index i = 0;
    for (; i + lanes <= n; i += lanes) {
        sum = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sum);
    }
    R total = hn::GetLane(hn::SumOfLanes(d, sum));
    for (; i < n; ++i) total += a[i] * b[i];
    return total;
}

/// A vector of rows at a time, turned in registers.
template <class R>
void gather_columns_impl(MatrixView<const R> y, const ColIndex* idx, Index n, const R* scale,
                         MatrixView<R> out) {
    const Tag<R> d;
    constexpr Index most = static_cast<Index>(hn::MaxLanes(d));
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    for (Index e = 0; e < out.cols; e += lanes) {
        const Index count = std::min(lanes, n - e);
        const R* from[most];
        for (Index r = 0; r < count; ++r) from[r] = y.data + idx[e + r] * y.ld;
        hn::Vec<Tag<R>> v[most];
        Index f = 0;
        for (; f + lanes <= y.cols; f += lanes) {
            if (count == lanes) {
                HWY_UNROLL(16)
                for (Index r = 0; r < most; ++r) {
                    v[r] = hn::Mul(hn::LoadU(d, from[r] + f), hn::Set(d, scale[e + r]));
                }
            } else {
                for (Index r = 0; r < most; ++r) {
                    v[r] = r < count ? hn::Mul(hn::LoadU(d, from[r] + f), hn::Set(d, scale[e + r]))
                                     : hn::Zero(d);
                }
            }
            transpose_lanes(d, v);
            HWY_UNROLL(16)
            for (Index r = 0; r < most; ++r) hn::StoreU(v[r], d, out.data + (f + r) * out.ld + e);
        }
        for (; f < y.cols; ++f) {
            R* to = out.data + f * out.ld + e;
            for (Index r = 0; r < lanes; ++r) to[r] = r < count ? scale[e + r] * from[r][f] : R{0};
        }
    }
}

/// VECS vectors of columns from c on.
template <Index VECS, class R>
HWY_INLINE void gather_weighed(MatrixView<const R> y, const ColIndex* idx, const R* w, const R* b,
                               MatrixView<R> p, MatrixView<R> q, R* HWY_RESTRICT rhs, Index c) {
    const Tag<R> d;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    hn::Vec<Tag<R>> sum[VECS];
    HWY_UNROLL(8)
    for (Index v = 0; v < VECS; ++v) sum[v] = hn::LoadU(d, rhs + c + v * lanes);
    for (Index e = 0; e < p.rows; ++e) {
        const R* HWY_RESTRICT from = y.data + idx[e] * y.ld + c;
        R* HWY_RESTRICT to = p.data + e * p.ld + c;
        const auto target = hn::Set(d, b[e]);
        HWY_UNROLL(8)
        for (Index v = 0; v < VECS; ++v) {
            const auto value = hn::LoadU(d, from + v * lanes);
            hn::StoreU(value, d, to + v * lanes);
            sum[v] = hn::MulAdd(target, value, sum[v]);
            if (w != nullptr) {
                hn::StoreU(hn::Mul(value, hn::Set(d, w[e])), d, q.data + e * q.ld + c + v * lanes);
            }
        }
    }
    HWY_UNROLL(8)
    for (Index v = 0; v < VECS; ++v) hn::StoreU(sum[v], d, rhs + c + v * lanes);
}

template <class R>
void gather_weighed_impl(MatrixView<const R> y, const ColIndex* idx, const R* w, const R* b,
                         MatrixView<R> p, MatrixView<R> q, R* rhs) {
    const Index lanes = static_cast<Index>(hn::Lanes(Tag<R>()));
    Index c = 0;
    for (; c + 4 * lanes <= y.cols; c += 4 * lanes) gather_weighed<4>(y, idx, w, b, p, q, rhs, c);
    for (; c + lanes <= y.cols; c += lanes) gather_weighed<1>(y, idx, w, b, p, q, rhs, c);
    for (Index e = 0; e < p.rows; ++e) {
        for (Index t = c; t < y.cols; ++t) {
            const R value = y.data[idx[e] * y.ld + t];
            p.data[e * p.ld + t] = value;
            rhs[t] += b[e] * value;
            if (w != nullptr) q.data[e * q.ld + t] = w[e] * value;
        }
    }
}

constexpr Index group = 8;  // rows whose dot products are taken side by side

/// dots[r] = x · rows[r], ROWS <= group of them.
template <Index ROWS, class R>
HWY_INLINE void dot_rows(const R* const* rows, const R* HWY_RESTRICT x, Index k, R* dots) {
    const Tag<R> d;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    hn::Vec<Tag<R>> sum[ROWS];
    HWY_UNROLL(8)
    for (Index r = 0; r < ROWS; ++r) sum[r] = hn::Zero(d);
    Index c = 0;
    for (; c + lanes <= k; c += lanes) {
        const auto right = hn::LoadU(d, x + c);
        HWY_UNROLL(8)
        for (Index r = 0; r < ROWS; ++r) {
            sum[r] = hn::MulAdd(hn::LoadU(d, rows[r] + c), right, sum[r]);
        }
    }
    if constexpr (ROWS % 4 == 0) {
        for (Index r = 0; r < ROWS; r += 4) sum_lanes_of_four(d, sum + r, dots + r);
    } else {
        for (Index r = 0; r < ROWS; ++r) dots[r] = hn::GetLane(hn::SumOfLanes(d, sum[r]));
    }
    for (; c < k; ++c) {
        for (Index r = 0; r < ROWS; ++r) dots[r] += rows[r][c] * x[c];
    }
}

template <class R>
void gather_dots_impl(MatrixView<const R> y, const ColIndex* idx, Index n, const R* x, R* out) {
    Index e = 0;
    const auto run = [&]<Index ROWS>() {
        const R* rows[ROWS];
        for (Index r = 0; r < ROWS; ++r) {
            if (e + group + r < n) prefetch_row(y, idx[e + group + r]);
            rows[r] = y.data + idx[e + r] * y.ld;
        }
        dot_rows<ROWS>(rows, x, y.cols, out + e);
        e += ROWS;
    };
    while (e + group <= n) run.template operator()<group>();
    while (e < n) run.template operator()<1>();
}

/// out[columns c … c+VECS·N) += Σ coefficient[r] rows[r].
template <Index VECS, Index ROWS, class R>
HWY_INLINE void add_rows(const R* const* rows, const R* coefficient, R* HWY_RESTRICT out, Index c) {
    const Tag<R> d;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    hn::Vec<Tag<R>> sum[VECS];
    HWY_UNROLL(8)
    for (Index v = 0; v < VECS; ++v) sum[v] = hn::LoadU(d, out + c + v * lanes);
    HWY_UNROLL(8)
    for (Index r = 0; r < ROWS; ++r) {
        const auto factor = hn::Set(d, coefficient[r]);
        HWY_UNROLL(8)
        for (Index v = 0; v < VECS; ++v) {
            sum[v] = hn::MulAdd(factor, hn::LoadU(d, rows[r] + c + v * lanes), sum[v]);
        }
    }
    HWY_UNROLL(8)
    for (Index v = 0; v < VECS; ++v) hn::StoreU(sum[v], d, out + c + v * lanes);
}

template <Index ROWS, class R>
HWY_INLINE void add_residual_rows(MatrixView<const R> y, const ColIndex* idx, const R* w,
                                  const R* b, const R* x, R* HWY_RESTRICT out) {
    const Index lanes = static_cast<Index>(hn::Lanes(Tag<R>()));
    const R* rows[ROWS];
    for (Index r = 0; r < ROWS; ++r) rows[r] = y.data + idx[r] * y.ld;
    R coefficient[ROWS];
    dot_rows<ROWS>(rows, x, y.cols, coefficient);
    for (Index r = 0; r < ROWS; ++r) coefficient[r] = b[r] - w[r] * coefficient[r];
    Index c = 0;
    for (; c + 4 * lanes <= y.cols; c += 4 * lanes) add_rows<4, ROWS>(rows, coefficient, out, c);
    for (; c + lanes <= y.cols; c += lanes) add_rows<1, ROWS>(rows, coefficient, out, c);
    for (; c < y.cols; ++c) {
        for (Index r = 0; r < ROWS; ++r) out[c] += coefficient[r] * rows[r][c];
    }
}

/// The same for rows of VECS vectors: four or two rows at a time stay in registers between their
/// dot products and their sum, and so does the sum. Returns how many rows it took.
template <Index VECS, class R, class Fetch>
HWY_INLINE Index add_short_residuals(MatrixView<const R> y, const ColIndex* idx, Index n,
                                     const R* w, const R* b, const R* x, R* out,
                                     const Fetch& fetch) {
    constexpr Index rows = VECS > 4 ? 2 : 4;
    const Tag<R> d;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    hn::Vec<Tag<R>> sum[VECS];
    HWY_UNROLL(8)
    for (Index v = 0; v < VECS; ++v) sum[v] = hn::LoadU(d, out + v * lanes);
    Index e = 0;
    for (; e + rows <= n; e += rows) {
        fetch(rows);
        hn::Vec<Tag<R>> row[rows][VECS];
        hn::Vec<Tag<R>> dots[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
        HWY_UNROLL(8)
        for (Index v = 0; v < VECS; ++v) {
            const auto right = hn::LoadU(d, x + v * lanes);
            HWY_UNROLL(4)
            for (Index r = 0; r < rows; ++r) {
                row[r][v] = hn::LoadU(d, y.data + idx[e + r] * y.ld + v * lanes);
                dots[r] = hn::MulAdd(row[r][v], right, dots[r]);
            }
        }
        R coefficient[4];
        sum_lanes_of_four(d, dots, coefficient);
        for (Index r = 0; r < rows; ++r) coefficient[r] = b[e + r] - w[e + r] * coefficient[r];
        HWY_UNROLL(4)
        for (Index r = 0; r < rows; ++r) {
            const auto factor = hn::Set(d, coefficient[r]);
            HWY_UNROLL(8)
            for (Index v = 0; v < VECS; ++v) sum[v] = hn::MulAdd(factor, row[r][v], sum[v]);
        }
    }
    HWY_UNROLL(8)
    for (Index v = 0; v < VECS; ++v) hn::StoreU(sum[v], d, out + v * lanes);
    return e;
}

template <class R>
void add_residuals_impl(MatrixView<const R> y, const ColIndex* idx, Index n, const R* w, const R* b,
                        const R* x, R* out, const Upcoming<R>& upcoming) {
    std::size_t ahead = 0;
    const auto fetch = [&](Index count) HWY_ATTR {
        for (; count > 0 && ahead < upcoming.rows.size(); --count) {
            prefetch_row(upcoming.y, upcoming.rows[ahead++]);
        }
    };
    Index e = 0;
    const Index lanes = static_cast<Index>(hn::Lanes(Tag<R>()));
    if constexpr (HWY_TARGET == HWY_AVX3) {  // whose 32 registers hold two rows and the sum
        if (y.cols == 8 * lanes) e = add_short_residuals<8>(y, idx, n, w, b, x, out, fetch);
    }
    if (y.cols == 4 * lanes) e = add_short_residuals<4>(y, idx, n, w, b, x, out, fetch);
    if (y.cols == 2 * lanes) e = add_short_residuals<2>(y, idx, n, w, b, x, out, fetch);
    if (y.cols == lanes) e = add_short_residuals<1>(y, idx, n, w, b, x, out, fetch);
    for (; e + group <= n; e += group) {
        fetch(group);
        add_residual_rows<group>(y, idx + e, w + e, b + e, x, out);
    }
    for (; e < n; ++e) {
        fetch(1);
        add_residual_rows<1>(y, idx + e, w + e, b + e, x, out);
    }
}

template <class R>
void subtract_product_impl(MatrixView<const R> a, const R* x, R* out) {
    const Index lanes = static_cast<Index>(hn::Lanes(Tag<R>()));
    for (Index i = 0; i < a.rows; i += group) {
        const R* rows[group];
        R coefficient[group];
        for (Index r = 0; r < group; ++r) {
            // past the last row, nothing is added
            rows[r] = a.data + std::min(i + r, a.rows - 1) * a.ld;
            coefficient[r] = i + r < a.rows ? -x[i + r] : R{0};
        }
        Index c = 0;
        for (; c + 4 * lanes <= a.cols; c += 4 * lanes) {
            add_rows<4, group>(rows, coefficient, out, c);
        }
        for (; c + lanes <= a.cols; c += lanes) add_rows<1, group>(rows, coefficient, out, c);
        for (; c < a.cols; ++c) {
            for (Index r = 0; r < group; ++r) out[c] += coefficient[r] * rows[r][c];
        }
    }
}

#define RANKFOLD_KERNELS(R, suffix)                                                              \
    void rank_update_##suffix(MatrixView<const R> p, MatrixView<const R> q, MatrixView<R> g,     \
                              Update update, const Upcoming<R>& upcoming) {                      \
        rank_update<R>(p, q, g, update, upcoming);                                               \
    }                                                                                            \
    void gather_columns_##suffix(MatrixView<const R> y, const ColIndex* idx, Index n,            \
                                 const R* scale, MatrixView<R> out) {                            \
        gather_columns_impl<R>(y, idx, n, scale, out);                                           \
    }                                                                                            \
    void gather_weighed_##suffix(MatrixView<const R> y, const ColIndex* idx, const R* w,         \
                                 const R* b, MatrixView<R> p, MatrixView<R> q, R* rhs) {         \
        gather_weighed_impl<R>(y, idx, w, b, p, q, rhs);                                         \
    }                                                                                            \
    void gather_dots_##suffix(MatrixView<const R> y, const ColIndex* idx, Index n, const R* x,   \
                              R* out) {                                                          \
        gather_dots_impl<R>(y, idx, n, x, out);                                                  \
    }                                                                                            \
    void add_residuals_##suffix(MatrixView<const R> y, const ColIndex* idx, Index n, const R* w, \
                                const R* b, const R* x, R* out, const Upcoming<R>& upcoming) {   \
        add_residuals_impl<R>(y, idx, n, w, b, x, out, upcoming);                                \
    }                                                                                            \
    void subtract_product_##suffix(MatrixView<const R> a, const R* x, R* out) {                  \
        subtract_product_impl<R>(a, x, out);                                                     \
    }                                                                                            \
    R dot_##suffix(const R* a, const R* b, Index n) {                                            \
        return dot_impl<R>(a, b, n);                                                             \
    }
RANKFOLD_KERNELS(float, f)
RANKFOLD_KERNELS(double, d)
#undef RANKFOLD_KERNELS

}  // namespace rankfold::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rankfold {

#define RANKFOLD_DISPATCH(R, suffix)                                                               \
    HWY_EXPORT(rank_update_##suffix);                                                              \
    HWY_EXPORT(gather_columns_##suffix);                                                           \
    HWY_EXPORT(gather_weighed_##suffix);                                                           \
    HWY_EXPORT(gather_dots_##suffix);                                                              \
    HWY_EXPORT(add_residuals_##suffix);                                                            \
    HWY_EXPORT(subtract_product_##suffix);                                                         \
    HWY_EXPORT(dot_##suffix);                                                                      \
    template <>                                                                                    \
    void rank_update_upper(MatrixView<const R> p, MatrixView<const R> q, MatrixView<R> g,          \
                           Update update, const Upcoming<R>& upcoming) {                           \
        HWY_DYNAMIC_DISPATCH(rank_update_##suffix)(p, q, g, update, upcoming);                     \
    }                                                                                              \
    template <>                                                                                    \
    void gather_columns(MatrixView<const R> y, std::span<const ColIndex> idx,                      \
                        std::span<const R> scale, MatrixView<R> out) {                             \
        HWY_DYNAMIC_DISPATCH(gather_columns_##suffix)                                              \
        (y, idx.data(), static_cast<Index>(idx.size()), scale.data(), out);                        \
    }                                                                                              \
    template <>                                                                                    \
    void gather_weighed(MatrixView<const R> y, std::span<const ColIndex> idx,                      \
                        std::span<const R> w, std::span<const R> b, MatrixView<R> p,               \
                        MatrixView<R> q, std::span<R> rhs) {                                       \
        HWY_DYNAMIC_DISPATCH(gather_weighed_##suffix)                                              \
        (y, idx.data(), w.empty() ? nullptr : w.data(), b.data(), p, q, rhs.data());               \
    }                                                                                              \
    template <>                                                                                    \
    void gather_dots(MatrixView<const R> y, std::span<const ColIndex> idx, std::span<const R> x,   \
                     std::span<R> out) {                                                           \
        HWY_DYNAMIC_DISPATCH(gather_dots_##suffix)                                                 \
        (y, idx.data(), static_cast<Index>(idx.size()), x.data(), out.data());                     \
    }                                                                                              \
    template <>                                                                                    \
    void add_residuals(MatrixView<const R> y, std::span<const ColIndex> idx, std::span<const R> w, \
                       std::span<const R> b, std::span<const R> x, std::span<R> out,               \
                       const Upcoming<R>& upcoming) {                                              \
        HWY_DYNAMIC_DISPATCH(add_residuals_##suffix)                                               \
        (y, idx.data(), static_cast<Index>(idx.size()), w.data(), b.data(), x.data(), out.data(),  \
         upcoming);                                                                                \
    }                                                                                              \
    template <>                                                                                    \
    void subtract_symmetric_product(MatrixView<const R> a, std::span<const R> x,                   \
                                    std::span<R> out) {                                            \
        HWY_DYNAMIC_DISPATCH(subtract_product_##suffix)(a, x.data(), out.data());                  \
    }                                                                                              \
    template <>                                                                                    \
    R dot(std::span<const R> a, std::span<const R> b) {                                            \
        return HWY_DYNAMIC_DISPATCH(dot_##suffix)(a.data(), b.data(),                              \
                                                  static_cast<Index>(a.size()));                   \
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
