#include <rankfold/hybrid/tower_samples.hpp>

#include <algorithm>

#include <rankfold/comm/reproducible_sum.hpp>
#include <rankfold/core/subscript.hpp>

namespace rankfold {

namespace {

constexpr Index tile = 256;

}  // namespace

template <Real R>
TowerSamples<R>::TowerSamples(const Communicator& comm, const TowerRows<R>& inputs, Index blocks)
    : comm_{&comm}, inputs_{&inputs}, first_row_{inputs.layout().rank_rows(comm.rank()).begin} {
    RANKFOLD_EXPECT(inputs.layout().shards() == blocks);
}

template <Real R>
void TowerSamples<R>::set_pairs(const BlockRowCsr<R>& pairs, const RowProblem& problem,
                                bool sampled) {
    const ShardLayout& layout = inputs_->layout();
    RANKFOLD_EXPECT(pairs.rows() == layout.rows());
    pairs_ = std::move(redistribute(pairs, layout).local());
    alpha0_ = problem.alpha0;
    b_.clear();
    ridges_.clear();
    constants_.clear();
    for (Index i = 0; i < pairs_.rows(); ++i) {
        double constant = 0.0;
        Index count = 0;
        for (Index e = pairs_.row_ptr[at(i)]; e < pairs_.row_ptr[at(i) + 1]; ++e) {
            const double value = static_cast<double>(pairs_.values[at(e)]);
            const double w = problem.weight(value);
            const double b = problem.target(value);
            constant += problem.entry_loss(value, w, b, 0.0);
            count += !sampled || value > 0.0 ? 1 : 0;
            pairs_.values[at(e)] = static_cast<R>(w);
            b_.push_back(static_cast<R>(b));
        }
        constants_.push_back(constant);
        ridges_.push_back(problem.row_lambda(count));
    }
}

template <Real R>
void TowerSamples<R>::set_other(const BlockRows<R>& other) {
    other_ = gather_all(other);
    if (alpha0_ == 0.0) return;
    const DenseMatrix<double> upper = gram(other);
    all_pairs_ = DenseMatrix<R>(upper.rows(), upper.cols());
    for (Index f = 0; f < upper.rows(); ++f) {
        for (Index g = f; g < upper.cols(); ++g) {
            all_pairs_(f, g) = all_pairs_(g, f) = static_cast<R>(alpha0_ * upper(f, g));
        }
    }
}

template <Real R>
void TowerSamples<R>::add_target(Index row, Targets<R>& targets) const {
    const Index begin = pairs_.row_ptr[at(row)];
    const auto count = at(pairs_.row_ptr[at(row) + 1] - begin);
    targets.pairs.push_back({.columns = pairs_.view().row_cols(row),
                             .w = pairs_.view().row_values(row),
                             .b = std::span<const R>(b_).subspan(at(begin), count),
                             .ridge = ridges_[at(row)],
                             .constant = constants_[at(row)]});
}

template <Real R>
void TowerSamples<R>::fill(MicroBatch<R>& batch) const {
    Targets<R>& targets = batch.targets;
    targets.pairs.clear();
    targets.other = other_.view();
    targets.all_pairs = all_pairs_.view();
    for (std::size_t t = 0; t < batch.samples.size(); ++t) {
        inputs_->read(batch.samples[t], 0, static_cast<Index>(t), batch);
        add_target(batch.samples[t] - first_row_, targets);
    }
}

template <Real R>
double TowerSamples<R>::loss(Loss loss, const BlockRows<R>& factors, double& ridge_part) const {
    std::vector<double> terms;
    Targets<R> targets;
    targets.other = other_.view();
    targets.all_pairs = all_pairs_.view();
    for (Index s = factors.shards().begin; s < factors.shards().end; ++s) {
        const Range shard = factors.layout().shard_rows(s);
        double sum = 0.0;
        for (Index begin = shard.begin; begin < shard.end; begin += tile) {
            const Index end = std::min(begin + tile, shard.end);
            DenseMatrix<R> z(end - begin, factors.cols());
            targets.pairs.clear();
            for (Index row = begin; row < end; ++row) {
                std::ranges::copy(factors.local().row(row - first_row_),
                                  z.row(row - begin).begin());
                add_target(row - first_row_, targets);
            }
            sum += loss_gradient<R>(loss, targets, 1.0, z.view());
        }
        terms.push_back(sum);
    }
    ridge_part = ridge(factors);
    return reproducible_sum(*comm_, terms);
}

template <Real R>
double TowerSamples<R>::ridge(const BlockRows<R>& factors) const {
    std::vector<double> terms;
    for (Index s = factors.shards().begin; s < factors.shards().end; ++s) {
        const Range shard = factors.layout().shard_rows(s);
        double sum = 0.0;
        for (Index row = shard.begin - first_row_; row < shard.end - first_row_; ++row) {
            double square = 0.0;
            for (const R x : factors.local().row(row)) {
                square += static_cast<double>(x) * static_cast<double>(x);
            }
            sum += ridges_[at(row)] * square;
        }
        terms.push_back(sum);
    }
    return reproducible_sum(*comm_, terms);
}

template <Real R>
Index TowerSamples<R>::count(Index row) const {
    return pairs_.row_ptr[at(row) + 1] - pairs_.row_ptr[at(row)];
}

template class TowerSamples<float>;
template class TowerSamples<double>;

}  // namespace rankfold
