#include <rankfold/nn/table_update.hpp>

#include <algorithm>
#include <deque>
#include <numeric>

#include <rankfold/core/subscript.hpp>

namespace rankfold {

template <Real R>
TableUpdate<R>::TableUpdate(const Communicator& comm, Network<R>& network,
                            const GradientSum<R>& sum)
    : comm_{&comm}, network_{&network}, sum_{&sum} {
    const Graph& graph = network.graph();
    for (std::size_t i = 0; i < graph.inputs.size(); ++i) {
        if (!graph.names_rows(graph.inputs[i].name)) continue;
        Side side;
        side.sparse = graph.inputs[i].sparse;
        side.input = static_cast<Index>(i);
        side.layout = ShardLayout::even(graph.inputs[i].width, comm.size(), comm.size());
        for (const ParameterTensor& tensor : network.arena().tensors()) {
            const LayerSpec& layer = graph.layers[at(tensor.layer)];
            if (!tensor.table || layer.inputs.front() != graph.inputs[i].name) continue;
            const auto size = at(side.layout.rank_rows(comm.rank()).size() * tensor.cols);
            side.width += tensor.cols;
            side.tables.push_back({.layer = tensor.layer,
                                   .values = network.arena().matrix(tensor.path),
                                   .first = AlignedVector<R>(size, R{0}),
                                   .second = AlignedVector<R>(size, R{0}),
                                   .path = tensor.path});
        }
        if (side.tables.empty()) continue;
        side.named = RowGroups<Naming<R>>(side.layout.rows());
        side.requests = RowGroups<Index>(side.layout.rank_rows(comm.rank()).size());
        sides_.push_back(std::move(side));
    }
}

namespace {

/// Calls visit(row, naming) for every row that a sample of the batch names.
template <Real R, class Visit>
void for_each_name(const Workspace<R>& ws, Index input, bool sparse, const Visit& visit) {
    for (Index i = 0; i < ws.rows; ++i) {
        if (!sparse) {
            visit(ws.indices[at(input)][at(i)], Naming<R>{i, R{1}});
            continue;
        }
        const SparseRow<R>& row = ws.sparse[at(input)][at(i)];
        for (std::size_t e = 0; e < row.columns.size(); ++e) {
            visit(Index{row.columns[e]}, Naming<R>{i, row.values[e]});
        }
    }
}

/// Adds up what the samples that name one row contribute to its gradient.
template <Real R>
class RowSum {
public:
    /// @param gradients  of the outputs of every table, one row a sample
    /// @param ends       of the batch's blocks
    RowSum(std::vector<MatrixView<const R>> gradients, const std::vector<Index>& ends, Index width,
           bool weighted)
        : gradients_{std::move(gradients)}, ends_{ends}, width_{at(width)}, weighted_{weighted} {}

    /// out ← the sum over a node's blocks, in the tree's order, of those that hold such samples.
    /// @param names  the row, from the node's blocks: at least one
    void sum(Range node, std::span<const Naming<R>> names, R* out, std::size_t level = 0) {
        if (names.size() == 1 || node.size() == 1) {
            put<false>(names[0], out);
            for (const auto& more : names.subspan(1)) put<true>(more, out);
            return;
        }
        const auto [left, right] = tree_halves(node);
        const auto middle =
            std::ranges::lower_bound(names, ends_[at(left.end - 1)], {}, &Naming<R>::sample);
        const auto before = static_cast<std::size_t>(middle - names.begin());
        if (before == 0) return sum(right, names, out, level);
        if (before == names.size()) return sum(left, names, out, level);
        sum(left, names.first(before), out, level);
        if (level == other_.size()) other_.emplace_back(width_);
        R* const other = other_[level].data();
        sum(right, names.subspan(before), other, level + 1);
        add_to<R>({other, width_}, {out, width_});
    }

private:
    /// out ← (or +=) the entry's value times the sample's gradient.
    template <bool ADD>
    void put(const Naming<R>& name, R* out) const {
        for (const MatrixView<const R>& d : gradients_) {
            const std::span<const R> from = d.row(name.sample);
            const std::span<R> to{out, from.size()};
            if constexpr (!ADD) {
                std::ranges::copy(from, out);
                if (weighted_) scale<R>(name.value, to);
            } else if (weighted_) {
                add_scaled<R>(name.value, from, to);
            } else {
                add_to<R>(from, to);
            }
            out += from.size();
        }
    }

