#include <rankfold/dist/synthetic.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>

#include <rankfold/core/random.hpp>
#include <rankfold/linalg/blas.hpp>

namespace rankfold {

namespace {

std::size_t at(Index i) {
    return static_cast<std::size_t>(i);
}

/// Something must be so, and all ranks see alike whether it is.
void require(bool holds, const std::string& message) {
    if (!holds) throw Error(Fault::input, message, true);
}

/// Weights (t + offset)^−exponent of places t in [0, count), by their integral.
class PowerLaw {
public:
    PowerLaw(Index count, double exponent, double offset)
        : count_{static_cast<double>(count)},
          power_{1.0 - exponent},
          offset_{offset},
          start_{std::pow(offset, power_)},
          total_{std::pow(count_ + offset, power_) - start_} {}

    /// Share of the weight on places before t.
    [[nodiscard]] double before(double t) const {
        return (std::pow(t + offset_, power_) - start_) / total_;
    }
    /// The place of which the share u of the weight is on earlier ones; u in [0, 1).
    [[nodiscard]] Index place(double u) const {
        const double t = std::pow(start_ + u * total_, 1.0 / power_) - offset_;
        return static_cast<Index>(std::clamp(t, 0.0, count_ - 1.0));
    }

private:
    double count_;
    double power_;
    double offset_;
    double start_;
    double total_;
};

/// How many entries each row has: an eighth of the mean for all, the rest by a power law over a
/// shuffled order. They add up to nnz exactly, and each is known without the others.
class RowDegrees {
public:
    explicit RowDegrees(const SyntheticRatings& what)
        : rows_{what.rows},
          base_{what.nnz / what.rows / 8},
          rest_{what.nnz - base_ * what.rows},
          law_{what.rows, what.row_exponent, 1.0},
          step_{static_cast<Index>(0.6180339887 * static_cast<double>(what.rows)) | 1},
          shift_{Philox(what.seed, Stream::synthetic_row).below(what.rows, -1)} {
        while (std::gcd(step_, rows_) != 1) step_ += 2;
        // the greater the offset, the flatter the law: until no row has most of the columns
        const Index most = std::max(what.cols / 3, what.nnz * 3 / what.rows / 2);
        for (double offset = 1.0; of_place(0) > most; offset *= 1.25) {
            law_ = PowerLaw(rows_, what.row_exponent, offset);
        }
    }

    [[nodiscard]] Index operator()(Index row) const {
        return of_place(static_cast<Index>((static_cast<WideIndex>(row) * step_ + shift_) % rows_));
    }

private:
    [[nodiscard]] Index of_place(Index place) const {
        const auto before = [&](Index t) {
            return static_cast<Index>(static_cast<double>(rest_) *
                                      law_.before(static_cast<double>(t)));
        };
        const Index end = place + 1 == rows_ ? rest_ : before(place + 1);
        return base_ + end - before(place);
    }

    Index rows_;
    Index base_;
    Index rest_;
    PowerLaw law_;
    Index step_;
    Index shift_;
};

/// Draws the columns and values of one row after the other.
template <Real R>
class RowMaker {
public:
    explicit RowMaker(const SyntheticRatings& what)
        : what_{what},
          popularity_{what.cols, what.col_exponent, 1.0 + 0.001 * static_cast<double>(what.cols)},
          entry_{what.seed, Stream::synthetic_entry},
          row_{what.seed, Stream::synthetic_row},
          noise_{what.seed, Stream::synthetic_noise},
          order_{Philox(what.seed, Stream::synthetic_col).permutation(what.cols, -1)},
          col_factors_(what.cols, what.factors),
          drawn_(at(what.cols), 0) {
        const Philox col(what.seed, Stream::synthetic_col);
        const double scale = 1.0 / std::sqrt(static_cast<double>(what.factors));
        for (Index j = 0; j < what.cols; ++j) {
            for (Index f = 0; f < what.factors; ++f) col_factors_(j, f) = scale * col.normal(j, f);
        }
    }

