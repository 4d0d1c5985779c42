#include <rankfold/nn/table_update.hpp>

#include <algorithm>
#include <numeric>

#include <rankfold/core/subscript.hpp>

namespace rankfold {

template <Real R>
TableUpdate<R>::TableUpdate(const Communicator& comm, Network<R>& network,
                            const GradientSum<R>& sum)
    : comm_{&comm}, network_{&network}, sum_{&sum} {
    const Graph& graph = network.graph();
    for (std::size_t i = 0; i < graph.inputs.size(); ++i) {
        if (!graph.inputs[i].index) continue;
        Side side;
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
        if (!side.tables.empty()) sides_.push_back(std::move(side));
    }
}

/// Puts the needed rows of each rank side by side, rank after rank.
template <Real R>
void TableUpdate<R>::group_by_owner(Side& side) const {
    std::vector<Index> ends;  // of the ranks' rows
    for (int q = 0; q < comm_->size(); ++q) ends.push_back(side.layout.rank_rows(q).end);
    std::vector<std::int32_t> owners;
    std::vector<Index> next(ends.size() + 1, 0);
    for (const Index row : side.needed) {
        owners.push_back(
            static_cast<std::int32_t>(std::ranges::upper_bound(ends, row) - ends.begin()));
        ++next[static_cast<std::size_t>(owners.back()) + 1];
    }
    std::partial_sum(next.begin(), next.end(), next.begin());
    std::vector<Index> grouped(side.needed.size());
    for (std::size_t i = 0; i < owners.size(); ++i) {
        const Index to = next[static_cast<std::size_t>(owners[i])]++;
        grouped[at(to)] = side.needed[i];
        side.place_of[at(side.needed[i])] = static_cast<std::int32_t>(to);
    }
    side.needed = std::move(grouped);
}

/// Finds out which rows the batch names, by which samples, and who owns them.
template <Real R>
void TableUpdate<R>::plan(Side& side, const Workspace<R>& ws) {
    const std::span<const Index> named(ws.indices[at(side.input)].data(), at(ws.rows));
    if (side.place_of.empty()) side.place_of.assign(at(side.layout.rows()), -1);
    side.needed.clear();
    for (const Index row : named) {
        std::int32_t& place = side.place_of[at(row)];
        if (place >= 0) continue;
        place = static_cast<std::int32_t>(side.needed.size());
        side.needed.push_back(row);
    }
    if (comm_->size() > 1) group_by_owner(side);
    side.first.assign(side.needed.size() + 1, 0);
    for (const Index row : named)
        ++side.first[static_cast<std::size_t>(side.place_of[at(row)]) + 1];
    std::partial_sum(side.first.begin(), side.first.end(), side.first.begin());
    side.order.resize(named.size());
    std::vector<Index> next(side.first.begin(), side.first.end() - 1);
    for (std::size_t i = 0; i < named.size(); ++i) {
        const auto place = static_cast<std::size_t>(side.place_of[at(named[i])]);
        side.order[at(next[place]++)] = static_cast<Index>(i);
    }
    for (const Index row : side.needed) side.place_of[at(row)] = -1;
    if (comm_->size() == 1) {
        side.requests = side.needed;
        return;
    }
    const Range own = own_rows(side);
    const auto foreign =
        std::ranges::count_if(side.needed, [&](Index r) { return !own.contains(r); });
    comm_->ledger().predict_bytes(
        static_cast<double>((foreign + comm_->size() - 1) * static_cast<Index>(sizeof(Index))));
    side.exchange =
        std::make_unique<RowExchange>(*comm_, side.layout, ExchangeScheme::needed, side.needed);
    const auto sent = side.exchange->rows_sent();
    side.requests.assign(sent.begin(), sent.end());
}

template <Real R>
void TableUpdate<R>::fetch(const Workspace<R>& ws) {
    const auto phase = comm_->ledger().phase("embedding rows");
    for (Side& side : sides_) {
        plan(side, ws);
        if (comm_->size() == 1) continue;
        const Range own = own_rows(side);
        std::vector<R> packed;
        packed.reserve(side.requests.size() * at(side.width));
        for (const Index row : side.exchange->rows_sent()) {
            for (const Table& table : side.tables) {
                const auto values = table.values.row(own.begin + row);
                packed.insert(packed.end(), values.begin(), values.end());
            }
        }
        std::vector<R> buffer(side.needed.size() * at(side.width));
        side.exchange->send(std::span<const R>(packed), side.width, std::span<R>(buffer));
        const R* from = buffer.data();
        for (const Index row : side.needed) {
            for (const Table& table : side.tables) {
                std::copy_n(from, table.values.cols, table.values.row(row).data());
                from += table.values.cols;
            }
        }
    }
}

namespace {

/// Sums the gradients of the samples that name one row, in the order of the tree over their blocks.
/// Blocks that do not name the row are left out: adding their zeros would change no bit.
template <Real R>
class RowSum {
public:
    RowSum(MatrixView<const R> d, std::span<const Index> ends)
        : d_{d}, ends_{ends}, width_{at(d.cols)}, other_(deepest * width_) {}

