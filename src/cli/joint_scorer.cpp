#include <rankfold/cli/joint_scorer.hpp>

#include <algorithm>

namespace rankfold::cli {

namespace {

constexpr Index pairs_at_once = 512;

}  // namespace

template <Real R>
JointScorer<R>::JointScorer(const Factors<R>& factors, Network<R>& network)
    : factors_{factors}, network_{&network}, layout_{factors_->layout()} {
    network.prepare(pairs_at_once);
}

template <Real R>
JointScorer<R>::JointScorer(const Communicator& comm, Network<R>& network)
    : network_{&network},
      layout_{ShardLayout::even(network.graph().inputs[0].width, 64, comm.size())} {
    network.prepare(pairs_at_once);
}

template <Real R>
template <class Columns>
void JointScorer<R>::add_network(Workspace<R>& ws, Index row, Index count, Columns columns,
                                 R* out) const {
    std::ranges::fill(ws.indices[0], row);
    for (Index done = 0; done < count; done += pairs_at_once) {
        const Index now = std::min(pairs_at_once, count - done);
        for (Index t = 0; t < now; ++t) {
            ws.indices[1][static_cast<std::size_t>(t)] = columns(done + t);
        }
        ws.rows = now;
        network_->forward(ws);
        const auto z = network_->output(ws);
        for (Index t = 0; t < now; ++t) out[done + t] += z(t, 0);
    }
}

template <Real R>
void JointScorer<R>::scores(Range rows, MatrixView<R> out) const {
    if (factors_) {
        factors_->scores(rows, out);
    } else {
        for (Index i = 0; i < out.rows; ++i) std::ranges::fill(out.row(i), R{0});
    }
    Workspace<R> ws = network_->workspace(pairs_at_once, Purpose::inference);
    for (Index i = rows.begin; i < rows.end; ++i) {
        add_network(
            ws, i, cols(), [](Index j) { return j; }, out.row(i - rows.begin).data());
    }
}

template <Real R>
void JointScorer<R>::entries(Range rows, CsrView<R> where, std::span<R> out) const {
    if (factors_) {
        factors_->entries(rows, where, out);
    } else {
        std::ranges::fill(out, R{0});
    }
    Workspace<R> ws = network_->workspace(pairs_at_once, Purpose::inference);
    R* to = out.data();
    for (Index t = 0; t < rows.size(); ++t) {
        const auto columns = where.row_cols(t);
        add_network(
            ws, rows.begin + t, std::ssize(columns),
            [&](Index e) { return Index{columns[static_cast<std::size_t>(e)]}; }, to);
        to += std::ssize(columns);
    }
}

template class JointScorer<float>;
template class JointScorer<double>;

}  // namespace rankfold::cli
