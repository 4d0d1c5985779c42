#include <rankfold/linalg/cholesky_batch.hpp>

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cholesky_batch.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include "lane_kernels.hpp"

#ifndef RANKFOLD_CHOLESKY_BATCH_ONCE
#define RANKFOLD_CHOLESKY_BATCH_ONCE
namespace rankfold {

constexpr Index block = 16;        // rows factorised at a time
constexpr Index max_systems = 16;  // as many as the lanes of the widest vector

/// What the kernels work on; every array is the batch's.
template <class R>
struct BatchView {
    Index order;  // k rounded up to whole blocks
    Index ld;
    Index count;
    R* matrices;  // order x ld each
    R* vectors;   // order each
    R* lanes;     // block x block x max_systems
    R* inverses;  // (order / block) x count blocks of block x block

    /// Past the last system the first one stands again, so that all lanes have something.
    [[nodiscard]] Index present(Index s) const { return s < count ? s : 0; }
    [[nodiscard]] R* matrix(Index s) const { return matrices + s * order * ld; }
    [[nodiscard]] R* vector(Index s) const { return vectors + s * order; }
    [[nodiscard]] R* inverse(Index b, Index s) const {
        return inverses + (b * max_systems + s) * block * block;
    }
    [[nodiscard]] R* lane(Index row, Index col) const {
        return lanes + (row * block + col) * max_systems;
    }
};

}  // namespace rankfold
#endif

HWY_BEFORE_NAMESPACE();
namespace rankfold::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class R>
using Tag = hn::CappedTag<R, 64 / sizeof(R)>;

// Register tile of the update: 8 x 3 vectors leave room for the operands in 32 registers, 4 x 2 in
// 16.
constexpr Index tile_rows = HWY_TARGET == HWY_AVX3 ? 8 : 4;
constexpr Index tile_vectors = HWY_TARGET == HWY_AVX3 ? 3 : 2;

/// A[i … i+tile_rows, j … j+VECS·N) −= U[:b, rows]ᵀ U[:b, columns].
template <Index VECS, class R>
HWY_INLINE void subtract_above(R* a, Index ld, Index b, Index i, Index j) {
    const Tag<R> d;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    hn::Vec<Tag<R>> sum[tile_rows][VECS];
    HWY_UNROLL(8)
    for (Index r = 0; r < tile_rows; ++r) {
        HWY_UNROLL(8)
        for (Index v = 0; v < VECS; ++v) sum[r][v] = hn::LoadU(d, a + (i + r) * ld + j + v * lanes);
    }
    for (Index e = 0; e < b; ++e) {
        const R* HWY_RESTRICT above = a + e * ld;
        hn::Vec<Tag<R>> right[VECS];
        HWY_UNROLL(8)
        for (Index v = 0; v < VECS; ++v) right[v] = hn::LoadU(d, above + j + v * lanes);
        HWY_UNROLL(8)
        for (Index r = 0; r < tile_rows; ++r) {
            const auto left = hn::Set(d, above[i + r]);
            HWY_UNROLL(8)
            for (Index v = 0; v < VECS; ++v) sum[r][v] = hn::NegMulAdd(left, right[v], sum[r][v]);
        }
    }
    HWY_UNROLL(8)
    for (Index r = 0; r < tile_rows; ++r) {
        HWY_UNROLL(8)
        for (Index v = 0; v < VECS; ++v) {
            hn::StoreU(sum[r][v], d, a + (i + r) * ld + j + v * lanes);
        }
    }
}

/// The rows of one block, less what the blocks above give.
template <class R>
void update_block_rows(const BatchView<R>& batch, R* a, Index b) {
    const Index lanes = static_cast<Index>(hn::Lanes(Tag<R>()));
    for (Index i = b; i < b + block; i += tile_rows) {
        Index j = b;
        // four vectors are better cut in two and two than in three and one
        for (Index left = (batch.order - b) / lanes; left > 0;) {
            if (left >= tile_vectors && left != 4) {
                subtract_above<tile_vectors>(a, batch.ld, b, i, j);
                j += tile_vectors * lanes;
                left -= tile_vectors;
            } else if (left >= 2) {
                subtract_above<2>(a, batch.ld, b, i, j);
                j += 2 * lanes;
                left -= 2;
            } else {
                subtract_above<1>(a, batch.ld, b, i, j);
                --left;
            }
        }
    }
}

