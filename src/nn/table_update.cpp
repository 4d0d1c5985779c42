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

/// Finds out which rows the batch names, and who owns them.
template <Real R>
void TableUpdate<R>::plan(Side& side, const Workspace<R>& ws) {
    const std::span<const Index> named(ws.indices[at(side.input)].data(), at(ws.rows));
    side.needed.assign(named.begin(), named.end());
    std::ranges::sort(side.needed);
    side.needed.erase(std::ranges::unique(side.needed).begin(), side.needed.end());
    side.place.clear();
    for (const Index row : named) {
        side.place.push_back(std::ranges::lower_bound(side.needed, row) - side.needed.begin());
    }
    const Range own = own_rows(side);
    side.requests.clear();
    if (comm_->size() == 1) {
        for (const Index row : side.needed) {
            side.requests.emplace_back(row, std::ssize(side.requests));
        }
        return;
    }
    const auto foreign =
        std::ranges::count_if(side.needed, [&](Index r) { return !own.contains(r); });
    comm_->ledger().predict_bytes(
        static_cast<double>((foreign + comm_->size() - 1) * static_cast<Index>(sizeof(Index))));
    side.exchange =
        std::make_unique<RowExchange>(*comm_, side.layout, ExchangeScheme::needed, side.needed);
    for (const Index row : side.exchange->rows_sent()) {
        side.requests.emplace_back(row, std::ssize(side.requests));
    }
    std::ranges::sort(side.requests);
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

/// out (needed rows x width) ← the gradients of a node's blocks, in the tree's order.
template <Real R>
void TableUpdate<R>::sum_blocks(Side& side, const Workspace<R>& ws, Range node,
                                std::span<R> out) const {
    sum_tree<R>(node, out, [&](Index block, std::span<R> to) {
        std::ranges::fill(to, R{0});
        const Index begin = block == 0 ? 0 : ws.ends[at(block - 1)];
        Index first = 0;
        for (const Table& table : side.tables) {
            const MatrixView<const R> d = network_->table_gradient(table.layer, ws);
            for (Index i = begin; i < ws.ends[at(block)]; ++i) {
                add_to<R>(d.row(i), to.subspan(at(side.place[at(i)] * side.width + first),
                                               at(table.values.cols)));
            }
            first += table.values.cols;
        }
    });
}

/// Adds what has been received for each row, in the order of the tree over all ranks' nodes.
template <Real R>
void TableUpdate<R>::sum_requests(Side& side) {
    const std::vector<Index>& nodes = sum_->nodes_of_rank();
    const Index most = sum_->most_nodes();
    std::vector<Index> rank_of(side.requests.size(), 0);
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
    side.touched.clear();
    side.gradients.clear();
    for (std::size_t i = 0; i < side.requests.size();) {
        const Index row = side.requests[i].first;
        std::ranges::fill(slots, nullptr);
        for (; i < side.requests.size() && side.requests[i].first == row; ++i) {
            const Index place = side.requests[i].second;
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
        side.touched.push_back(row);
        side.gradients.insert(side.gradients.end(), slots[0], slots[0] + side.width);
    }
}

template <Real R>
void TableUpdate<R>::collect(const Workspace<R>& ws, std::span<const Range> nodes) {
    const auto phase = comm_->ledger().phase("embedding rows");
    const Index most = sum_->most_nodes();
    for (Side& side : sides_) {
        const Index each = most * side.width;
        side.sent.assign(side.needed.size() * at(each), R{0});
        std::vector<R> node_sum(side.needed.size() * at(side.width));
        for (std::size_t n = 0; n < nodes.size(); ++n) {
            sum_blocks(side, ws, nodes[n], node_sum);
            for (std::size_t r = 0; r < side.needed.size(); ++r) {
                std::copy_n(node_sum.begin() + static_cast<Index>(r) * side.width, side.width,
                            side.sent.begin() + static_cast<Index>(r) * each +
                                static_cast<Index>(n) * side.width);
            }
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
