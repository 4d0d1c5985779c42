// The entries of a matrix as samples of a network that reads their row and column indices.
#pragma once

#include <vector>

#include <rankfold/nn/network.hpp>
#include <rankfold/nn/samples.hpp>

namespace rankfold {

/// Samples that are entries (i, j) in global row-major order; a network with the index inputs
/// "row" and "column" reads them. Targets and weights may change between epochs; they are given in
/// the layout of the matrix and travel to the samples' blocks.
template <Real R>
class EntrySamples {
public:
    /// @param entries  m x n; its values do not matter
    /// @collective over entries.comm()
    EntrySamples(const BlockRowCsr<R>& entries, Index blocks);

    [[nodiscard]] const Communicator& comm() const { return *comm_; }
    [[nodiscard]] Index samples() const { return samples_; }
    [[nodiscard]] Index blocks() const { return blocks_; }
    void fill(MicroBatch<R>& batch) const;

    /// What is set of every local entry, in the entries' order. @collective
    void set_targets(std::span<const R> targets) { targets_ = deal(targets); }
    void set_weights(std::span<const R> weights) { weights_ = deal(weights); }

private:
    template <class T>
    [[nodiscard]] std::vector<T> deal(std::span<const T> of_entries) const;

    const Communicator* comm_;
    Index blocks_;
    Index samples_;
    ShardLayout held_;   // entries as the matrix holds them
    ShardLayout dealt_;  // entries as blocks of samples
    std::vector<Index> rows_;
    std::vector<Index> cols_;
    std::vector<R> targets_;
    std::vector<R> weights_;
};

/// The outputs of a network with index inputs "row" and "column" and one output, for every local
/// entry of a matrix. Not collective; the same bits on any number of ranks and threads.
template <Real R>
void evaluate_entries(const Network<R>& network, const BlockRowCsr<R>& entries, Index threads,
                      std::span<R> out);

/// The matrix with, in every row, further pairs of value 0: `share` for each entry (but at most
/// half of the free places), drawn by counters from the columns without one, others in each epoch.
/// @collective
template <Real R>
[[nodiscard]] BlockRowCsr<R> with_zeros(const BlockRowCsr<R>& a, double share, std::uint64_t seed,
                                        Index epoch = 0);

extern template class EntrySamples<float>;
extern template class EntrySamples<double>;

}  // namespace rankfold