    std::vector<MatrixView<const R>> gradients_;
    const std::vector<Index>& ends_;
    std::size_t width_;
    bool weighted_;
    std::deque<AlignedVector<R>> other_;  // the right half's sum, for each level of the tree
};

}  // namespace

/// Finds out which rows the batch names, and who owns them.
template <Real R>
void TableUpdate<R>::plan(Side& side, const Workspace<R>& ws) {
    side.named.sort([&](const auto& visit) { for_each_name(ws, side.input, side.sparse, visit); });
    const std::vector<Index>& needed = side.named.rows();
    if (comm_->size() > 1) {
        const Range own = own_rows(side);
        const auto foreign =
            std::ranges::count_if(needed, [&](Index r) { return !own.contains(r); });
        comm_->ledger().predict_bytes(
            static_cast<double>((foreign + comm_->size() - 1) * static_cast<Index>(sizeof(Index))));
        side.exchange =
            std::make_unique<RowExchange>(*comm_, side.layout, ExchangeScheme::needed, needed);
    }
    const std::span<const Index> asked =
        side.exchange ? side.exchange->rows_sent() : std::span<const Index>(needed);
    side.requests.sort([&](const auto& visit) {
        for (std::size_t r = 0; r < asked.size(); ++r) visit(asked[r], static_cast<Index>(r));
    });
}

template <Real R>
void TableUpdate<R>::fetch(const Workspace<R>& ws) {
    const auto phase = comm_->ledger().phase("embedding rows");
    for (Side& side : sides_) {
        plan(side, ws);
        if (comm_->size() == 1) continue;
        const Range own = own_rows(side);
        std::vector<R> packed;
        for (const Index row : side.exchange->rows_sent()) {
            for (const Table& table : side.tables) {
                const auto values = table.values.row(own.begin + row);
                packed.insert(packed.end(), values.begin(), values.end());
            }
        }
        std::vector<R> buffer(side.named.rows().size() * at(side.width));
        side.exchange->send(std::span<const R>(packed), side.width, std::span<R>(buffer));
        const R* from = buffer.data();
        for (const Index row : side.named.rows()) {
            for (const Table& table : side.tables) {
                std::copy_n(from, table.values.cols, table.values.row(row).data());
                from += table.values.cols;
            }
        }
    }
}

/// sent ← the sums of the rows' samples over each node of blocks; zeros where there are none.
template <Real R>
void TableUpdate<R>::sum_samples(Side& side, const Workspace<R>& ws,
                                 std::span<const Range> nodes) const {
    const Index each = sum_->most_nodes() * side.width;
    side.sent.resize(side.named.rows().size() * at(each));
    std::vector<MatrixView<const R>> gradients;
    for (const Table& table : side.tables) {
        gradients.push_back(network_->table_gradient(table.layer, ws));
    }
    RowSum<R> row_sum(std::move(gradients), ws.ends, side.width, side.sparse);
    R* to = side.sent.data();
    side.named.for_each_row([&](Index, std::span<const Naming<R>> names) {
        R* const row_end = to + each;
        for (const Range& node : nodes) {
            const Index node_end = ws.ends[at(node.end - 1)];
            std::size_t count = 0;
            while (count < names.size() && names[count].sample < node_end) ++count;
            if (count > 0) {
                row_sum.sum(node, names.first(count), to);
            } else {
                std::fill_n(to, side.width, R{0});
            }
            names = names.subspan(count);
            to += side.width;
        }
        std::fill(to, row_end, R{0});
        to = row_end;
    });
}

/// Adds what has been received for each row, in the order of the tree over all ranks' nodes.
template <Real R>
void TableUpdate<R>::sum_requests(Side& side) {
    const std::vector<Index>& nodes = sum_->nodes_of_rank();
    const Index most = sum_->most_nodes();
    std::vector<Index> rank_of(side.received.size() / at(most * side.width), 0);
    std::vector<Index> first_node(nodes.size(), 0);
    std::exclusive_scan(nodes.begin(), nodes.end(), first_node.begin(), Index{0});
    if (comm_->size() > 1) {
        auto next = rank_of.begin();
        for (std::size_t q = 0; q < nodes.size(); ++q) {
            next = std::fill_n(next, side.exchange->send_counts()[q], static_cast<Index>(q));
        }
    }
    const Index all = std::accumulate(nodes.begin(), nodes.end(), Index{0});
    std::vector<R*> slots(at(all));
    side.gradients.resize(side.requests.rows().size() * at(side.width));
    R* to_row = side.gradients.data();
    side.requests.for_each_row([&](Index, std::span<const Index> places) {
        std::ranges::fill(slots, nullptr);
        for (const Index place : places) {
            const Index q = rank_of[at(place)];
            for (Index n = 0; n < nodes[at(q)]; ++n) {
                slots[at(first_node[at(q)] + n)] =
                    side.received.data() + (place * most + n) * side.width;
            }
        }
        for (const auto& [to, from] : sum_->additions()) {
            if (slots[at(from)] == nullptr) continue;
            if (slots[at(to)] == nullptr) {
                slots[at(to)] = slots[at(from)];
            } else {
                add_to<R>({slots[at(from)], at(side.width)}, {slots[at(to)], at(side.width)});
            }
        }
        to_row = std::copy_n(slots[0], side.width, to_row);
    });
}

template <Real R>
void TableUpdate<R>::collect(const Workspace<R>& ws, std::span<const Range> nodes) {
    const auto phase = comm_->ledger().phase("embedding rows");
    const Index most = sum_->most_nodes();
    for (Side& side : sides_) {
        const Index each = most * side.width;
        sum_samples(side, ws, nodes);
        if (comm_->size() == 1) {
            side.received.swap(side.sent);
        } else {
            side.received.resize(side.exchange->rows_sent().size() * at(each));
            side.exchange->send_back(std::span<const R>(side.sent), each,
                                     std::span<R>(side.received));
        }
        sum_requests(side);
    }
}

template <Real R>
void TableUpdate<R>::add_squares(std::vector<double>& terms) const {
    for (const Side& side : sides_) {
        const R* g = side.gradients.data();
        for (std::size_t r = 0; r < side.requests.rows().size(); ++r) {
            double sum = 0.0;
            for (Index f = 0; f < side.width; ++f, ++g) {
                sum += static_cast<double>(*g) * static_cast<double>(*g);
            }
            terms.push_back(sum);
        }
    }
}

template <Real R>
bool TableUpdate<R>::update(const Optimizer<R>& optimizer) {
    constexpr std::size_t ahead = 8;  // rows that are fetched from memory meanwhile
    bool finite = true;
    for (Side& side : sides_) {
        const Index begin = own_rows(side).begin;
        const std::vector<Index>& rows = side.requests.rows();
        const R* g = side.gradients.data();
        for (std::size_t r = 0; r < rows.size(); ++r) {
            for (Table& table : side.tables) {
                const Index cols = table.values.cols;
                if (r + ahead < rows.size()) {
                    const Index later = rows[r + ahead];
                    __builtin_prefetch(table.values.row(begin + later).data(), 1);
                    __builtin_prefetch(table.first.data() + later * cols, 1);
                    __builtin_prefetch(table.second.data() + later * cols, 1);
                }
                const auto moments = [&](AlignedVector<R>& all) {
                    return std::span<R>(all).subspan(at(rows[r] * cols), at(cols));
                };
                finite = optimizer.update({g, at(cols)}, table.values.row(begin + rows[r]),
                                          moments(table.first), moments(table.second), true) &&
                         finite;
                g += cols;
            }
        }
    }
    return finite;
}

template <Real R>
void TableUpdate<R>::gather() {
    if (sides_.empty() || comm_->size() == 1) return;
    const auto phase = comm_->ledger().phase("embedding rows");
    for (Side& side : sides_) {
        for (Table& table : side.tables) {
            std::vector<Index> counts = side.layout.rank_row_counts();
            for (Index& n : counts) n *= table.values.cols;
            const auto own =
                static_cast<double>(counts[at(comm_->rank())] * static_cast<Index>(sizeof(R)));
            comm_->ledger().predict_bytes(own * (comm_->size() - 1));
            const std::span<R> whole(table.values.data, at(table.values.rows * table.values.cols));
            comm_->start_all_gather(counts, whole).wait();
        }
    }
}

template <Real R>
void TableUpdate<R>::list(bool second, TensorList& state) {
    for (Side& side : sides_) {
        for (Table& table : side.tables) {
            const Index total = table.values.rows * table.values.cols;
            const Index first = own_rows(side).begin * table.values.cols;
            state.add_part("moments/first/" + table.path, total, first, std::span<R>(table.first));
            if (!second) continue;
            state.add_part("moments/second/" + table.path, total, first,
                           std::span<R>(table.second));
        }
    }
}

template class TableUpdate<float>;
template class TableUpdate<double>;

}  // namespace rankfold
