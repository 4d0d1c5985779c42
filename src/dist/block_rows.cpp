#include <rankfold/dist/block_rows.hpp>

#include <algorithm>
#include <numeric>

#include <rankfold/comm/reproducible_sum.hpp>
#include <rankfold/linalg/blas.hpp>

namespace rankfold {

namespace {

std::size_t at(Index i) {
    return static_cast<std::size_t>(i);
}

/// For rows that move from layout `from` to `to`: how many of this rank's rows go to every rank.
std::vector<Index> overlaps(const ShardLayout& from, const ShardLayout& to, int rank) {
    const Range mine = from.rank_rows(rank);
    std::vector<Index> counts;
    for (int q = 0; q < to.ranks(); ++q) {
        const Range theirs = to.rank_rows(q);
        counts.push_back(std::max<Index>(
            0, std::min(mine.end, theirs.end) - std::max(mine.begin, theirs.begin)));
    }
    return counts;
}

std::vector<Index> times(std::vector<Index> counts, Index factor) {
    for (Index& n : counts) n *= factor;
    return counts;
}

}  // namespace

ShardLayout balanced_layout(const Communicator& comm, Index rows, Index first,
                            std::span<const Index> counts) {
    std::vector<Index> prefix(counts.size() + 1, 0);
    std::inclusive_scan(counts.begin(), counts.end(), prefix.begin() + 1);
    const Index before = comm.exclusive_scan(prefix.back());
    for (Index& n : prefix) n += before;
    const Index nnz = comm.all_reduce(prefix.back(), Reduce::max);
    std::vector<Index> begins(at(shard_count(nnz)) + 1, 0);
    mark_shard_boundaries(prefix, first, rows, nnz, begins);
    comm.all_reduce(std::span<Index>(begins), Reduce::max);
    return {std::move(begins), comm.size()};
}

template <Real R>
BlockRowCsr<R> assemble(const Communicator& comm, const ShardLayout& layout, Index cols,
                        std::vector<Triplet<R>> triplets) {
    std::vector<Index> send_counts(at(comm.size()), 0);
    std::vector<int> owners;
    owners.reserve(triplets.size());
    for (const auto& t : triplets) {
        owners.push_back(layout.owner(t.row));
        ++send_counts[at(owners.back())];
    }
    std::vector<Index> next(send_counts.size(), 0);
    std::exclusive_scan(send_counts.begin(), send_counts.end(), next.begin(), Index{0});
    std::vector<Triplet<R>> ordered(triplets.size());
    for (std::size_t e = 0; e < triplets.size(); ++e) {
        ordered[at(next[at(owners[e])]++)] = triplets[e];
    }
    triplets = {};
    owners = {};
    const auto received = comm.all_to_all(std::span<const Triplet<R>>(ordered), send_counts);
    ordered = {};

    const Range mine = layout.rank_rows(comm.rank());
    CsrMatrix<R> local;
    local.cols = cols;
    local.row_ptr.assign(at(mine.size()) + 1, 0);
    for (const auto& t : received) ++local.row_ptr[at(t.row - mine.begin) + 1];
    std::partial_sum(local.row_ptr.begin(), local.row_ptr.end(), local.row_ptr.begin());
    local.col_idx.resize(received.size());
    local.values.resize(received.size());
    std::vector<Index> fill(local.row_ptr.begin(), local.row_ptr.end() - 1);
    for (const auto& t : received) {
        const auto to = at(fill[at(t.row - mine.begin)]++);
        local.col_idx[to] = t.col;
        local.values[to] = t.value;
    }
    std::vector<std::pair<ColIndex, R>> row;
    for (Index i = 0; i < mine.size(); ++i) {
        const auto begin = at(local.row_ptr[at(i)]);
        const auto end = at(local.row_ptr[at(i) + 1]);
        if (std::is_sorted(local.col_idx.begin() + static_cast<std::ptrdiff_t>(begin),
                           local.col_idx.begin() + static_cast<std::ptrdiff_t>(end))) {
            continue;
        }
        row.clear();
        for (auto e = begin; e < end; ++e) row.emplace_back(local.col_idx[e], local.values[e]);
        std::ranges::stable_sort(row, {}, &std::pair<ColIndex, R>::first);
        for (auto e = begin; e < end; ++e) {
            std::tie(local.col_idx[e], local.values[e]) = row[e - begin];
        }
    }
    return {comm, layout, std::move(local)};
}

namespace {

/// The transpose of this rank's rows alone, by counting sort: rows are all global columns, column
/// indices are global rows.
template <Real R>
CsrMatrix<R> transpose_local(const BlockRowCsr<R>& a) {
    const auto& local = a.local();
    CsrMatrix<R> result;
    result.cols = a.rows();
    result.row_ptr.assign(at(a.cols()) + 1, 0);
    for (const ColIndex j : local.col_idx) ++result.row_ptr[at(j) + 1];
    std::partial_sum(result.row_ptr.begin(), result.row_ptr.end(), result.row_ptr.begin());
    result.col_idx.resize(local.col_idx.size());
    result.values.resize(local.values.size());
    // first into buckets of columns, then within each, so that both passes write where the cache is
    constexpr Index width = 256;
    std::vector<Index> fill;
    for (Index j = 0; j < a.cols(); j += width) fill.push_back(result.row_ptr[at(j)]);
    struct Place {
        ColIndex col, row;
    };
    AlignedVector<Place> places(local.col_idx.size());
    AlignedVector<R> values(local.values.size());
    const Index first = a.first_row();
    for (Index i = 0; i < local.rows(); ++i) {
        for (Index e = local.row_ptr[at(i)]; e < local.row_ptr[at(i) + 1]; ++e) {
            const ColIndex j = local.col_idx[at(e)];
            const auto to = at(fill[at(j / width)]++);
            places[to] = {j, static_cast<ColIndex>(first + i)};
            values[to] = local.values[at(e)];
        }
    }
    std::vector<Index> next(result.row_ptr.begin(), result.row_ptr.end() - 1);
    for (std::size_t e = 0; e < places.size(); ++e) {
        const auto to = at(next[at(places[e].col)]++);
        result.col_idx[to] = places[e].row;
        result.values[to] = values[e];
    }
    return result;
}

/// Exchanges one array of a transpose: `mine` holds this rank's part of every row of the result,
/// and each owner gets all ranks' parts of its rows, row by row in rank order.
///
/// @param counts   entries that go to every rank
/// @param lengths  lengths[q][i]: rank q's entries in row i of this rank
template <class T>
std::vector<T> merge_parts(const Communicator& comm, std::vector<T> mine,
                           const std::vector<Index>& counts,
                           const std::vector<std::span<const Index>>& lengths) {
    const auto received = comm.all_to_all(std::span<const T>(mine), counts);
    mine = {};
    std::vector<T> merged;
    merged.reserve(received.size());
    std::vector<Index> next;
    Index total = 0;
    for (const auto& part : lengths) {
        next.push_back(total);
        total = std::accumulate(part.begin(), part.end(), total);
    }
    for (std::size_t i = 0; i < lengths.front().size(); ++i) {
        for (std::size_t q = 0; q < lengths.size(); ++q) {
            const auto from = received.begin() + next[q];
            merged.insert(merged.end(), from, from + lengths[q][i]);
            next[q] += lengths[q][i];
        }
    }
    return merged;
}

}  // namespace

template <Real R>
BlockRowCsr<R> transpose(const BlockRowCsr<R>& a) {
    const Communicator& comm = a.comm();
    CsrMatrix<R> part = transpose_local(a);
    std::vector<Index> lengths(at(a.cols()));
    for (Index j = 0; j < a.cols(); ++j) lengths[at(j)] = part.view().row_nnz(j);
    std::vector<Index> totals = lengths;
    comm.all_reduce(std::span<Index>(totals), Reduce::sum);
    const Range piece = even_part(a.cols(), comm.size(), comm.rank());
    ShardLayout layout =
        balanced_layout(comm, a.cols(), piece.begin,
                        std::span<const Index>(totals).subspan(at(piece.begin), at(piece.size())));
    totals = {};
    if (comm.size() == 1) return {comm, std::move(layout), std::move(part)};

    std::vector<Index> entry_counts;
    for (int q = 0; q < comm.size(); ++q) {
        const Range rows = layout.rank_rows(q);
        entry_counts.push_back(part.row_ptr[at(rows.end)] - part.row_ptr[at(rows.begin)]);
    }
    const auto all_lengths =
        comm.all_to_all(std::span<const Index>(lengths), layout.rank_row_counts());
    const auto rows = at(layout.rank_rows(comm.rank()).size());
    std::vector<std::span<const Index>> by_rank;
    for (int q = 0; q < comm.size(); ++q) {
        by_rank.push_back(std::span<const Index>(all_lengths).subspan(at(q) * rows, rows));
    }
    CsrMatrix<R> local;
    local.cols = a.rows();
    local.row_ptr.assign(rows + 1, 0);
    for (std::size_t i = 0; i < rows; ++i) {
        local.row_ptr[i + 1] = local.row_ptr[i];
        for (const auto& from : by_rank) local.row_ptr[i + 1] += from[i];
    }
    local.col_idx = merge_parts(comm, std::move(part.col_idx), entry_counts, by_rank);
    local.values = merge_parts(comm, std::move(part.values), entry_counts, by_rank);
    return {comm, std::move(layout), std::move(local)};
}

template <Real R>
BlockRows<R> transpose(const BlockRows<R>& a) {
    const Communicator& comm = a.comm();
    const ShardLayout layout =
        ShardLayout::even(a.cols(), shard_count(a.rows() * a.cols()), comm.size());
    // to rank q: its columns, each with all of this rank's rows
    std::vector<R> send;
    send.reserve(a.local().data().size());
    std::vector<Index> send_counts;
    for (int q = 0; q < comm.size(); ++q) {
        const Range cols = layout.rank_rows(q);
        for (Index j = cols.begin; j < cols.end; ++j) {
            for (Index i = 0; i < a.local().rows(); ++i) send.push_back(a.local()(i, j));
        }
        send_counts.push_back(cols.size() * a.local().rows());
    }
    const auto received = comm.all_to_all(std::span<const R>(send), send_counts);
    BlockRows<R> result(comm, layout, a.rows());
    auto from = received.begin();
    for (int q = 0; q < comm.size(); ++q) {
        const Range rows = a.layout().rank_rows(q);
        for (Index j = 0; j < result.local().rows(); ++j) {
            std::copy_n(from, rows.size(), result.local().row(j).begin() + rows.begin);
            from += rows.size();
        }
    }
    return result;
}

template <class T>
BlockRows<T> redistribute(const BlockRows<T>& a, const ShardLayout& layout) {
    RANKFOLD_EXPECT(layout.rows() == a.rows());
    const Communicator& comm = a.comm();
    BlockRows<T> result(comm, layout, a.cols());
    comm.all_to_all(a.local().data(), times(overlaps(a.layout(), layout, comm.rank()), a.cols()),
                    result.local().data(),
                    times(overlaps(layout, a.layout(), comm.rank()), a.cols()));
    return result;
}

template <Real R>
BlockRowCsr<R> redistribute(const BlockRowCsr<R>& a, const ShardLayout& layout) {
    RANKFOLD_EXPECT(layout.rows() == a.rows());
    const Communicator& comm = a.comm();
    const auto& local = a.local();
    const std::vector<Index> row_counts = overlaps(a.layout(), layout, comm.rank());
    std::vector<Index> lengths;
    for (Index i = 0; i < local.rows(); ++i) lengths.push_back(local.view().row_nnz(i));
    std::vector<Index> entry_counts;
    Index row = 0;
    for (const Index n : row_counts) {
        entry_counts.push_back(local.row_ptr[at(row + n)] - local.row_ptr[at(row)]);
        row += n;
    }
    const auto new_lengths = comm.all_to_all(std::span<const Index>(lengths), row_counts);
    CsrMatrix<R> moved;
    moved.cols = a.cols();
    moved.row_ptr.resize(new_lengths.size() + 1);
    std::inclusive_scan(new_lengths.begin(), new_lengths.end(), moved.row_ptr.begin() + 1);
    moved.col_idx = comm.all_to_all(std::span<const ColIndex>(local.col_idx), entry_counts);
    moved.values = comm.all_to_all(std::span<const R>(local.values), entry_counts);
    return {comm, layout, std::move(moved)};
}

template <class T>
DenseMatrix<T> gather_all(const BlockRows<T>& a) {
    DenseMatrix<T> whole(a.rows(), a.cols());
    a.comm().all_gather(a.local().data(), times(a.layout().rank_row_counts(), a.cols()),
                        whole.data());
    return whole;
}

template <Real R>
DenseMatrix<double> gram(const BlockRows<R>& a) {
    const Index k = a.cols();
    double largest = 0.0;
    for (const R x : a.local().data()) {
        largest = std::isfinite(x) ? std::max(largest, std::abs(static_cast<double>(x)))
                                   : std::numeric_limits<double>::infinity();
    }
    largest = a.comm().all_reduce(largest, Reduce::max);
    ExactSum sum(at(k * k), largest * largest * static_cast<double>(a.rows()));
    DenseMatrix<R> part(k, k);
    std::vector<double> terms(at(k * k));
    const Range shards = a.shards();
    for (Index s = shards.begin; s < shards.end; ++s) {
        if (a.shard(s).rows == 0) continue;
        gram_upper<R>(R{1}, a.shard(s), R{0}, part.view());
        std::ranges::copy(part.data(), terms.begin());
        sum.add(terms);
    }
    DenseMatrix<double> result(k, k);
    reproducible_sum(a.comm(), sum, result.data());
    return result;
}

#define RANKFOLD_INSTANTIATE(R)                                                      \
    template BlockRowCsr<R> assemble(const Communicator&, const ShardLayout&, Index, \
                                     std::vector<Triplet<R>>);                       \
    template BlockRowCsr<R> transpose(const BlockRowCsr<R>&);                        \
    template BlockRows<R> transpose(const BlockRows<R>&);                            \
    template BlockRows<R> redistribute(const BlockRows<R>&, const ShardLayout&);     \
    template BlockRowCsr<R> redistribute(const BlockRowCsr<R>&, const ShardLayout&); \
    template DenseMatrix<R> gather_all(const BlockRows<R>&);                         \
    template DenseMatrix<double> gram(const BlockRows<R>&);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE
template BlockRows<Index> redistribute(const BlockRows<Index>&, const ShardLayout&);
template DenseMatrix<Index> gather_all(const BlockRows<Index>&);

}  // namespace rankfold
