#include <rankfold/dist/products.hpp>

#include <algorithm>
#include <bit>
#include <numeric>

#include <rankfold/linalg/sparse_kernels.hpp>
#include <rankfold/linalg/tall_product.hpp>

namespace rankfold {

namespace {

std::size_t at(Index i) {
    return static_cast<std::size_t>(i);
}

/// Rows of `layout` that make up shards [shards.begin, shards.end).
Range rows_of(const ShardLayout& layout, Range shards) {
    const Index begin =
        shards.begin == layout.shards() ? layout.rows() : layout.shard_rows(shards.begin).begin;
    return {begin, shards.size() == 0 ? begin : layout.shard_rows(shards.end - 1).end};
}

/// Columns of A in a block: 16 columns of so many rows of B fill a usual second cache.
template <Real R>
constexpr Index block_width = 65536 / Index{sizeof(R)};

/// Columns that some local entry has, increasing.
template <Real R>
std::vector<Index> columns_met(const CsrMatrix<R>& a) {
    std::vector<char> met(at(a.cols), 0);
    for (const ColIndex j : a.col_idx) met[at(j)] = 1;
    std::vector<Index> columns;
    for (Index j = 0; j < a.cols; ++j) {
        if (met[at(j)] != 0) columns.push_back(j);
    }
    return columns;
}

/// How many of its rows a rank must need for one all_gather of all rows to be the better exchange.
constexpr double nearly_all = 0.8;

template <Real R>
RowExchange plan(const BlockRowCsr<R>& a, const ShardLayout& b) {
    RANKFOLD_EXPECT(b.rows() == a.cols());
    std::vector<Index> needed = columns_met(a.local());
    const Index least = a.comm().all_reduce(static_cast<Index>(needed.size()), Reduce::min);
    if (static_cast<double>(least) >= nearly_all * static_cast<double>(a.cols())) {
        return RowExchange::all(a.comm(), b);
    }
    return {a.comm(), b, ExchangeScheme::needed, std::move(needed)};
}

}  // namespace

template <Real R>
SparseProduct<R>::SparseProduct(const BlockRowCsr<R>& a, const ShardLayout& b, Index threads)
    : a_{&a}, threads_{threads}, exchange_{plan(a, b)} {
    if (exchange_.buffer_rows() < a.cols()) renumber();
    if (exchange_.buffer_rows() > 2 * block_width<R>) cut_into_blocks();
}

/// The entries' columns as positions in the buffer.
template <Real R>
void SparseProduct<R>::renumber() {
    const BlockRowCsr<R>& a = *a_;
    std::vector<ColIndex> position(at(a.cols()));
    const std::vector<Index> needed = columns_met(a.local());
    for (std::size_t p = 0; p < needed.size(); ++p) {
        position[at(needed[p])] = static_cast<ColIndex>(p);
    }
    positions_.reserve(a.local().col_idx.size());
    for (const ColIndex j : a.local().col_idx) positions_.push_back(position[at(j)]);
}

/// Puts the entries of each block of columns together, row by row.
template <Real R>
void SparseProduct<R>::cut_into_blocks() {
    const CsrMatrix<R>& a = a_->local();
    const ColIndex* columns = positions_.empty() ? a.col_idx.data() : positions_.data();
    const Index rows = a.rows();
    blocks_ = (exchange_.buffer_rows() + block_width<R> - 1) / block_width<R>;
    row_ptr_.assign(at(blocks_ * (rows + 1)), 0);
    const auto for_each_run = [&](const auto& run) {  // of a row's entries in one block
        for (Index i = 0; i < rows; ++i) {
            const Index end = a.row_ptr[at(i) + 1];
            for (Index e = a.row_ptr[at(i)]; e < end;) {
                const Index block = columns[e] / block_width<R>;
                const auto beyond =
                    static_cast<ColIndex>(std::min<Index>((block + 1) * block_width<R>, a.cols));
                Index last = e + 1;
                while (last < end && columns[last] < beyond) ++last;
                run(block * (rows + 1) + i, e, last);
                e = last;
            }
        }
    };
    for_each_run([&](Index place, Index e, Index last) { row_ptr_[at(place)] = last - e; });
    std::exclusive_scan(row_ptr_.begin(), row_ptr_.end(), row_ptr_.begin(), Index{0});
    col_idx_.resize(a.col_idx.size());
    values_.resize(a.values.size());
    for_each_run([&](Index place, Index e, Index last) {
        const Index to = row_ptr_[at(place)];
        std::copy(columns + e, columns + last, col_idx_.data() + to);
        std::copy(a.values.data() + e, a.values.data() + last, values_.data() + to);
    });
    positions_ = {};
}

template <Real R>
void SparseProduct<R>::multiply(const BlockRows<R>& b, BlockRows<R>& c) const {
    RANKFOLD_EXPECT(c.layout() == a_->layout() && c.cols() == b.cols());
    MatrixView<const R> rows = b.local().view();
    if (a_->comm().size() > 1 || exchange_.buffer_rows() < a_->cols()) {
        if (buffer_.cols() != b.cols()) {
            buffer_ = DenseMatrix<R>(exchange_.buffer_rows(), b.cols());
        }
        exchange_.gather(b, buffer_.view());
        rows = std::as_const(buffer_).view();
    }
    const Range shards = a_->shards();
#pragma omp parallel for schedule(static) num_threads(static_cast <int>(threads_))
    for (Index t = 0; t < threads_; ++t) {
        const Range part = even_part(shards.size(), threads_, t);
        Range mine = rows_of(a_->layout(), {shards.begin + part.begin, shards.begin + part.end});
        mine = {mine.begin - a_->first_row(), mine.end - a_->first_row()};
        const MatrixView<R> into = c.local().view().row_block(mine);
        if (blocks_ == 1) {
            CsrView<R> all = a_->local().view().row_block(mine);
            if (!positions_.empty()) all.col_idx = positions_.data();
            sparse_times_dense<R>(all, rows, into, false);
            continue;
        }
        for (Index block = 0; block < blocks_; ++block) {
            const Index first = block * (a_->local().rows() + 1) + mine.begin;
            const CsrView<R> entries{mine.size(), a_->cols(), row_ptr_.data() + first,
                                     col_idx_.data(), values_.data()};
            sparse_times_dense<R>(entries, rows, into, block > 0);
        }
    }
    a_->comm().ledger().add_flops(2.0 * static_cast<double>(a_->local().nnz()) *
                                  static_cast<double>(b.cols()));
}

namespace {

/// Groups of shards: a power of two, at least 64 if there are as many shards, and about one for 256
/// rows.
Index group_count(const ShardLayout& layout) {
    const Index most = std::min(layout.shards(), std::max<Index>(64, layout.rows() / 256));
    return static_cast<Index>(std::bit_floor(static_cast<std::uint64_t>(std::max<Index>(1, most))));
}

/// The groups whose first shard is the rank's.
Range owned(const ShardLayout& layout, Index groups, int rank) {
    const Range shards = layout.rank_shards(rank);
    const auto first_from = [&](Index shard) {  // the first group that begins at or after `shard`
        Index lo = 0;
        Index hi = groups;
        while (lo < hi) {
            const Index mid = (lo + hi) / 2;
            if (even_part(layout.shards(), groups, mid).begin < shard) {
                lo = mid + 1;
            } else {
                hi = mid;
            }
        }
        return lo;
    };
    return {first_from(shards.begin), first_from(shards.end)};
}

/// Rows of the rank's last own group that stand at other ranks.
template <Real R>
std::vector<Index> foreign_rows(const BlockRows<R>& a, Index groups) {
    const ShardLayout& layout = a.layout();
    const Range mine = owned(layout, groups, a.comm().rank());
    std::vector<Index> rows;
    if (mine.size() == 0) return rows;
    const Range last = rows_of(layout, even_part(layout.shards(), groups, mine.end - 1));
    for (Index i = layout.rank_rows(a.comm().rank()).end; i < last.end; ++i) rows.push_back(i);
    return rows;
}

/// The aligned subtrees that make up a range of groups, in order.
template <class Node>
std::vector<Node> subtrees(Range groups) {
    std::vector<Node> nodes;
    for (Index g = groups.begin; g < groups.end;) {
        Index level = 0;
        while (g % (Index{2} << level) == 0 && g + (Index{2} << level) <= groups.end) ++level;
        nodes.push_back({level, g >> level});
        g += Index{1} << level;
    }
    return nodes;
}

/// Adds up a forest in tree order: parts are pushed in order of their groups, and two that are
/// siblings become their parent.
template <Real R, class Node>
class Forest {
public:
    explicit Forest(std::vector<DenseMatrix<R>>& buffers) : buffers_{buffers} {}

