#include "cyclic_matrix.hpp"

#include <algorithm>
#include <exception>

#include <rankfold/core/subscript.hpp>

extern "C" {
int Csys2blacs_handle(MPI_Comm comm);
void Cfree_blacs_system_handle(int handle);
void Cblacs_gridinit(int* context, const char* order, int rows, int cols);
void Cblacs_gridexit(int context);
void descinit_(int* desc, const int* m, const int* n, const int* mb, const int* nb,
               const int* irsrc, const int* icsrc, const int* context, const int* lld, int* info);
}

namespace rankfold {

namespace {

/// The indices of [0, count) that fall to a place, increasing.
std::vector<Index> indices(Index count, Index block, int place, int places) {
    std::vector<Index> found;
    for (Index first = place * block; first < count; first += places * block) {
        for (Index i = first; i < std::min(first + block, count); ++i) found.push_back(i);
    }
    return found;
}

/// The part of increasing `indices` that lies in a range, as positions.
Range positions_in(const std::vector<Index>& indices, Range range) {
    const auto begin = std::ranges::lower_bound(indices, range.begin);
    const auto end = std::ranges::lower_bound(indices, range.end);
    return {begin - indices.begin(), std::max<Index>(0, end - begin) + (begin - indices.begin())};
}

}  // namespace

Index cyclic_count(Index count, Index block, int place, int places) {
    const Index whole = count / block;
    Index mine = whole / places * block;
    const Index extra = whole % places;
    if (place < extra) mine += block;
    if (place == extra) mine += count % block;
    return mine;
}

BlacsGrid::BlacsGrid(const Communicator& comm, int rows, int cols)
    : comm_{&comm},
      rows_{rows},
      cols_{cols},
      system_{Csys2blacs_handle(comm.native())},
      context_{system_},
      uncaught_at_start_{std::uncaught_exceptions()} {
    RANKFOLD_EXPECT(rows * cols == comm.size());
    Cblacs_gridinit(&context_, "Row", rows, cols);
}

BlacsGrid::~BlacsGrid() {
    if (std::uncaught_exceptions() > uncaught_at_start_) return;
    Cblacs_gridexit(context_);
    Cfree_blacs_system_handle(system_);
}

template <Real R>
CyclicMatrix<R>::CyclicMatrix(const BlacsGrid& grid, Index rows, Index cols, Index block)
    : grid_{&grid},
      rows_{rows},
      cols_{cols},
      block_{block},
      row_of_{indices(rows, block, grid.row_of(grid.comm().rank()), grid.rows())},
      col_of_{indices(cols, block, grid.col_of(grid.comm().rank()), grid.cols())} {
    leading_ = std::max<Index>(1, local_rows());
    data_.assign(at(leading_ * std::max<Index>(1, local_cols())), R{0});
    const int m = narrow<int>(rows);
    const int n = narrow<int>(cols);
    const int nb = narrow<int>(block);
    const int zero = 0;
    const int lld = narrow<int>(leading_);
    const int context = grid.context();
    int info = 0;
    descinit_(descriptor_.data(), &m, &n, &nb, &nb, &zero, &zero, &context, &lld, &info);
    RANKFOLD_EXPECT(info == 0);
}

template <Real R>
void CyclicMatrix<R>::deal_out_transposed(const BlockRows<R>& x) {
    RANKFOLD_EXPECT(x.rows() == cols_ && x.cols() == rows_);
    const Communicator& comm = grid_->comm();
    const Range mine = x.layout().rank_rows(comm.rank());
    AlignedVector<R> send;
    send.reserve(at(mine.size() * rows_));
    std::vector<Index> send_counts;
    std::vector<Index> recv_counts;
    for (int q = 0; q < comm.size(); ++q) {
        const auto their_cols = indices(cols_, block_, grid_->col_of(q), grid_->cols());
        const auto their_rows = indices(rows_, block_, grid_->row_of(q), grid_->rows());
        const Range from = positions_in(their_cols, mine);
        for (Index t = from.begin; t < from.end; ++t) {
            const auto row = x.local().row(their_cols[at(t)] - mine.begin);
            for (const Index c : their_rows) send.push_back(row[at(c)]);
        }
        send_counts.push_back(from.size() * std::ssize(their_rows));
        recv_counts.push_back(positions_in(col_of_, x.layout().rank_rows(q)).size() * local_rows());
        if (q != comm.rank()) {
            comm.ledger().predict_bytes(static_cast<double>(send_counts.back()) * sizeof(R));
        }
    }
    AlignedVector<R> received(at(local_rows() * local_cols()));
    comm.all_to_all(std::span<const R>(send), send_counts, std::span<R>(received), recv_counts);
    // ranks hold increasing rows of X, so what comes is in the order of the local columns
    if (local_rows() > 0) std::ranges::copy(received, data_.begin());
}

template <Real R>
DenseMatrix<R> CyclicMatrix<R>::lines(Line line, Range range) {
    const Communicator& comm = grid_->comm();
    const bool rows = line == Line::row;
    const Range mine = positions_in(rows ? row_of_ : col_of_, range);
    AlignedVector<R> send;
    send.reserve(at(mine.size() * (rows ? local_cols() : local_rows())));
    for (Index t = mine.begin; t < mine.end; ++t) {
        if (rows) {
            for (Index j = 0; j < local_cols(); ++j) send.push_back(local(t, j));
        } else {
            for (Index i = 0; i < local_rows(); ++i) send.push_back(local(i, t));
        }
    }
    std::vector<std::pair<std::vector<Index>, std::vector<Index>>> theirs;  // of every rank
    std::vector<Index> counts;
    for (int q = 0; q < comm.size(); ++q) {
        auto row_of = indices(rows_, block_, grid_->row_of(q), grid_->rows());
        auto col_of = indices(cols_, block_, grid_->col_of(q), grid_->cols());
        if (!rows) std::swap(row_of, col_of);
        const Range part = positions_in(row_of, range);
        row_of = {row_of.begin() + part.begin, row_of.begin() + part.end};
        counts.push_back(part.size() * std::ssize(col_of));
        theirs.emplace_back(std::move(row_of), std::move(col_of));
    }
    DenseMatrix<R> all(range.size(), rows ? cols_ : rows_);
    AlignedVector<R> received(all.data().size());
    comm.all_gather(std::span<const R>(send), counts, std::span<R>(received));
    comm.ledger().predict_bytes(static_cast<double>(send.size() * sizeof(R)) * (comm.size() - 1));
    auto next = received.begin();
    for (const auto& [line_of, along] : theirs) {
        for (const Index t : line_of) {
            const auto to = all.row(t - range.begin);
            for (const Index i : along) to[at(i)] = *next++;
        }
    }
    return all;
}

template <Real R>
void CyclicMatrix<R>::bring_back(BlockRows<R>& x) {
    RANKFOLD_EXPECT(x.rows() == rows_ && x.cols() == cols_);
    const Communicator& comm = grid_->comm();
    const Range mine = x.layout().rank_rows(comm.rank());
    AlignedVector<R> send;
    send.reserve(at(local_rows() * local_cols()));
    std::vector<Index> send_counts;
    std::vector<Index> recv_counts;
    for (int q = 0; q < comm.size(); ++q) {
        const Range part = positions_in(row_of_, x.layout().rank_rows(q));
        for (Index i = part.begin; i < part.end; ++i) {
            for (Index j = 0; j < local_cols(); ++j) send.push_back(local(i, j));
        }
        send_counts.push_back(part.size() * local_cols());
        recv_counts.push_back(
            positions_in(indices(rows_, block_, grid_->row_of(q), grid_->rows()), mine).size() *
            cyclic_count(cols_, block_, grid_->col_of(q), grid_->cols()));
        if (q != comm.rank()) {
            comm.ledger().predict_bytes(static_cast<double>(send_counts.back()) * sizeof(R));
        }
    }
    AlignedVector<R> received(at(mine.size() * cols_));
    comm.all_to_all(std::span<const R>(send), send_counts, std::span<R>(received), recv_counts);
    auto next = received.begin();
    for (int q = 0; q < comm.size(); ++q) {
        const auto their_rows = indices(rows_, block_, grid_->row_of(q), grid_->rows());
        const auto their_cols = indices(cols_, block_, grid_->col_of(q), grid_->cols());
        const Range part = positions_in(their_rows, mine);
        for (Index i = part.begin; i < part.end; ++i) {
            const auto row = x.local().row(their_rows[at(i)] - mine.begin);
            for (const Index j : their_cols) row[at(j)] = *next++;
        }
    }
}

template class CyclicMatrix<float>;
template class CyclicMatrix<double>;

}  // namespace rankfold