    /// @param samples  increasing, not none, all in the node's blocks
    void sum(Range node, std::span<const Index> samples, R* out, std::size_t depth = 0) {
        const std::span<R> to(out, width_);
        if (node.size() == 1 || samples.size() == 1) {
            std::ranges::copy(d_.row(samples.front()), out);
            for (const Index i : samples.subspan(1)) add_to<R>(d_.row(i), to);
            return;
        }
        const auto [left, right] = tree_halves(node);
        const auto half = static_cast<std::size_t>(
            std::ranges::lower_bound(samples, ends_[at(left.end - 1)]) - samples.begin());
        if (half == 0) return sum(right, samples, out, depth);
        sum(left, samples.first(half), out, depth);
        if (half == samples.size()) return;
        R* const other = other_.data() + depth * width_;
        sum(right, samples.subspan(half), other, depth + 1);
        add_to<R>({other, width_}, to);
    }

private:
    static constexpr std::size_t deepest = 64;  // the tree over blocks halves them

    MatrixView<const R> d_;
    std::span<const Index> ends_;
    std::size_t width_;
    AlignedVector<R> other_;
};

}  // namespace

/// out ← for each needed row the sum of its gradients in a node's blocks, `stride` apart; rows that
/// these blocks do not name are left as they are.
template <Real R>
void TableUpdate<R>::sum_blocks(Side& side, const Workspace<R>& ws, Range node, R* out,
                                Index stride) const {
    const Range samples{node.begin == 0 ? 0 : ws.ends[at(node.begin - 1)],
                        ws.ends[at(node.end - 1)]};
    const bool whole = samples.size() == ws.rows;
    for (const Table& table : side.tables) {
        RowSum<R> row_sum(network_->table_gradient(table.layer, ws), ws.ends);
        for (std::size_t r = 0; r < side.needed.size(); ++r) {
            std::span<const Index> of_row(side.order.data() + side.first[r],
                                          side.order.data() + side.first[r + 1]);
            if (!whole) {
                const auto begin = std::ranges::lower_bound(of_row, samples.begin);
                of_row = {begin, std::ranges::lower_bound(of_row, samples.end)};
            }
            if (!of_row.empty()) {
                row_sum.sum(node, of_row, out + static_cast<Index>(r) * stride);
            }
        }
        out += table.values.cols;
    }
}

/// Adds what has been received for each row, in the order of the tree over all ranks' nodes.
template <Real R>
void TableUpdate<R>::sum_requests(Side& side) {
    const std::vector<Index>& nodes = sum_->nodes_of_rank();
    const Index most = sum_->most_nodes();
    const auto all = at(std::accumulate(nodes.begin(), nodes.end(), Index{0}));
    if (side.touch_of.empty()) side.touch_of.assign(at(own_rows(side).size()), -1);
    side.touched.clear();
    std::vector<R*> slots;  // of every touched row, one a node of any rank; null: no gradient
    std::size_t place = 0;
    std::size_t first_node = 0;
    for (std::size_t q = 0; q < nodes.size(); ++q) {
        const std::size_t end =
            comm_->size() == 1 ? side.requests.size() : place + at(side.exchange->send_counts()[q]);
        for (; place < end; ++place) {
            std::int32_t& touch = side.touch_of[at(side.requests[place])];
            if (touch < 0) {
                touch = static_cast<std::int32_t>(side.touched.size());
                side.touched.push_back(side.requests[place]);
                slots.resize(slots.size() + all, nullptr);
            }
            R* const from = side.received.data() + static_cast<Index>(place) * most * side.width;
            for (Index n = 0; n < nodes[q]; ++n) {
                slots[static_cast<std::size_t>(touch) * all + first_node + at(n)] =
                    from + n * side.width;
            }
        }
        first_node += at(nodes[q]);
    }
    side.gradients.resize(side.touched.size() * at(side.width));
    for (std::size_t t = 0; t < side.touched.size(); ++t) {
        side.touch_of[at(side.touched[t])] = -1;
        const std::span<R*> of_row = std::span(slots).subspan(t * all, all);
        for (const auto& [to, from] : sum_->additions()) {
            if (of_row[at(from)] == nullptr) continue;
            if (of_row[at(to)] == nullptr) {
                of_row[at(to)] = of_row[at(from)];
            } else {
                add_to<R>({of_row[at(from)], at(side.width)}, {of_row[at(to)], at(side.width)});
            }
        }
        std::copy_n(of_row[0], side.width,
                    side.gradients.begin() + static_cast<Index>(t) * side.width);
    }
}

template <Real R>
void TableUpdate<R>::collect(const Workspace<R>& ws, std::span<const Range> nodes) {
    const auto phase = comm_->ledger().phase("embedding rows");
    const Index most = sum_->most_nodes();
    for (Side& side : sides_) {
        const Index each = most * side.width;
        side.sent.assign(side.needed.size() * at(each), R{0});
        for (std::size_t n = 0; n < nodes.size(); ++n) {
            sum_blocks(side, ws, nodes[n], side.sent.data() + static_cast<Index>(n) * side.width,
                       each);
        }
        if (comm_->size() == 1) {
            side.received.swap(side.sent);
        } else {
            side.received.resize(side.requests.size() * at(each));
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
        for (std::size_t r = 0; r < side.touched.size(); ++r) {
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
    bool finite = true;
    for (Side& side : sides_) {
        const Index begin = own_rows(side).begin;
        const R* g = side.gradients.data();
        for (const Index row : side.touched) {
            for (Table& table : side.tables) {
                const auto k = at(table.values.cols);
                const Index own = row * table.values.cols;
                finite = optimizer.update({g, k}, table.values.row(begin + row),
                                          std::span<R>(table.first).subspan(at(own), k),
                                          std::span<R>(table.second).subspan(at(own), k), true) &&
                         finite;
                g += k;
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