    /// The buffer for the next part, of these sizes.
    DenseMatrix<R>& next(Index rows, Index cols) {
        if (nodes_.size() == buffers_.size()) buffers_.emplace_back();
        auto& buffer = buffers_[nodes_.size()];
        if (buffer.rows() != rows || buffer.cols() != cols) buffer = DenseMatrix<R>(rows, cols);
        return buffer;
    }
    /// Takes the part that next() holds.
    void push(Node node) {
        nodes_.push_back(node);
        while (nodes_.size() > 1 && siblings(nodes_[nodes_.size() - 2], nodes_.back())) {
            const auto right = buffers_[nodes_.size() - 1].data();
            const auto left = buffers_[nodes_.size() - 2].data();
            for (std::size_t i = 0; i < left.size(); ++i) left[i] += right[i];
            nodes_.pop_back();
            nodes_.back() = {nodes_.back().level + 1, nodes_.back().index / 2};
        }
    }
    [[nodiscard]] const std::vector<Node>& nodes() const { return nodes_; }

private:
    static bool siblings(Node left, Node right) {
        return left.level == right.level && left.index % 2 == 0 && right.index == left.index + 1;
    }
    std::vector<DenseMatrix<R>>& buffers_;
    std::vector<Node> nodes_;
};

}  // namespace

template <Real R>
DenseProducts<R>::DenseProducts(const BlockRows<R>& a, ShardLayout cols, Index threads)
    : a_{&a},
      cols_{std::move(cols)},
      threads_{threads},
      groups_{group_count(a.layout())},
      all_cols_{RowExchange::all(a.comm(), cols_)},
      foreign_rows_{foreign_rows(a, groups_)},
      foreign_{a.comm(), a.layout(), ExchangeScheme::needed, foreign_rows_} {
    RANKFOLD_EXPECT(cols_.rows() == a.cols());
    fetch_cut_groups();
}

template <Real R>
Range DenseProducts<R>::group_rows(Index group) const {
    return rows_of(a_->layout(), even_part(a_->layout().shards(), groups_, group));
}

template <Real R>
Range DenseProducts<R>::owned_groups(int rank) const {
    return owned(a_->layout(), groups_, rank);
}

template <Real R>
void DenseProducts<R>::fetch_cut_groups() {
    const Range mine = a_->layout().rank_rows(a_->comm().rank());
    std::vector<Index> missing;
    std::vector<Index> groups;
    for (Index g = 0; g < groups_ && mine.size() > 0; ++g) {
        const Range rows = group_rows(g);
        const bool touched = rows.begin < mine.end && rows.end > mine.begin;
        if (!touched || (rows.begin >= mine.begin && rows.end <= mine.end)) continue;
        groups.push_back(g);
        for (Index i = rows.begin; i < rows.end; ++i) {
            if (!mine.contains(i)) missing.push_back(i);
        }
    }
    const RowExchange exchange(a_->comm(), a_->layout(), ExchangeScheme::needed, missing);
    DenseMatrix<R> fetched(exchange.buffer_rows(), a_->cols());
    exchange.gather(*a_, fetched.view());
    Index next = 0;
    for (const Index g : groups) {
        const Range rows = group_rows(g);
        CutGroup cut{g, DenseMatrix<R>(rows.size(), a_->cols())};
        for (Index i = rows.begin; i < rows.end; ++i) {
            const auto from = mine.contains(i) ? a_->local().row(i - mine.begin)
                                               : std::as_const(fetched).row(next++);
            std::ranges::copy(from, cut.rows.row(i - rows.begin).begin());
        }
        cut_.push_back(std::move(cut));
    }
}

template <Real R>
MatrixView<const R> DenseProducts<R>::group(Index g) const {
    for (const auto& cut : cut_) {
        if (cut.group == g) return cut.rows.view();
    }
    const Range rows = group_rows(g);
    return a_->local().view().row_block({rows.begin - a_->first_row(), rows.end - a_->first_row()});
}

template <Real R>
void DenseProducts<R>::multiply(const BlockRows<R>& b, BlockRows<R>& c) const {
    RANKFOLD_EXPECT(c.layout() == a_->layout() && c.cols() == b.cols());
    DenseMatrix<R> whole;
    MatrixView<const R> right = b.local().view();
    if (a_->comm().size() > 1) {
        whole = DenseMatrix<R>(b.rows(), b.cols());
        all_cols_.gather(b, whole.view());
        right = std::as_const(whole).view();
    }
    const MatrixView<const R> rows = a_->local().view();
    constexpr Index at_once = 320;
    const Index parts = (rows.rows + at_once - 1) / at_once;
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(threads_))
    for (Index t = 0; t < parts; ++t) {
        const Range part = even_part(rows.rows, parts, t);
        tall_product<R>(Transpose::no, rows.row_block(part), right,
                        c.local().view().row_block(part));
    }
    a_->comm().ledger().add_flops(2.0 * static_cast<double>(rows.rows) *
                                  static_cast<double>(a_->cols()) * static_cast<double>(b.cols()));
}

