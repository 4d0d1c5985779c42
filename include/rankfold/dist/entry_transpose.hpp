// What is known of the entries of A, in the order of the entries of Aᵀ.
#pragma once

#include <vector>

#include <rankfold/dist/block_rows.hpp>

namespace rankfold {

/// Brings one number for every stored entry of A to where Aᵀ holds that entry, again and again,
/// without the indices that transpose() sends. Both matrices are borrowed.
template <Real R>
class EntryTranspose {
public:
    /// @param transposed  transpose(a)
    EntryTranspose(const BlockRowCsr<R>& a, const BlockRowCsr<R>& transposed);

    /// @param from  of every local entry of A, in the entries' order
    /// @param to    of every local entry of Aᵀ
    /// @collective over a.comm()
    /// @cost bytes per rank: one number per local entry whose column lives elsewhere
    void apply(std::span<const R> from, std::span<R> to) const;

private:
    const BlockRowCsr<R>* a_;
    const BlockRowCsr<R>* transposed_;
    std::vector<Index> first_;        // of every column: its place among what this rank sends
    std::vector<Index> send_counts_;  // entries, to every rank
    std::vector<Index> recv_counts_;
};

extern template class EntryTranspose<float>;
extern template class EntryTranspose<double>;

}  // namespace rankfold