/// Cholesky of the diagonal blocks in their lanes, then U is replaced by U⁻¹. Lanes that meet a bad
/// pivot go on with 1 in its place; their bits are set in the result.
template <class R>
unsigned factor_lanes(const BatchView<R>& batch, const R* least) {
    const Tag<R> d;
    const Index width = static_cast<Index>(hn::Lanes(d));
    unsigned bad = 0;
    for (Index v = 0; v < batch.count; v += width) {
        const auto at = [&](Index row, Index col) { return batch.lane(row, col) + v; };
        const auto one = hn::Set(d, R{1});
        const auto threshold = hn::LoadU(d, least + v);
        for (Index r = 0; r < block; ++r) {
            const auto pivot = hn::LoadU(d, at(r, r));
            const auto good = hn::Gt(pivot, threshold);
            if (!hn::AllTrue(d, good)) {
                std::uint8_t bits[8] = {};
                hn::StoreMaskBits(d, hn::Not(good), bits);
                bad |= static_cast<unsigned>(bits[0] | bits[1] << 8) << v;
            }
            const auto inverse = hn::Div(one, hn::Sqrt(hn::IfThenElse(good, pivot, one)));
            hn::StoreU(inverse, d, at(r, r));
            for (Index c = r + 1; c < block; ++c) {
                hn::StoreU(hn::Mul(hn::LoadU(d, at(r, c)), inverse), d, at(r, c));
            }
            for (Index s = r + 1; s < block; ++s) {
                const auto left = hn::LoadU(d, at(r, s));
                for (Index c = s; c < block; ++c) {
                    hn::StoreU(hn::NegMulAdd(left, hn::LoadU(d, at(r, c)), hn::LoadU(d, at(s, c))),
                               d, at(s, c));
                }
            }
        }
        // T[r, c] = −(Σ_{r <= s < c} T[r, s] U[s, c]) / U[c, c], where rows below r still hold U
        for (Index r = 0; r < block; ++r) {
            for (Index c = r + 1; c < block; ++c) {
                auto sum = hn::Mul(hn::LoadU(d, at(r, r)), hn::LoadU(d, at(r, c)));
                for (Index s = r + 1; s < c; ++s) {
                    sum = hn::MulAdd(hn::LoadU(d, at(r, s)), hn::LoadU(d, at(s, c)), sum);
                }
                hn::StoreU(hn::Neg(hn::Mul(sum, hn::LoadU(d, at(c, c)))), d, at(r, c));
            }
        }
    }
    return bad & ((1U << batch.count) - 1U);
}

/// U[b, columns] = Tᵀ A[b, columns] right of the diagonal block.
template <class R>
void scale_block_rows(const BatchView<R>& batch, R* a, Index b, const R* HWY_RESTRICT t) {
    const Tag<R> d;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    for (Index j = b + block; j < batch.order; j += lanes) {
        R* HWY_RESTRICT at = a + b * batch.ld + j;
        hn::Vec<Tag<R>> in[block];
        HWY_UNROLL(16)
        for (Index s = 0; s < block; ++s) in[s] = hn::LoadU(d, at + s * batch.ld);
        HWY_UNROLL(16)
        for (Index r = 0; r < block; ++r) {
            auto sum = hn::Mul(hn::Set(d, t[r]), in[0]);
            HWY_UNROLL(16)
            for (Index s = 1; s <= r; ++s) {
                sum = hn::MulAdd(hn::Set(d, t[s * block + r]), in[s], sum);
            }
            hn::StoreU(sum, d, at + r * batch.ld);
        }
    }
}

