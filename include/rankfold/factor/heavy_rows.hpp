// Rows with so many entries that their normal equations are summed in pieces.
#pragma once

#include <functional>
#include <vector>

#include <rankfold/dist/block_rows.hpp>
#include <rankfold/factor/row_solver.hpp>

namespace rankfold {

/// The rows of one side with more entries than a threshold, and their normal equations
///
///     N_i = Σ_j w_ij y_j y_jᵀ,   r_i = Σ_j b_ij y_j
///
/// summed in a fixed binary tree over the shards of the fixed side (see tree_halves), so that the
/// sums have the same bits wherever the pieces were made: at the row's owner, who then needs the
/// factors of all of the row's columns; or where those factors live, from Aᵀ, whereupon only the
/// partial sums travel, k (k + 3) / 2 words for every node of the tree that a rank holds.
///
/// Both matrices are borrowed.
///
/// @see "factor rows or normal equations": a rank that holds s entries of a row does better to send
///      s factor rows if s < (k + 3) / 2, else one partial sum
template <Real R>
class HeavyRows {
public:
    /// A set of entries of one row in one shard of the fixed side.
    struct Piece {
        Index heavy;  ///< which heavy row, in global order
        Index shard;  ///< of the fixed side
        Range entries;
    };

    /// @param threshold  rows with more entries are heavy
    /// @param transposed Aᵀ with the fixed side's layout: pieces are made where the factors live;
    ///                   or nullptr: at the rows' owners
    /// @collective over a.comm()
    HeavyRows(const BlockRowCsr<R>& a, const ShardLayout& fixed, Index threshold,
              const BlockRowCsr<R>* transposed);

    [[nodiscard]] bool none() const noexcept { return rows_.empty(); }
    [[nodiscard]] bool is_heavy(Index global_row) const;
    /// All heavy rows, increasing: the same on all ranks.
    [[nodiscard]] const std::vector<Index>& rows() const noexcept { return rows_; }
    /// Heavy rows that this rank owns.
    [[nodiscard]] Range own() const noexcept { return own_; }
    /// This rank's pieces, by row and shard. `columns` index the fixed side's buffer, or, if pieces
    /// are made where the factors live, this rank's rows of the fixed side.
    [[nodiscard]] const std::vector<Piece>& pieces() const noexcept { return pieces_; }
    [[nodiscard]] std::span<const ColIndex> columns() const noexcept { return cols_; }
    [[nodiscard]] std::span<const R> values() const noexcept { return values_; }
    [[nodiscard]] bool remote() const noexcept { return remote_; }

    /// N and r of the own heavy rows, k x padded(k) upper triangles each followed by padded(k)
    /// elements of r.
    /// @param add  adds a piece to such a system; called from several threads
    /// @collective over a.comm()
    void sum(Index k, Index threads, const std::function<void(const Piece&, std::span<R>)>& add,
             AlignedVector<R>& systems);

    /// Bytes that all ranks together send in one sum().
    [[nodiscard]] double bytes(Index k) const;

private:
    struct Message {
        Index heavy;
        Range node;
    };

    void take_own(const BlockRowCsr<R>& a, const ShardLayout& fixed);
    void take_from(const BlockRowCsr<R>& transposed);
    void plan(int p, int rank);
    void sum_pieces(const Message& message,
                    const std::function<void(const Piece&, std::span<R>)>& add,
                    std::span<R> out) const;

    const Communicator* comm_;
    ShardLayout fixed_;
    bool remote_;
    std::vector<Index> rows_;
    std::vector<int> owner_;  // of every heavy row
    Range own_{0, 0};
    std::vector<Piece> pieces_;
    std::vector<Index> first_piece_;  // of every heavy row, and the end
    std::vector<ColIndex> cols_;
    std::vector<R> values_;
    std::vector<Message> sends_;                    // remote: in the order of their receivers
    std::vector<Index> send_counts_, recv_counts_;  // messages from and to every rank
    std::vector<Message> receives_;                 // in the order of arrival
};

extern template class HeavyRows<float>;
extern template class HeavyRows<double>;

}  // namespace rankfold
