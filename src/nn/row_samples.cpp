#include <rankfold/nn/row_samples.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include <rankfold/comm/reproducible_sum.hpp>
#include <rankfold/core/subscript.hpp>

namespace rankfold {

namespace {

/// Row boundaries of blocks of equal sample counts, for rows of which each rank has some chosen as
/// samples; `total` becomes their number.
///
/// @param chosen  global rows, increasing; over the ranks in rank order
ShardLayout block_layout(const Communicator& comm, Index rows, const std::vector<Index>& chosen,
                         Index blocks, Index& total) {
    const auto count = static_cast<Index>(chosen.size());
    const Index before = comm.exclusive_scan(count);
    total = comm.all_reduce(count, Reduce::sum);
    std::vector<Index> begins(at(blocks) + 1, 0);
    for (Index b = 1; b < blocks; ++b) {
        const Index sample = even_part(total, blocks, b).begin;
        if (sample > 0 && sample >= before && sample < before + count) {
            begins[at(b)] = chosen[at(sample - before)];
        }
    }
    begins.back() = rows;
    comm.all_reduce(std::span<Index>(begins), Reduce::max);
    return {std::move(begins), comm.size()};
}

}  // namespace

Index default_micro_batches(Index batch) {
    const auto most = static_cast<std::uint64_t>(std::max<Index>(4, batch / 128));
    return static_cast<Index>(std::bit_floor(most));
}

template <Real R>
InputRows<R>::InputRows(const BlockRows<R>& matrix, const ShardLayout& layout, double scale)
    : layout_{layout}, first_row_{layout.rank_rows(matrix.comm().rank()).begin} {
    DenseMatrix<R> rows = std::move(redistribute(matrix, layout).local());
    if (scale != 1.0) {
        for (R& x : rows.data()) x *= static_cast<R>(scale);
    }
    rows_ = std::move(rows);
}

template <Real R>
InputRows<R>::InputRows(const BlockRowCsr<R>& matrix, const ShardLayout& layout, double scale)
    : layout_{layout}, first_row_{layout.rank_rows(matrix.comm().rank()).begin} {
    CsrMatrix<R> rows = std::move(redistribute(matrix, layout).local());
    if (scale != 1.0) {
        for (R& x : rows.values) x *= static_cast<R>(scale);
    }
    rows_ = std::move(rows);
}

template <Real R>
void InputRows<R>::standardise(std::vector<R> mean, const std::vector<R>& deviation) {
    RANKFOLD_EXPECT(std::ssize(mean) == width() && mean.size() == deviation.size());
    mean_ = std::move(mean);
    shrink_.clear();
    for (const R d : deviation) shrink_.push_back(R{1} / d);
}

template <Real R>
Index InputRows<R>::width() const {
    if (const auto* dense = std::get_if<DenseMatrix<R>>(&rows_)) return dense->cols();
    return std::get<CsrMatrix<R>>(rows_).cols;
}

template <Real R>
void InputRows<R>::copy_row(Index row, std::span<R> out) const {
    const Index i = row - first_row_;
    if (const auto* dense = std::get_if<DenseMatrix<R>>(&rows_)) {
        std::ranges::copy(dense->row(i), out.begin());
    } else {
        const CsrView<R> sparse = std::get<CsrMatrix<R>>(rows_).view();
        std::ranges::fill(out, R{0});
        const auto cols = sparse.row_cols(i);
        const auto values = sparse.row_values(i);
        for (std::size_t e = 0; e < cols.size(); ++e) out[at(cols[e])] = values[e];
    }
    for (std::size_t j = 0; j < mean_.size(); ++j) out[j] = (out[j] - mean_[j]) * shrink_[j];
}

namespace {

/// Mean and deviation from Σ x and Σ x² of m rows: sums[2 j] and sums[2 j + 1].
template <Real R>
ColumnScale<R> scale_from(const Communicator& comm, const std::vector<double>& terms, Index cols,
                          Index rows) {
    std::vector<double> sums(at(2 * cols));
    reproducible_sum(comm, terms, sums);
    ColumnScale<R> scale;
    for (Index j = 0; j < cols; ++j) {
        const double mean = sums[at(2 * j)] / static_cast<double>(rows);
        const double square = sums[at(2 * j + 1)] / static_cast<double>(rows);
        const double variance = square - mean * mean;
        scale.mean.push_back(static_cast<R>(mean));
        const bool constant = !(variance > 1e-12 * square);
        scale.deviation.push_back(constant ? R{1} : static_cast<R>(std::sqrt(variance)));
    }
    return scale;
}

}  // namespace

template <Real R>
ColumnScale<R> column_scale(const BlockRows<R>& matrix) {
    const Index n = matrix.cols();
    std::vector<double> terms;  // a row of sums for each shard
    for (Index s = matrix.shards().begin; s < matrix.shards().end; ++s) {
        const std::size_t base = terms.size();
        terms.resize(base + at(2 * n));
        const MatrixView<const R> rows = matrix.shard(s);
        for (Index i = 0; i < rows.rows; ++i) {
            for (Index j = 0; j < n; ++j) {
                const auto x = static_cast<double>(rows(i, j));
                terms[base + at(2 * j)] += x;
                terms[base + at(2 * j + 1)] += x * x;
            }
        }
    }
    return scale_from<R>(matrix.comm(), terms, n, matrix.rows());
}

template <Real R>
ColumnScale<R> column_scale(const BlockRowCsr<R>& matrix) {
    const Index n = matrix.cols();
    std::vector<double> terms;
    for (Index s = matrix.shards().begin; s < matrix.shards().end; ++s) {
        const std::size_t base = terms.size();
        terms.resize(base + at(2 * n));
        const CsrView<R> rows = matrix.shard(s);
        for (Index i = 0; i < rows.rows; ++i) {
            for (std::size_t e = 0; e < rows.row_cols(i).size(); ++e) {
                const auto x = static_cast<double>(rows.row_values(i)[e]);
                const Index j = rows.row_cols(i)[e];
                terms[base + at(2 * j)] += x;
                terms[base + at(2 * j + 1)] += x * x;
            }
        }
    }
    return scale_from<R>(matrix.comm(), terms, n, matrix.rows());
}

template <Real R>
ShardLayout RowSamples<R>::deal(const ShardLayout& rows, const std::vector<Index>& chosen) {
    const ShardLayout layout = block_layout(*comm_, rows.rows(), chosen, blocks_, samples_);
    if (samples_ == 0) {
        throw Error(Fault::input,
                    "there is nothing to learn from: no row has a label or a positive entry", true);
    }
    const Range blocks = even_part(blocks_, comm_->size(), comm_->rank());
    first_sample_ = even_part(samples_, blocks_, blocks.begin).begin;
    first_row_ = layout.rank_rows(comm_->rank()).begin;
    return layout;
}

template <Real R>
void RowSamples<R>::count_targets(std::vector<Index> counts) {
    comm_->all_reduce(std::span<Index>(counts), Reduce::sum);
    counts_ = counts;
    const auto total =
        std::accumulate(counts.begin(), counts.end(), static_cast<Index>(counts.size()));
    for (const Index n : counts) {
        frequencies_.push_back(
            static_cast<R>(std::log(static_cast<double>(n + 1) / static_cast<double>(total))));
    }
}

template <Real R>
template <class Rows>
RowSamples<R>::RowSamples(const Rows& rows, double scale, const BlockRows<Index>& labels,
                          Index classes, Index blocks)
    : comm_{&rows.comm()}, blocks_{blocks} {
    RANKFOLD_EXPECT(labels.rows() == rows.rows() && blocks > 0);
    std::vector<Index> counts(at(classes), 0);
    comm_->agree([&] {
        for (Index i = 0; i < labels.local().rows(); ++i) {
            const Index label = labels.local()(i, 0);
            if (label < 0 || label >= classes) {
                throw input_error("row ", labels.first_row() + i, " has the label ", label,
                                  ", but there are ", classes,
                                  " classes; give every row a label from 0 on");
            }
            ++counts[at(label)];
        }
    });
    count_targets(std::move(counts));
    std::vector<Index> chosen(at(labels.local().rows()));
    std::iota(chosen.begin(), chosen.end(), labels.first_row());
    const ShardLayout layout = deal(rows.layout(), chosen);
    input_.emplace(rows, layout, scale);
    const BlockRows<Index> mine = redistribute(labels, layout);
    labels_.assign(mine.local().data().begin(), mine.local().data().end());
    sample_rows_.resize(labels_.size());
    std::iota(sample_rows_.begin(), sample_rows_.end(), first_row_);
}

template <Real R>
template <class Rows>
RowSamples<R>::RowSamples(const Rows& rows, double scale, const BlockRowCsr<R>& targets,
                          Index blocks, Loss loss)
    : comm_{&rows.comm()}, blocks_{blocks} {
    RANKFOLD_EXPECT(targets.rows() == rows.rows() && blocks > 0);
    const bool shares = loss == Loss::distribution;
    const auto row_sum = [](const CsrView<R>& matrix, Index i) {
        double sum = 0.0;
        for (const R x : matrix.row_values(i)) sum += static_cast<double>(x);
        return sum;
    };
    std::vector<Index> chosen;
    std::vector<Index> counts(at(targets.cols()), 0);
    const CsrView<R> local = targets.local().view();
    comm_->agree([&] {
        for (Index i = 0; i < local.rows; ++i) {
            for (const R x : local.row_values(i)) {
                if (x >= R{0} || !shares) continue;
                throw input_error("row ", targets.first_row() + i, " has a negative entry (", x,
                                  "), but as a distribution over columns entries must not be "
                                  "negative; use --head rating for ratings");
            }
            if (shares ? row_sum(local, i) > 0.0 : local.row_nnz(i) > 0)
                chosen.push_back(targets.first_row() + i);
        }
    });
    for (const ColIndex j : targets.local().col_idx) ++counts[at(j)];
    count_targets(std::move(counts));
    const ShardLayout layout = deal(rows.layout(), chosen);
    input_.emplace(rows, layout, scale);
    distributions_ = std::move(redistribute(targets, layout).local());
    for (Index i = 0; i < distributions_.rows(); ++i) {
        const double sum = shares ? row_sum(distributions_.view(), i) : 1.0;
        if (!(sum > 0.0) || distributions_.view().row_nnz(i) == 0) continue;
        sample_rows_.push_back(first_row_ + i);
        for (Index e = distributions_.row_ptr[at(i)]; e < distributions_.row_ptr[at(i) + 1]; ++e) {
            R& x = distributions_.values[at(e)];
            x = static_cast<R>(static_cast<double>(x) / sum);
        }
    }
}

template <Real R>
void RowSamples<R>::fill(MicroBatch<R>& batch) const {
    batch.targets.labels.clear();
    batch.targets.weights.clear();
    batch.targets.distributions.clear();
    for (std::size_t i = 0; i < batch.samples.size(); ++i) {
        const auto sample = at(batch.samples[i] - first_sample_);
        const Index row = sample_rows_[sample];
        input_->copy_row(row, batch.inputs.front().row(static_cast<Index>(i)));
        if (!labels_.empty()) {
            batch.targets.labels.push_back(labels_[sample]);
            if (!class_weights_.empty()) {
                batch.targets.weights.push_back(class_weights_[at(labels_[sample])]);
            }
        } else {
            const CsrView<R> view = distributions_.view();
            batch.targets.distributions.push_back(
                {view.row_cols(row - first_row_), view.row_values(row - first_row_)});
        }
    }
}

template <Real R>
PairSamples<R>::PairSamples(const BlockRowCsr<R>& entries, const BlockRows<R>& x,
                            const BlockRows<R>& y, Index blocks)
    : comm_{&entries.comm()}, blocks_{blocks}, samples_{entries.nnz()}, y_{gather_all(y)} {
    RANKFOLD_EXPECT(x.rows() == entries.rows() && y.rows() == entries.cols() && blocks > 0);
    if (samples_ == 0) {
        throw Error(Fault::input, "there is nothing to learn from: the matrix has no entries",
                    true);
    }
    std::vector<Index> begins{0};
    for (const Index n : comm_->all_gather(entries.local().nnz())) {
        begins.push_back(begins.back() + n);
    }
    const ShardLayout held(std::move(begins), comm_->size());
    BlockRows<Index> pairs(*comm_, held, 2);
    BlockRows<R> values(*comm_, held, 1);
    const CsrView<R> local = entries.local().view();
    Index sample = 0;
    for (Index i = 0; i < local.rows; ++i) {
        for (std::size_t e = 0; e < local.row_cols(i).size(); ++e) {
            pairs.local()(sample, 0) = entries.first_row() + i;
            pairs.local()(sample, 1) = local.row_cols(i)[e];
            values.local()(sample++, 0) = local.row_values(i)[e];
        }
    }
    const ShardLayout layout = ShardLayout::even(samples_, blocks, comm_->size());
    pairs_ = std::move(redistribute(pairs, layout).local());
    values_ = std::move(redistribute(values, layout).local());
    first_sample_ = layout.rank_rows(comm_->rank()).begin;

    std::vector<Index> needed;
    for (Index i = 0; i < pairs_.rows(); ++i) {
        if (needed.empty() || needed.back() != pairs_(i, 0)) needed.push_back(pairs_(i, 0));
    }
    const RowExchange exchange(*comm_, x.layout(), ExchangeScheme::needed, std::move(needed));
    x_ = DenseMatrix<R>(exchange.buffer_rows(), x.cols());
    exchange.gather(x, x_.view());
    for (Index i = 0; i < pairs_.rows(); ++i) pairs_(i, 0) = exchange.position(pairs_(i, 0));
}

template <Real R>
void PairSamples<R>::fill(MicroBatch<R>& batch) const {
    batch.targets.values.clear();
    for (std::size_t i = 0; i < batch.samples.size(); ++i) {
        const Index sample = batch.samples[i] - first_sample_;
        const auto out = batch.inputs.front().row(static_cast<Index>(i));
        const auto rest = std::ranges::copy(x_.row(pairs_(sample, 0)), out.begin()).out;
        std::ranges::copy(y_.row(pairs_(sample, 1)), rest);
        batch.targets.values.push_back(values_(sample, 0));
    }
}

template <Real R>
double PairSamples<R>::mean() const {
    std::vector<double> sums;
    const Range mine = even_part(blocks_, comm_->size(), comm_->rank());
    for (Index b = mine.begin; b < mine.end; ++b) {
        const Range block = even_part(samples_, blocks_, b);
        double sum = 0.0;
        for (Index i = block.begin; i < block.end; ++i) {
            sum += static_cast<double>(values_(i - first_sample_, 0));
        }
        sums.push_back(sum);
    }
    return reproducible_sum(*comm_, sums) / static_cast<double>(samples_);
}

#define RANKFOLD_INSTANTIATE(R)                                                                   \
    template ColumnScale<R> column_scale(const BlockRows<R>&);                                    \
    template ColumnScale<R> column_scale(const BlockRowCsr<R>&);                                  \
    template class InputRows<R>;                                                                  \
    template class RowSamples<R>;                                                                 \
    template class PairSamples<R>;                                                                \
    template RowSamples<R>::RowSamples(const BlockRows<R>&, double, const BlockRows<Index>&,      \
                                       Index, Index);                                             \
    template RowSamples<R>::RowSamples(const BlockRowCsr<R>&, double, const BlockRows<Index>&,    \
                                       Index, Index);                                             \
    template RowSamples<R>::RowSamples(const BlockRows<R>&, double, const BlockRowCsr<R>&, Index, \
                                       Loss);                                                     \
    template RowSamples<R>::RowSamples(const BlockRowCsr<R>&, double, const BlockRowCsr<R>&,      \
                                       Index, Loss);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