template <Real R>
DenseMatrix<R> DenseProducts<R>::rows_of_cut_group(const BlockRows<R>& p) const {
    DenseMatrix<R> fetched(foreign_.buffer_rows(), p.cols());
    foreign_.gather(p, fetched.view());
    if (foreign_rows_.empty()) return {};
    const Range rows = group_rows(owned_groups(a_->comm().rank()).end - 1);
    DenseMatrix<R> whole(rows.size(), p.cols());
    const Index own = rows.size() - fetched.rows();
    for (Index i = 0; i < rows.size(); ++i) {
        const auto from = i < own ? p.local().row(rows.begin + i - p.first_row())
                                  : std::as_const(fetched).row(i - own);
        std::ranges::copy(from, whole.row(i).begin());
    }
    return whole;
}

template <Real R>
void DenseProducts<R>::add_subtrees(const BlockRows<R>& p, const DenseMatrix<R>& cut, Range slice,
                                    std::vector<DenseMatrix<R>>& sums) const {
    const Range mine = owned_groups(a_->comm().rank());
    std::vector<DenseMatrix<R>> buffers;
    Forest<R, Node> forest(buffers);
    for (Index g = mine.begin; g < mine.end; ++g) {
        const Range rows = group_rows(g);
        const bool is_cut = g == mine.end - 1 && cut.rows() > 0;
        const MatrixView<const R> right =
            is_cut ? cut.view()
                   : p.local().view().row_block(
                         {rows.begin - p.first_row(), rows.end - p.first_row()});
        auto& part = forest.next(slice.size(), p.cols());
        tall_product<R>(Transpose::yes, group(g).col_block(slice), right, part.view());
        forest.push({0, g});
    }
    for (std::size_t t = 0; t < forest.nodes().size(); ++t) {
        for (Index j = 0; j < slice.size(); ++j) {
            std::ranges::copy(std::as_const(buffers[t]).row(j),
                              sums[t].row(slice.begin + j).begin());
        }
    }
}

