#include <rankfold/nn/network_scorer.hpp>

#include <algorithm>

namespace rankfold {

namespace {

constexpr Index pairs_at_once = 128;

}  // namespace

template <Real R>
NetworkScorer<R>::NetworkScorer(Network<R>& network, InputRows<R> rows, Index tile)
    : network_{&network}, rows_{std::move(rows)}, tile_{tile} {
    RANKFOLD_EXPECT(tile > 0 && rows_.width() == network.graph().inputs.front().width);
    network.prepare(tile);
}

template <Real R>
NetworkScorer<R>::NetworkScorer(Network<R>& network, InputRows<R> x, DenseMatrix<R> y)
    : network_{&network}, rows_{std::move(x)}, y_{std::move(y)}, tile_{pairs_at_once} {
    RANKFOLD_EXPECT(rows_.width() + y_->cols() == network.graph().inputs.front().width);
    RANKFOLD_EXPECT(network.outputs() == 1);
    network.prepare(tile_);
}

template <Real R>
double NetworkScorer<R>::flops_per_score() const {
    return network_->forward_flops(1) / static_cast<double>(network_->outputs());
}

template <Real R>
template <class Columns>
void NetworkScorer<R>::score_pairs(Workspace<R>& ws, Index row, Index count, Columns columns,
                                   R* out) const {
    DenseMatrix<R>& input = ws.inputs.front();
    for (Index done = 0; done < count; done += tile_) {
        const Index now = std::min(tile_, count - done);
        for (Index t = 0; t < now; ++t) {
            const std::span<R> pair = input.row(t);
            rows_.copy_row(row, pair.first(static_cast<std::size_t>(rows_.width())));
            std::ranges::copy(y_->row(columns(done + t)), pair.begin() + rows_.width());
        }
        ws.rows = now;
        network_->forward(ws);
        std::copy_n(network_->output(ws).data, now, out + done);
    }
}

template <Real R>
void NetworkScorer<R>::scores(Range rows, MatrixView<R> out) const {
    RANKFOLD_EXPECT(out.rows == rows.size() && out.cols == cols());
    Workspace<R> ws = network_->workspace(tile_, Purpose::inference);
    if (y_) {
        for (Index i = rows.begin; i < rows.end; ++i) {
            score_pairs(
                ws, i, cols(), [](Index j) { return j; }, out.row(i - rows.begin).data());
        }
        return;
    }
    for (Index begin = rows.begin; begin < rows.end;) {
        const Index tile_begin = begin / tile_ * tile_;
        const Index end = std::min(rows.end, tile_begin + tile_);
        ws.inputs.front().fill(R{0});
        for (Index i = begin; i < end; ++i) {
            rows_.copy_row(i, ws.inputs.front().row(i - tile_begin));
        }
        ws.rows = tile_;
        network_->forward(ws);
        const auto found = network_->output(ws);
        for (Index i = begin; i < end; ++i) {
            std::ranges::copy(found.row(i - tile_begin), out.row(i - rows.begin).begin());
        }
        begin = end;
    }
}

template <Real R>
void NetworkScorer<R>::entries(Range rows, CsrView<R> where, std::span<R> out) const {
    RANKFOLD_EXPECT(where.rows == rows.size() && std::ssize(out) == where.nnz());
    R* to = out.data();
    if (y_) {
        Workspace<R> ws = network_->workspace(tile_, Purpose::inference);
        for (Index t = 0; t < rows.size(); ++t) {
            const auto cols_of_row = where.row_cols(t);
            score_pairs(
                ws, rows.begin + t, std::ssize(cols_of_row),
                [&](Index e) { return Index{cols_of_row[static_cast<std::size_t>(e)]}; }, to);
            to += std::ssize(cols_of_row);
        }
        return;
    }
    DenseMatrix<R> whole(rows.size(), cols());
    scores(rows, whole.view());
    for (Index t = 0; t < rows.size(); ++t) {
        for (const ColIndex j : where.row_cols(t)) *to++ = whole(t, j);
    }
}

template class NetworkScorer<float>;
template class NetworkScorer<double>;

}  // namespace rankfold
