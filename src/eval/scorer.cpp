#include <rankfold/eval/scorer.hpp>

#include <algorithm>

#include <rankfold/linalg/blas.hpp>
#include <rankfold/linalg/row_kernels.hpp>

namespace rankfold {

Index tile_rows(Index cols) {
    constexpr Index most_scores = Index{1} << 22;
    Index rows = 64;
    while (rows > 1 && rows * cols > most_scores) rows /= 2;
    return rows;
}

std::vector<Range> score_tiles(const ShardLayout& layout, int rank, Index cols) {
    const Index tile = tile_rows(cols);
    std::vector<Range> tiles;
    const Range shards = layout.rank_shards(rank);
    for (Index s = shards.begin; s < shards.end; ++s) {
        const Range rows = layout.shard_rows(s);
        for (Index begin = rows.begin; begin < rows.end;) {
            const Index end = std::min(rows.end, (begin / tile + 1) * tile);
            tiles.push_back({begin, end});
            begin = end;
        }
    }
    return tiles;
}

template <Real R>
void ScorerRef<R>::entries(Range rows, CsrView<R> where, std::span<R> out) const {
    if (entries_ != nullptr) {
        entries_(scorer_, rows, where, out);
        return;
    }
    DenseMatrix<R> whole(rows.size(), cols_);
    scores(rows, whole.view());
    auto to = out.begin();
    for (Index t = 0; t < rows.size(); ++t) {
        for (const ColIndex j : where.row_cols(t)) *to++ = whole(t, j);
    }
}

template <Real R>
FactorScorer<R>::FactorScorer(const Factors<R>& factors)
    : factors_{&factors},
      cols_{gather_all(factors.cols)},
      col_offset_(static_cast<std::size_t>(cols_.rows()), R{0}) {
    RANKFOLD_EXPECT(factors.cols.cols() == factors.k());
    if (!factors.singular_values.empty()) {
        for (Index j = 0; j < cols_.rows(); ++j) {
            std::ranges::transform(cols_.row(j), factors.singular_values, cols_.row(j).begin(),
                                   std::multiplies<>());
        }
    }
    for (const auto* part : {&factors.col_bias, &factors.column_mean}) {
        if (!part->has_value()) continue;
        const DenseMatrix<R> whole = gather_all(**part);
        std::ranges::transform(col_offset_, whole.data(), col_offset_.begin(), std::plus<>());
    }
}

template <Real R>
R FactorScorer<R>::row_offset(Index local_row) const {
    const R mean = static_cast<R>(factors_->global_mean);
    return factors_->row_bias ? mean + factors_->row_bias->local()(local_row, 0) : mean;
}

template <Real R>
InnerProduct<R> FactorScorer<R>::inner_product() const {
    const auto rows = factors_->rows.local().view();
    InnerProduct<R> product{
        .rows = rows, .row_offset = {}, .cols = cols_.view(), .col_offset = col_offset_};
    for (Index i = 0; i < rows.rows; ++i) product.row_offset.push_back(row_offset(i));
    return product;
}

template <Real R>
void FactorScorer<R>::scores(Range rows, MatrixView<R> out) const {
    RANKFOLD_EXPECT(out.rows == rows.size() && out.cols == cols());
    const Index tile = tile_rows(cols());
    const Index first = factors_->rows.first_row();
    const auto local = factors_->rows.local().view();
    DenseMatrix<R> x(tile, local.cols);
    DenseMatrix<R> padded;  // where the rows asked for are not a whole tile
    for (Index begin = rows.begin; begin < rows.end;) {
        const Index tile_begin = begin / tile * tile;
        const Index end = std::min(rows.end, tile_begin + tile);
        const bool whole = end - begin == tile;
        if (!whole && padded.rows() == 0) padded = DenseMatrix<R>(tile, cols());
        const MatrixView<R> target =
            whole ? out.row_block({begin - rows.begin, end - rows.begin}) : padded.view();
        x.fill(R{0});
        for (Index i = begin; i < end; ++i) {
            const R offset = row_offset(i - first);
            std::ranges::copy(local.row(i - first), x.row(i - tile_begin).begin());
            std::ranges::transform(col_offset_, target.row(i - tile_begin).begin(),
                                   [&](R c) { return offset + c; });
        }
        gemm<R>(Transpose::no, Transpose::yes, R{1}, x.view(), cols_.view(), R{1}, target);
        if (!whole) {
            for (Index i = begin; i < end; ++i) {
                std::ranges::copy(target.row(i - tile_begin), out.row(i - rows.begin).begin());
            }
        }
        begin = end;
    }
}

template <Real R>
void FactorScorer<R>::entries(Range rows, CsrView<R> where, std::span<R> out) const {
    RANKFOLD_EXPECT(where.rows == rows.size() && std::ssize(out) == where.nnz());
    const Index first = factors_->rows.first_row();
    auto to = out.begin();
    for (Index t = 0; t < rows.size(); ++t) {
        const Index i = rows.begin + t - first;
        const R offset = row_offset(i);
        const std::span<const R> x = factors_->rows.local().row(i);
        for (const ColIndex j : where.row_cols(t)) {
            *to++ = offset + col_offset_[static_cast<std::size_t>(j)] + dot<R>(x, cols_.row(j));
        }
    }
}

template class ScorerRef<float>;
template class ScorerRef<double>;
template class FactorScorer<float>;
template class FactorScorer<double>;

}  // namespace rankfold