    void make(Index row, std::span<ColIndex> cols, std::span<R> values) {
        if (8 * std::ssize(cols) > what_.cols) {
            choose_by_keys(row, cols);
        } else {
            choose_by_trial(row, cols);
        }
        std::ranges::sort(cols);
        std::vector<double> x(at(what_.factors));
        for (std::size_t f = 0; f < x.size(); ++f) x[f] = row_.normal(row, static_cast<Index>(f));
        for (std::size_t e = 0; e < cols.size(); ++e) {
            const auto y = col_factors_.row(cols[e]);
            double value = 3.5 + std::inner_product(x.begin(), x.end(), y.begin(), 0.0);
            if (what_.noise > 0.0) value += what_.noise * noise_.normal(row, cols[e]);
            values[e] = static_cast<R>(std::clamp(std::round(value), 1.0, 5.0));
        }
    }

private:
    /// Draws from the law until there are enough distinct columns.
    void choose_by_trial(Index row, std::span<ColIndex> cols) {
        std::size_t found = 0;
        for (Index t = 0; found < cols.size(); ++t) {
            const Index j = order_[at(popularity_.place(entry_.uniform(row, t)))];
            if (drawn_[at(j)] != 0) continue;
            drawn_[at(j)] = 1;
            cols[found++] = static_cast<ColIndex>(j);
        }
        for (const ColIndex j : cols) drawn_[at(j)] = 0;
    }

    /// The same distribution at a cost that does not grow with the degree: the columns whose
    /// exponential clocks, of rates proportional to their weights, ring first.
    void choose_by_keys(Index row, std::span<ColIndex> cols) {
        std::vector<std::pair<double, ColIndex>> keys;
        for (Index t = 0; t < what_.cols; ++t) {
            const double weight = popularity_.before(static_cast<double>(t + 1)) -
                                  popularity_.before(static_cast<double>(t));
            keys.emplace_back(-std::log1p(-entry_.uniform(row, t)) / weight,
                              static_cast<ColIndex>(order_[at(t)]));
        }
        const auto end = keys.begin() + std::ssize(cols);
        std::nth_element(keys.begin(), end - 1, keys.end());
        std::transform(keys.begin(), end, cols.begin(), [](const auto& key) { return key.second; });
    }

