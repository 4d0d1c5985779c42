// What evaluation and recommendation ask of a model: the scores of whole rows, or of given entries.
#pragma once

#include <concepts>
#include <optional>
#include <span>
#include <vector>

#include <rankfold/dist/factors.hpp>

namespace rankfold {

/// A model that gives every (row, column) pair a score; the greater, the better.
///
/// `scores(rows, out)` writes the scores of the global rows `rows`, all owned by this rank in
/// `layout()`, to `out` (rows.size() x cols()). It is const, thread-safe and does not communicate;
/// what it needs of other ranks is gathered when the scorer is made. Callers pass the ranges of
/// score_tiles() only, which are the same on any number of ranks, so a scorer may issue one GEMM a
/// call and still give the same bits.
template <class S, class R>
concept Scorer = Real<R> && requires(const S& scorer, Range rows, MatrixView<R> out) {
    { scorer.rows() } -> std::convertible_to<Index>;
    { scorer.cols() } -> std::convertible_to<Index>;
    { scorer.layout() } -> std::same_as<const ShardLayout&>;
    scorer.scores(rows, out);
};

/// A Scorer that can also score given entries for less than whole rows cost.
///
/// `entries(rows, where, out)`: row t of `where` (rows.size() rows; its values do not matter) lists
/// columns of the global row rows.begin + t; the score of its entry e goes to
/// out[e − where.row_ptr[0]].
template <class S, class R>
concept EntryScorer = Scorer<S, R> &&
    requires(const S& scorer, Range rows, CsrView<R> where, std::span<R> out) {
    scorer.entries(rows, where, out);
};

/// Rows of a score tile for `cols` columns: at most 64, and few enough for 2^22 scores.
[[nodiscard]] Index tile_rows(Index cols);

/// The row ranges in which the rank's rows are scored: shards cut at the multiples of tile_rows().
/// They depend on the layout and on `cols` alone.
[[nodiscard]] std::vector<Range> score_tiles(const ShardLayout& layout, int rank, Index cols);

/// What a scorer that is an inner product is made of: score(i, j) = o_i + c_j + x_i·y_j. Borrowed.
template <Real R>
struct InnerProduct {
    MatrixView<const R> rows;         ///< x of this rank's rows
    std::vector<R> row_offset;        ///< o of this rank's rows
    MatrixView<const R> cols;         ///< y, n x k
    std::span<const R> col_offset{};  ///< c, n
};

/// Any Scorer, borrowed; it must outlive the reference.
template <Real R>
class ScorerRef {
public:
    template <class S>
    requires Scorer<S, R> &&(!std::same_as<S, ScorerRef>)
        ScorerRef(const S& scorer)  // NOLINT(google-explicit-constructor)
        : scorer_{&scorer},
          layout_{&scorer.layout()},
          cols_{scorer.cols()},
          scores_{[](const void* s, Range rows, MatrixView<R> out) {
              static_cast<const S*>(s)->scores(rows, out);
          }} {
        if constexpr (EntryScorer<S, R>) {
            entries_ = [](const void* s, Range rows, CsrView<R> where, std::span<R> out) {
                static_cast<const S*>(s)->entries(rows, where, out);
            };
        }
        if constexpr (requires {
                          { scorer.flops_per_score() } -> std::convertible_to<double>;
                      }) {
            flops_per_score_ = scorer.flops_per_score();
        }
        if constexpr (requires {
                          { scorer.inner_product() } -> std::same_as<InnerProduct<R>>;
                      }) {
            inner_product_ = [](const void* s) {
                return static_cast<const S*>(s)->inner_product();
            };
        }
    }

    [[nodiscard]] Index rows() const { return layout_->rows(); }
    [[nodiscard]] Index cols() const { return cols_; }
    [[nodiscard]] const ShardLayout& layout() const { return *layout_; }
    /// Flops that one score costs, for the ledger; 0 if the scorer does not say.
    [[nodiscard]] double flops_per_score() const { return flops_per_score_; }

    void scores(Range rows, MatrixView<R> out) const { scores_(scorer_, rows, out); }
    /// What the scores are products of, if they are: such need not be written down to find the
    /// best.
    [[nodiscard]] std::optional<InnerProduct<R>> inner_product() const {
        if (inner_product_ == nullptr) return std::nullopt;
        return inner_product_(scorer_);
    }
    /// See EntryScorer; a scorer without entries() scores the whole rows.
    void entries(Range rows, CsrView<R> where, std::span<R> out) const;

private:
    const void* scorer_;
    const ShardLayout* layout_;
    Index cols_;
    double flops_per_score_ = 0.0;
    void (*scores_)(const void*, Range, MatrixView<R>);
    void (*entries_)(const void*, Range, CsrView<R>, std::span<R>) = nullptr;
    InnerProduct<R> (*inner_product_)(const void*) = nullptr;
};

/// Scores from factors: global_mean + row_bias_i + col_bias_j + column_mean_j + Σ_f x_if s_f y_jf.
///
/// The columns' factors stand on every rank (n x k), the rows' factors stay where they are and are
/// borrowed: `factors` must outlive the scorer. A row's bits depend on its global index alone, not
/// on the layout: it is always computed at its place in a tile of tile_rows(n) rows.
template <Real R>
class FactorScorer {
public:
    /// @collective over the factors' communicator @cost bytes per rank: (p − 1) own columns
    explicit FactorScorer(const Factors<R>& factors);

    [[nodiscard]] Index rows() const { return factors_->rows.rows(); }
    [[nodiscard]] Index cols() const { return cols_.rows(); }
    [[nodiscard]] const ShardLayout& layout() const { return factors_->rows.layout(); }
    [[nodiscard]] double flops_per_score() const { return 2.0 * static_cast<double>(cols_.cols()); }
    [[nodiscard]] InnerProduct<R> inner_product() const;
    void scores(Range rows, MatrixView<R> out) const;
    void entries(Range rows, CsrView<R> where, std::span<R> out) const;

private:
    [[nodiscard]] R row_offset(Index local_row) const;

    const Factors<R>* factors_;
    DenseMatrix<R> cols_;        // n x k, times the singular values
    std::vector<R> col_offset_;  // n: column bias plus column mean
};

extern template class ScorerRef<float>;
extern template class ScorerRef<double>;
extern template class FactorScorer<float>;
extern template class FactorScorer<double>;

}  // namespace rankfold