/// z[b] = Tᵀ b[b]; b[after] −= U[b, after]ᵀ z[b].
template <class R>
void forward_block(const BatchView<R>& batch, const R* a, R* HWY_RESTRICT x, Index b, const R* t) {
    const Tag<R> d;
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    R z[block];
    for (Index c = 0; c < block; c += lanes) {
        auto sum = hn::Zero(d);
        for (Index s = 0; s < block; ++s) {
            sum = hn::MulAdd(hn::Set(d, x[b + s]), hn::LoadU(d, t + s * block + c), sum);
        }
        hn::StoreU(sum, d, z + c);
    }
    std::copy_n(z, block, x + b);
    for (Index j = b + block; j < batch.order; j += lanes) {
        auto sum = hn::LoadU(d, x + j);
        for (Index s = 0; s < block; ++s) {
            sum = hn::NegMulAdd(hn::Set(d, z[s]), hn::LoadU(d, a + (b + s) * batch.ld + j), sum);
        }
        hn::StoreU(sum, d, x + j);
    }
}

/// Sums[r] = Σ over the columns [begin, begin + w) of a row r, r = 0 … block − 1, times x there.
template <class R>
HWY_INLINE void row_dots(const R* rows, Index ld, const R* HWY_RESTRICT x, Index w, R* sums) {
    const Tag<R> d;
    constexpr Index width = static_cast<Index>(hn::MaxLanes(Tag<R>()));
    const Index lanes = static_cast<Index>(hn::Lanes(d));
    for (Index first = 0; first < block; first += width) {
        hn::Vec<Tag<R>> sum[width];
        HWY_UNROLL(16)
        for (Index r = 0; r < width; ++r) sum[r] = hn::Zero(d);
        for (Index j = 0; j < w; j += lanes) {
            const auto right = hn::LoadU(d, x + j);
            HWY_UNROLL(16)
            for (Index r = 0; r < width; ++r) {
                sum[r] = hn::MulAdd(hn::LoadU(d, rows + (first + r) * ld + j), right, sum[r]);
            }
        }
        hn::StoreU(sum_lanes(d, sum), d, sums + first);
    }
}

/// x[b] = T (z[b] − U[b, after] x[after]).
template <class R>
void backward_block(const BatchView<R>& batch, const R* a, R* x, Index b, const R* t) {
    R sums[block];
    const Index after = b + block;
    if (after < batch.order) {
        row_dots(a + b * batch.ld + after, batch.ld, x + after, batch.order - after, sums);
        for (Index r = 0; r < block; ++r) x[b + r] -= sums[r];
    }
    row_dots(t, block, x + b, block, sums);
    std::copy_n(sums, block, x + b);
}

/// The upper triangles of the diagonal blocks, from the matrices into the lanes or, inverted, from
/// the lanes into `inverses`: a vector of the columns of each system is turned into a vector of
/// the systems for each column.
template <bool INTO_LANES, class R>
void exchange_lanes(const BatchView<R>& batch, Index b) {
    const Tag<R> d;
    constexpr Index width = static_cast<Index>(hn::MaxLanes(Tag<R>()));
    for (Index first = 0; first < batch.count; first += width) {
        R* system[width];
        for (Index s = 0; s < width; ++s) {
            const Index at = batch.present(first + s);
            system[s] = INTO_LANES ? batch.matrix(at) + b * batch.ld + b
                                   : batch.inverse(b / block, first + s);
        }
        const Index ld = INTO_LANES ? batch.ld : block;
        for (Index r = 0; r < block; ++r) {
            for (Index c = r / width * width; c < block; c += width) {
                hn::Vec<Tag<R>> v[width];
                HWY_UNROLL(16)
                for (Index i = 0; i < width; ++i) {
                    v[i] = hn::LoadU(
                        d, INTO_LANES ? system[i] + r * ld + c : batch.lane(r, c + i) + first);
                }
                transpose_lanes(d, v);
                HWY_UNROLL(16)
                for (Index i = 0; i < width; ++i) {
                    if (INTO_LANES && c + i < r) continue;  // there, the lanes are zero
                    hn::StoreU(v[i], d,
                               INTO_LANES ? batch.lane(r, c + i) + first : system[i] + r * ld + c);
                }
            }
        }
    }
}

