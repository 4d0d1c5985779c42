#include <rankfold/hybrid/entry_samples.hpp>

#include <algorithm>
#include <cmath>

#include <rankfold/core/random.hpp>
#include <rankfold/core/subscript.hpp>

namespace rankfold {

template <Real R>
EntrySamples<R>::EntrySamples(const BlockRowCsr<R>& entries, Index blocks)
    : comm_{&entries.comm()}, blocks_{blocks}, samples_{entries.nnz()} {
    if (samples_ == 0) {
        throw Error(Fault::input, "there is nothing to learn from: the matrix has no entries",
                    true);
    }
    const auto& local = entries.local();
    std::vector<Index> begins{0};
    for (const Index n : comm_->all_gather(local.nnz())) begins.push_back(begins.back() + n);
    held_ = ShardLayout(std::move(begins), comm_->size());
    dealt_ = ShardLayout::even(samples_, blocks, comm_->size());
    std::vector<Index> rows;
    rows.reserve(local.col_idx.size());
    for (Index i = 0; i < local.rows(); ++i) {
        rows.insert(rows.end(), at(local.view().row_nnz(i)), entries.first_row() + i);
    }
    rows_ = deal(std::span<const Index>(rows));
    const std::vector<Index> cols(local.col_idx.begin(), local.col_idx.end());
    cols_ = deal(std::span<const Index>(cols));
}

template <Real R>
template <class T>
std::vector<T> EntrySamples<R>::deal(std::span<const T> of_entries) const {
    BlockRows<T> held(*comm_, held_, 1);
    RANKFOLD_EXPECT(of_entries.size() == held.local().data().size());
    std::ranges::copy(of_entries, held.local().data().begin());
    const BlockRows<T> dealt = redistribute(held, dealt_);
    const auto data = dealt.local().data();
    return {data.begin(), data.end()};
}

template <Real R>
void EntrySamples<R>::fill(MicroBatch<R>& batch) const {
    const Index first = dealt_.rank_rows(comm_->rank()).begin;
    Targets<R>& targets = batch.targets;
    targets.values.clear();
    targets.weights.clear();
    for (std::size_t i = 0; i < batch.samples.size(); ++i) {
        const auto sample = at(batch.samples[i] - first);
        batch.indices[0][i] = rows_[sample];
        batch.indices[1][i] = cols_[sample];
        targets.values.push_back(targets_[sample]);
        if (!weights_.empty()) targets.weights.push_back(weights_[sample]);
    }
}

template <Real R>
void evaluate_entries(const Network<R>& network, const BlockRowCsr<R>& entries, Index threads,
                      std::span<R> out) {
    constexpr Index tile = 512;
    const CsrMatrix<R>& local = entries.local();
    RANKFOLD_EXPECT(out.size() == local.col_idx.size() && network.outputs() == 1);
    const Range shards = entries.shards();
#pragma omp parallel num_threads(static_cast <int>(threads))
    {
        Workspace<R> ws = network.workspace(tile, Purpose::inference);
#pragma omp for schedule(dynamic)
        for (Index s = shards.begin; s < shards.end; ++s) {
            const Range rows = entries.layout().shard_rows(s);
            Index row = rows.begin - entries.first_row();
            const Index end = local.row_ptr[at(rows.end - entries.first_row())];
            for (Index e = local.row_ptr[at(row)]; e < end; e += tile) {
                ws.rows = std::min(tile, end - e);
                for (Index t = 0; t < ws.rows; ++t) {
                    while (local.row_ptr[at(row) + 1] <= e + t) ++row;
                    ws.indices[0][at(t)] = entries.first_row() + row;
                    ws.indices[1][at(t)] = local.col_idx[at(e + t)];
                }
                network.forward(ws);
                const auto z = network.output(ws);
                for (Index t = 0; t < ws.rows; ++t) out[at(e + t)] = z(t, 0);
            }
        }
    }
}

template <Real R>
BlockRowCsr<R> with_zeros(const BlockRowCsr<R>& a, double share, std::uint64_t seed, Index epoch) {
    const Philox random(seed, Stream::negatives);
    CsrMatrix<R> local;
    local.cols = a.cols();
    const CsrView<R> rows = a.local().view();
    std::vector<std::pair<ColIndex, R>> row;
    std::vector<char> taken(at(a.cols()), 0);
    for (Index i = 0; i < rows.rows; ++i) {
        row.clear();
        const auto cols = rows.row_cols(i);
        for (std::size_t e = 0; e < cols.size(); ++e) {
            row.emplace_back(cols[e], rows.row_values(i)[e]);
        }
        const auto room = (a.cols() - rows.row_nnz(i)) / 2;
        const auto wanted = std::min<Index>(
            room, static_cast<Index>(std::llround(share * static_cast<double>(cols.size()))));
        for (const ColIndex j : cols) taken[at(j)] = 1;
        const Index first_draw = epoch << 32;
        for (Index draw = 0; std::ssize(row) < std::ssize(cols) + wanted; ++draw) {
            const auto j =
                static_cast<ColIndex>(random.below(a.cols(), a.first_row() + i, first_draw + draw));
            if (taken[at(j)] != 0) continue;
            taken[at(j)] = 1;
            row.emplace_back(j, R{0});
        }
        std::ranges::sort(row, {}, &std::pair<ColIndex, R>::first);
        for (const auto& [j, v] : row) {
            taken[at(j)] = 0;
            local.col_idx.push_back(j);
            local.values.push_back(v);
        }
        local.row_ptr.push_back(local.nnz());
    }
    return {a.comm(), a.layout(), std::move(local)};
}

template class EntrySamples<float>;
template class EntrySamples<double>;
template void evaluate_entries(const Network<float>&, const BlockRowCsr<float>&, Index,
                               std::span<float>);
template void evaluate_entries(const Network<double>&, const BlockRowCsr<double>&, Index,
                               std::span<double>);

template BlockRowCsr<float> with_zeros(const BlockRowCsr<float>&, double, std::uint64_t, Index);
template BlockRowCsr<double> with_zeros(const BlockRowCsr<double>&, double, std::uint64_t, Index);

}  // namespace rankfold
