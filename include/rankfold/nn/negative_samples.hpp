// Entries of a matrix as samples, beside pairs without an entry that are drawn anew every epoch.
#pragma once

#include <vector>

#include <rankfold/dist/block_rows.hpp>
#include <rankfold/nn/samples.hpp>

namespace rankfold {

/// How pairs without an entry stand beside the entries.
enum class NegativeUse {
    labelled,  ///< every entry and every pair is a sample, with target 1 or 0: Loss::logistic
    ranked,    ///< a sample is two rows, an entry and a pair: Loss::ranking
};

/// Samples for a network with the index inputs "row" and "column".
///
/// Every entry (i, j) comes with `negatives` pairs (i, j') in which row i has no entry: j' is drawn
/// uniformly by Philox, keyed by seed, epoch and the sample's number, so it is the same on any
/// number of ranks, and no table of negatives is kept.
template <Real R>
class NegativeSamples {
public:
    /// @param entries  m x n; its values do not matter
    /// @collective over entries.comm()
    /// @throws Error (Fault::input), agreed: no entries, or a row with an entry in every column
    NegativeSamples(const BlockRowCsr<R>& entries, Index negatives, NegativeUse use, Index blocks,
                    std::uint64_t seed);

    [[nodiscard]] const Communicator& comm() const { return *comm_; }
    [[nodiscard]] Index samples() const { return samples_; }
    [[nodiscard]] Index blocks() const { return blocks_; }
    [[nodiscard]] Index rows_per_sample() const { return use_ == NegativeUse::ranked ? 2 : 1; }
    void fill(MicroBatch<R>& batch) const;

private:
    void bring_rows(const BlockRowCsr<R>& entries);
    [[nodiscard]] Index draw(Index row, Index sample, Index epoch) const;

    const Communicator* comm_;
    Index negatives_;
    NegativeUse use_;
    Index blocks_;
    std::uint64_t seed_;
    Index per_entry_ = 1;  // samples of an entry
    Index samples_ = 0;
    Index first_row_ = 0;        // of the rows below: those of this rank's samples
    Index first_entry_ = 0;      // number of their first entry
    CsrMatrix<R> rows_;          // all entries of these rows; without values
    std::vector<Index> row_of_;  // of every entry: the row in rows_
};

extern template class NegativeSamples<float>;
extern template class NegativeSamples<double>;

}  // namespace rankfold