template <Real R>
void DenseProducts<R>::multiply_transposed(const BlockRows<R>& p, BlockRows<R>& c) const {
    RANKFOLD_EXPECT(p.layout() == a_->layout() && c.layout() == cols_ && c.cols() == p.cols());
    const Communicator& comm = a_->comm();
    const Index n = a_->cols();
    const Index b = p.cols();
    const DenseMatrix<R> cut = rows_of_cut_group(p);
    const Range mine = owned_groups(comm.rank());
    std::vector<DenseMatrix<R>> sums(subtrees<Node>(mine).size());
    for (auto& sum : sums) sum = DenseMatrix<R>(n, b);
    constexpr Index width = 128;  // columns of A whose partial sums stay in the cache
    const Index slices = (n + width - 1) / width;
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(threads_))
    for (Index t = 0; t < slices; ++t) add_subtrees(p, cut, even_part(n, slices, t), sums);
    double rows = 0.0;
    for (Index g = mine.begin; g < mine.end; ++g) rows += double(group_rows(g).size());
    comm.ledger().add_flops(2.0 * rows * static_cast<double>(n) * static_cast<double>(b));

    AlignedVector<R> send;  // to every rank its rows of each of this rank's subtrees
    std::vector<Index> send_counts;
    std::vector<Index> recv_counts;
    std::vector<std::vector<Node>> forests;
    const Index own_rows = c.local().rows();
    send.reserve(sums.size() * at(n * b));
    for (int q = 0; q < comm.size(); ++q) {
        const Range theirs = cols_.rank_rows(q);
        for (const auto& sum : sums) {
            const R* from = sum.data().data() + theirs.begin * b;
            send.insert(send.end(), from, from + theirs.size() * b);
        }
        send_counts.push_back(static_cast<Index>(sums.size()) * theirs.size() * b);
        forests.push_back(subtrees<Node>(owned_groups(q)));
        recv_counts.push_back(static_cast<Index>(forests.back().size()) * own_rows * b);
        if (q != comm.rank()) {
            comm.ledger().predict_bytes(static_cast<double>(send_counts.back()) * sizeof(R));
        }
    }
    AlignedVector<R> received(
        at(std::accumulate(recv_counts.begin(), recv_counts.end(), Index{0})));
    comm.all_to_all(std::span<const R>(send), send_counts, std::span<R>(received), recv_counts);
    std::vector<DenseMatrix<R>> buffers;
    Forest<R, Node> forest(buffers);
    const R* from = received.data();
    for (const auto& nodes : forests) {
        for (const Node node : nodes) {
            std::copy_n(from, own_rows * b, forest.next(own_rows, b).data().data());
            from += own_rows * b;
            forest.push(node);
        }
    }
    std::ranges::copy(std::as_const(buffers.front()).data(), c.local().data().begin());
}

#define RANKFOLD_INSTANTIATE(R)      \
    template class SparseProduct<R>; \
    template class DenseProducts<R>;
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