template <class R>
unsigned solve_batch(const BatchView<R>& batch, const R* least) {
    unsigned bad = 0;
    for (Index b = 0; b < batch.order; b += block) {
        for (Index s = 0; s < batch.count && b > 0; ++s) {
            update_block_rows(batch, batch.matrix(s), b);
        }
        exchange_lanes<true>(batch, b);
        bad |= factor_lanes(batch, least);
        exchange_lanes<false>(batch, b);
        for (Index s = 0; s < batch.count; ++s) {
            R* const t = batch.inverse(b / block, s);
            scale_block_rows(batch, batch.matrix(s), b, t);
            forward_block<R>(batch, batch.matrix(s), batch.vector(s), b, t);
        }
    }
    for (Index s = 0; s < batch.count; ++s) {
        for (Index b = batch.order - block; b >= 0; b -= block) {
            backward_block<R>(batch, batch.matrix(s), batch.vector(s), b,
                              batch.inverse(b / block, s));
        }
    }
    return bad;
}

unsigned solve_batch_f(const BatchView<float>& batch, const float* least) {
    return solve_batch(batch, least);
}
unsigned solve_batch_d(const BatchView<double>& batch, const double* least) {
    return solve_batch(batch, least);
}

}  // namespace rankfold::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rankfold {

namespace {

HWY_EXPORT(solve_batch_f);
HWY_EXPORT(solve_batch_d);

unsigned dispatch(const BatchView<float>& batch, const float* least) {
    return HWY_DYNAMIC_DISPATCH(solve_batch_f)(batch, least);
}
unsigned dispatch(const BatchView<double>& batch, const double* least) {
    return HWY_DYNAMIC_DISPATCH(solve_batch_d)(batch, least);
}

constexpr Index cache_bytes = 800 * 1024;

}  // namespace

template <Real R>
CholeskyBatch<R>::CholeskyBatch(Index k)
    : k_{k},
      ld_{padded(k) + block},  // so that a column does not fall on few cache sets
      capacity_{
          std::clamp<Index>(cache_bytes / (padded(k) * ld_ * Index{sizeof(R)}), 1, max_systems)},
      matrices_(static_cast<std::size_t>(capacity_ * padded(k) * ld_)),
      vectors_(static_cast<std::size_t>(capacity_ * padded(k))),
      lanes_(static_cast<std::size_t>(block * block * max_systems), R{0}),
      inverses_(static_cast<std::size_t>(padded(k) / block * max_systems * block * block), R{0}) {
    RANKFOLD_EXPECT(k > 0);
}

template <Real R>
MatrixView<R> CholeskyBatch<R>::matrix(Index s) {
    return {matrices_.data() + s * padded(k_) * ld_, k_, k_, ld_};
}

template <Real R>
std::span<R> CholeskyBatch<R>::vector(Index s) {
    return std::span<R>(vectors_).subspan(static_cast<std::size_t>(s * padded(k_)),
                                          static_cast<std::size_t>(k_));
}

template <Real R>
unsigned CholeskyBatch<R>::solve(Index count, R tiny) {
    RANKFOLD_EXPECT(count >= 0 && count <= capacity_);
    R least[max_systems] = {};
    for (Index s = 0; s < count; ++s) {
        const MatrixView<R> a = matrix(s);
        R largest = 0;
        for (Index i = 0; i < k_ && tiny > R{0}; ++i) largest = std::max(largest, a(i, i));
        least[s] = tiny * largest;
        for (Index i = k_; i < padded(k_); ++i) {
            std::fill_n(a.data + i * ld_, padded(k_), R{0});
            a.data[i * ld_ + i] = R{1};
            vectors_[static_cast<std::size_t>(s * padded(k_) + i)] = R{0};
        }
    }
    return dispatch({.order = padded(k_),
                     .ld = ld_,
                     .count = count,
                     .matrices = matrices_.data(),
                     .vectors = vectors_.data(),
                     .lanes = lanes_.data(),
                     .inverses = inverses_.data()},
                    least);
}

template class CholeskyBatch<float>;
template class CholeskyBatch<double>;

}  // namespace rankfold
#endif  // HWY_ONCE
