#include <rankfold/factor/heavy_rows.hpp>

#include <algorithm>
#include <map>

#include <rankfold/core/sum_tree.hpp>

namespace rankfold {

namespace {

std::size_t at(Index i) {
    return static_cast<std::size_t>(i);
}

template <Real R>
void add_to(std::span<const R> from, std::span<R> to) {
    for (std::size_t i = 0; i < to.size(); ++i) to[i] += from[i];
}

/// Copies the upper triangle and the vector of a system, without what pads them.
template <Real R>
R* pack(std::span<const R> system, Index k, R* to) {
    for (Index i = 0; i < k; ++i) {
        const R* row = system.data() + i * padded(k);
        to = std::copy(row + i, row + k, to);
    }
    return std::copy_n(system.data() + k * padded(k), k, to);
}

template <Real R>
const R* unpack(const R* from, Index k, std::span<R> system) {
    std::ranges::fill(system, R{0});
    for (Index i = 0; i < k; ++i) {
        std::copy_n(from, k - i, system.data() + i * padded(k) + i);
        from += k - i;
    }
    std::copy_n(from, k, system.data() + k * padded(k));
    return from + k;
}

Index packed_words(Index k) {
    return k * (k + 3) / 2;
}

/// What is known of a node of the tree by itself.
enum class Known { nothing, whole, parts };

/// out ← the sum in a node of the tree; false if there is nothing in it. `take(node, out)` writes
/// what is known of a node as a whole.
template <Real R, class Take>
bool sum_node(Range node, const Take& take, std::span<R> out) {
    const Known known = take(node, out);
    if (known != Known::parts) return known == Known::whole;
    const auto [left, right] = tree_halves(node);
    AlignedVector<R> second(out.size());
    bool any_left = false;
    bool any_right = false;
#pragma omp task shared(any_left, out, take) if (node.size() > 8)
    any_left = sum_node<R>(left, take, out);
    any_right = sum_node<R>(right, take, std::span<R>(second));
#pragma omp taskwait
    if (any_left && any_right) {
        add_to<R>(second, out);
    } else if (any_right) {
        std::ranges::copy(second, out.begin());
    }
    return any_left || any_right;
}

}  // namespace

template <Real R>
HeavyRows<R>::HeavyRows(const BlockRowCsr<R>& a, const ShardLayout& fixed, Index threshold,
                        const BlockRowCsr<R>* transposed)
    : comm_{&a.comm()}, fixed_{fixed}, remote_{transposed != nullptr && a.comm().size() > 1} {
    std::vector<Index> mine;
    for (Index i = 0; i < a.local().rows(); ++i) {
        if (a.local().view().row_nnz(i) > threshold) mine.push_back(a.first_row() + i);
    }
    std::vector<Index> counts;
    rows_ = comm_->all_gather(std::span<const Index>(mine), &counts);
    for (int q = 0; q < comm_->size(); ++q) {
        const auto count = counts[at(q)];
        if (q == comm_->rank()) own_ = {std::ssize(owner_), std::ssize(owner_) + count};
        owner_.insert(owner_.end(), at(count), q);
    }
    if (remote_) {
        take_from(*transposed);
    } else {
        take_own(a, fixed);
    }
    first_piece_.assign(rows_.size() + 1, 0);
    for (const Piece& piece : pieces_) ++first_piece_[at(piece.heavy + 1)];
    for (std::size_t h = 0; h < rows_.size(); ++h) first_piece_[h + 1] += first_piece_[h];
    if (remote_) plan(comm_->size(), comm_->rank());
}

template <Real R>
bool HeavyRows<R>::is_heavy(Index global_row) const {
    return std::ranges::binary_search(rows_, global_row);
}

/// The entries of the own heavy rows, cut where the shards of their columns end.
template <Real R>
void HeavyRows<R>::take_own(const BlockRowCsr<R>& a, const ShardLayout& fixed) {
    const CsrView<R> view = a.local().view();
    for (Index h = own_.begin; h < own_.end; ++h) {
        const Index local = rows_[at(h)] - a.first_row();
        const auto cols = view.row_cols(local);
        const auto values = view.row_values(local);
        Index shard = 0;
        for (std::size_t e = 0; e < cols.size();) {
            while (fixed.shard_rows(shard).end <= cols[e]) ++shard;
            const auto end = static_cast<std::size_t>(
                std::ranges::lower_bound(cols.subspan(e), fixed.shard_rows(shard).end) -
                cols.begin());
            const Index first = std::ssize(cols_);
            cols_.insert(cols_.end(), cols.begin() + std::ptrdiff_t(e),
                         cols.begin() + std::ptrdiff_t(end));
            values_.insert(values_.end(), values.begin() + std::ptrdiff_t(e),
                           values.begin() + std::ptrdiff_t(end));
            pieces_.push_back({h, shard, {first, std::ssize(cols_)}});
            e = end;
        }
    }
}

/// The entries of all heavy rows in this rank's columns, from Aᵀ.
template <Real R>
void HeavyRows<R>::take_from(const BlockRowCsr<R>& transposed) {
    const CsrView<R> view = transposed.local().view();
    const Range shards = transposed.shards();
    struct Entry {
        Index heavy;
        Index shard;
        ColIndex col;
        R value;
    };
    std::vector<Entry> entries;
    for (Index s = shards.begin; s < shards.end; ++s) {
        const Range range = transposed.layout().shard_rows(s);
        for (Index j = range.begin - transposed.first_row(); j < range.end - transposed.first_row();
             ++j) {
            const auto rows = view.row_cols(j);
            for (std::size_t e = 0; e < rows.size(); ++e) {
                const auto found = std::ranges::lower_bound(rows_, Index{rows[e]});
                if (found == rows_.end() || *found != rows[e]) continue;
                entries.push_back(
                    {found - rows_.begin(), s, static_cast<ColIndex>(j), view.row_values(j)[e]});
            }
        }
    }
    std::ranges::stable_sort(entries, {}, &Entry::heavy);  // columns stay in order
    for (const Entry& entry : entries) {
        const bool same = !pieces_.empty() && pieces_.back().heavy == entry.heavy &&
                          pieces_.back().shard == entry.shard;
        if (!same) {
            pieces_.push_back({entry.heavy, entry.shard, {std::ssize(cols_), std::ssize(cols_)}});
        }
        ++pieces_.back().entries.end;
        cols_.push_back(entry.col);
        values_.push_back(entry.value);
    }
}

/// Which partial sums this rank sends to whom, and which it receives.
template <Real R>
void HeavyRows<R>::plan(int p, int rank) {
    const auto nodes = tree_nodes(fixed_.shards(), fixed_.rank_shards(rank));
    std::vector<Index> names;  // heavy row and node of every message: what the receiver must know
    std::vector<Index> counts(at(p), 0);
    for (Index h = 0; h < std::ssize(rows_); ++h) {
        for (const Range node : nodes) {
            const auto first = pieces_.begin() + first_piece_[at(h)];
            const auto last = pieces_.begin() + first_piece_[at(h + 1)];
            const bool any = std::any_of(first, last, [&](const Piece& piece) {
                return piece.shard >= node.begin && piece.shard < node.end;
            });
            if (!any) continue;
            sends_.push_back({h, node});
            names.insert(names.end(), {h, node.begin, node.end});
            counts[at(owner_[at(h)])] += 3;
        }
    }
    std::vector<Index> incoming;
    const auto received = comm_->all_to_all(std::span<const Index>(names), counts, &incoming);
    for (std::size_t i = 0; i + 2 < received.size(); i += 3) {
        receives_.push_back({received[i], {received[i + 1], received[i + 2]}});
    }
    for (int q = 0; q < p; ++q) {
        send_counts_.push_back(counts[at(q)] / 3);
        recv_counts_.push_back(incoming[at(q)] / 3);
    }
}

/// out ← the sum of a row's pieces in a node of the tree.
template <Real R>
void HeavyRows<R>::sum_pieces(const Message& message,
                              const std::function<void(const Piece&, std::span<R>)>& add,
                              std::span<R> out) const {
    const auto begin = pieces_.begin() + first_piece_[at(message.heavy)];
    const auto end = pieces_.begin() + first_piece_[at(message.heavy + 1)];
    const auto take = [&](Range node, std::span<R> to) {
        const auto first =
            std::lower_bound(begin, end, node.begin,
                             [](const Piece& piece, Index shard) { return piece.shard < shard; });
        if (first == end || first->shard >= node.end) return Known::nothing;
        if (node.size() > 1) return Known::parts;
        std::ranges::fill(to, R{0});
        add(*first, to);
        return Known::whole;
    };
    sum_node<R>(message.node, take, out);
}

template <Real R>
void HeavyRows<R>::sum(Index k, Index threads,
                       const std::function<void(const Piece&, std::span<R>)>& add,
                       AlignedVector<R>& systems) {
    const std::size_t words = at(k * padded(k) + padded(k));
    const std::vector<Message> whole = [&] {
        std::vector<Message> own;
        for (Index h = own_.begin; h < own_.end; ++h) own.push_back({h, {0, fixed_.shards()}});
        return own;
    }();
    const std::vector<Message>& made = remote_ ? sends_ : whole;
    AlignedVector<R> partials(made.size() * words);
#pragma omp parallel num_threads(static_cast <int>(threads))
#pragma omp single
    for (std::size_t m = 0; m < made.size(); ++m) {
#pragma omp task firstprivate(m)
        sum_pieces(made[m], add, std::span<R>(partials).subspan(m * words, words));
    }
    if (!remote_) {
        systems = std::move(partials);
        return;
    }
    const auto phase = comm_->ledger().phase("als partial sums");
    const Index width = packed_words(k);
    AlignedVector<R> packed(made.size() * at(width));
    R* to = packed.data();
    for (std::size_t m = 0; m < made.size(); ++m) {
        to = pack<R>(std::span<const R>(partials).subspan(m * words, words), k, to);
    }
    const auto elements = [&](std::vector<Index> counts) {
        for (Index& n : counts) n *= width;
        return counts;
    };
    AlignedVector<R> received(receives_.size() * at(width));
    const Index kept = send_counts_[at(comm_->rank())];
    comm_->ledger().predict_bytes(static_cast<double>((std::ssize(sends_) - kept) * width) *
                                  sizeof(R));
    comm_->all_to_all(std::span<const R>(packed), elements(send_counts_), std::span<R>(received),
                      elements(recv_counts_));
    // messages arrive by rank; a row's nodes in that order are those of the tree, from left to
    // right
    systems.assign(at(own_.size()) * words, R{0});
    std::map<Index, std::vector<std::pair<Range, const R*>>> by_row;
    const R* from = received.data();
    for (const Message& message : receives_) {
        by_row[message.heavy].emplace_back(message.node, from);
        from += width;
    }
    for (const auto& [heavy, parts] : by_row) {
        const auto take = [&](Range node, std::span<R> into) {
            const auto found =
                std::ranges::find_if(parts, [&](const auto& part) { return part.first == node; });
            if (found != parts.end()) {
                unpack<R>(found->second, k, into);
                return Known::whole;
            }
            const bool below = std::ranges::any_of(parts, [&](const auto& part) {
                return part.first.begin >= node.begin && part.first.end <= node.end;
            });
            return below ? Known::parts : Known::nothing;
        };
        sum_node<R>({0, fixed_.shards()}, take,
                    std::span<R>(systems).subspan(at(heavy - own_.begin) * words, words));
    }
}

template <Real R>
double HeavyRows<R>::bytes(Index k) const {
    if (!remote_) return 0.0;
    const Index kept = send_counts_[at(comm_->rank())];
    const Index sent = comm_->all_reduce(std::ssize(sends_) - kept, Reduce::sum);
    return static_cast<double>(sent * packed_words(k)) * sizeof(R);
}

template class HeavyRows<float>;
template class HeavyRows<double>;

}  // namespace rankfold