    SyntheticRatings what_;
    PowerLaw popularity_;
    Philox entry_;
    Philox row_;
    Philox noise_;
    std::vector<Index> order_;         // order_[place] = column
    DenseMatrix<double> col_factors_;  // cols x factors, over √k
    std::vector<std::uint8_t> drawn_;  // of each column, for choose_by_trial
};

/// An m x k matrix with orthonormal columns, in even shards: the Q factor of a normal matrix, by
/// Cholesky QR twice (the second pass brings orthogonality to rounding).
BlockRows<double> orthonormal(const Communicator& comm, Index m, Index k, Philox random) {
    BlockRows<double> q(comm, ShardLayout::even(m, shard_count(m * k), comm.size()), k);
    auto rows = q.local().view();
    for (Index i = 0; i < rows.rows; ++i) {
        for (Index f = 0; f < k; ++f) rows(i, f) = random.normal(q.first_row() + i, f);
    }
    for (int pass = 0; pass < 2; ++pass) {
        DenseMatrix<double> u = gram(q);  // becomes U of G = Uᵀ U
        for (Index i = 0; i < k; ++i) {
            for (Index e = 0; e < i; ++e) {
                for (Index j = i; j < k; ++j) u(i, j) -= u(e, i) * u(e, j);
            }
            const double pivot = std::sqrt(u(i, i));
            for (Index j = i; j < k; ++j) u(i, j) /= pivot;
        }
        for (Index i = 0; i < rows.rows; ++i) {  // row ← row U⁻¹
            for (Index f = 0; f < k; ++f) {
                rows(i, f) /= u(f, f);
                for (Index g = f + 1; g < k; ++g) rows(i, g) -= rows(i, f) * u(f, g);
            }
        }
    }
    return q;
}

}  // namespace

template <Real R>
BlockRowCsr<R> generate_ratings(const Communicator& comm, const SyntheticRatings& what) {
    require(what.rows > 0 && what.cols > 0 && what.factors > 0,
            "generated ratings need at least one row, column and factor");
    require(what.nnz > 0 && 2 * static_cast<WideIndex>(what.nnz) <=
                                static_cast<WideIndex>(what.rows) * what.cols,
            concat("generated ratings need between 1 and rows x cols / 2 entries, not ", what.nnz,
                   " (for more, generate a dense matrix)"));
    for (const double exponent : {what.row_exponent, what.col_exponent}) {
        require(exponent >= 0.0 && exponent <= 0.99,
                concat("the exponent of a power law must be between 0 and 0.99, not ", exponent));
    }
    const auto phase = comm.ledger().phase("generate");
    const RowDegrees degree(what);
    const Range part = even_part(what.rows, comm.size(), comm.rank());
    std::vector<Index> counts;
    for (Index i = part.begin; i < part.end; ++i) counts.push_back(degree(i));
    const ShardLayout layout = balanced_layout(comm, what.rows, part.begin, counts);

    const Range mine = layout.rank_rows(comm.rank());
    CsrMatrix<R> local;
    local.cols = what.cols;
    for (Index i = mine.begin; i < mine.end; ++i) {
        local.row_ptr.push_back(local.row_ptr.back() + degree(i));
    }
    local.col_idx.resize(at(local.row_ptr.back()));
    local.values.resize(at(local.row_ptr.back()));
    RowMaker<R> maker(what);
    for (Index i = 0; i < mine.size(); ++i) {
        const auto begin = at(local.row_ptr[at(i)]);
        const auto count = at(local.row_ptr[at(i) + 1]) - begin;
        maker.make(mine.begin + i, std::span(local.col_idx).subspan(begin, count),
                   std::span(local.values).subspan(begin, count));
    }
    return {comm, layout, std::move(local)};
}

template <Real R>
BlockRows<R> generate_dense(const Communicator& comm, const SyntheticDense& what) {
    require(what.rows > 0 && what.cols > 0, "a generated matrix needs at least one row and column");
    const auto k = static_cast<Index>(what.spectrum.size());
    require(k <= std::min(what.rows, what.cols),
            concat("a ", what.rows, " x ", what.cols, " matrix cannot have ", k,
                   " singular values; lower the number of factors"));
    const auto phase = comm.ledger().phase("generate");
    BlockRows<R> a(comm,
                   ShardLayout::even(what.rows, shard_count(what.rows * what.cols), comm.size()),
                   what.cols);
    const Philox entry(what.seed, Stream::synthetic_entry);
    const Philox noise(what.seed, Stream::synthetic_noise);
    auto local = a.local().view();
    if (what.uniform) {
        for (Index i = 0; i < local.rows; ++i) {
            for (Index j = 0; j < local.cols; ++j) {
                local(i, j) = static_cast<R>(entry.uniform(a.first_row() + i, j));
            }
        }
        return a;
    }
    if (k > 0) {
        const BlockRows<double> u = redistribute(
            orthonormal(comm, what.rows, k, Philox(what.seed, Stream::synthetic_row)), a.layout());
        DenseMatrix<double> v =
            gather_all(orthonormal(comm, what.cols, k, Philox(what.seed, Stream::synthetic_col)));
        for (Index j = 0; j < v.rows(); ++j) {
            for (Index f = 0; f < k; ++f) v(j, f) *= what.spectrum[at(f)];
        }
        for (Index s = a.shards().begin; s < a.shards().end; ++s) {
            const auto target = a.shard(s);
            DenseMatrix<double> product(target.rows, what.cols);
            gemm<double>(Transpose::no, Transpose::yes, 1.0, u.shard(s), v.view(), 0.0,
                         product.view());
            for (Index i = 0; i < target.rows; ++i) {
                std::ranges::transform(product.row(i), target.row(i).begin(),
                                       [](double x) { return static_cast<R>(x); });
            }
        }
    }
    if (what.noise > 0.0) {
        for (Index i = 0; i < local.rows; ++i) {
            for (Index j = 0; j < local.cols; ++j) {
                local(i, j) += static_cast<R>(what.noise * noise.normal(a.first_row() + i, j));
            }
        }
    }
    return a;
}

#define RANKFOLD_INSTANTIATE(R)                                                             \
    template BlockRowCsr<R> generate_ratings(const Communicator&, const SyntheticRatings&); \
    template BlockRows<R> generate_dense(const Communicator&, const SyntheticDense&);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
