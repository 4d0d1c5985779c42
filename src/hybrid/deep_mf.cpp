#include <rankfold/hybrid/deep_mf.hpp>

#include <algorithm>
#include <cmath>

#include <rankfold/core/subscript.hpp>
#include <rankfold/hybrid/entry_samples.hpp>

namespace rankfold {

namespace {

/// Refuses inputs that are not those of the tower of this side.
void check_widths(const Graph& towers, const std::string& side, const TowerWidths& given) {
    const TowerWidths wanted = widths_in(towers, side);
    const auto check = [&](Index wanted_width, Index given_width, const char* what) {
        if (wanted_width == given_width) return;
        throw input_error("the tower of the ", side, "s reads ",
                          wanted_width == 0 ? concat("no ", what)
                                            : concat(what, " of ", wanted_width, " columns"),
                          ", but ", given_width == 0 ? "none are" : concat(given_width, " are"),
                          " given");
    };
    check(wanted.embeddings, given.embeddings, "embeddings");
    check(wanted.entries, given.entries, "entries");
    check(wanted.features, given.features, "features");
    check(wanted.factors, given.factors, "factors");
}

/// One tower in training: what it reads, its samples, and its outputs.
template <Real R>
struct TowerSide {
    std::string name;
    bool column;
    TowerRows<R> inputs;
    Network<R> network;
    TowerSamples<R> samples;
    Trainer<R> trainer;
    BlockRows<R> outputs;

    /// @param towers  to go on with, or nullptr
    TowerSide(const Communicator& comm, bool column_, Index rows, const TowerInputs<R>& given,
              const DeepMfOptions& o, const Network<R>* towers)
        : name{column_ ? "column" : "row"},
          column{column_},
          inputs{comm, ShardLayout::even(rows, o.micro_batches, comm.size()), given},
          network{towers != nullptr ? continued(name, inputs.widths(), *towers)
                                    : started(name, inputs.widths(), o)},
          samples{comm, inputs, o.micro_batches},
          trainer{network, samples, o.loss(), o.train},
          outputs{comm, inputs.layout(), o.tower.k} {}

    static Network<R> started(const std::string& name, const TowerWidths& widths,
                              const DeepMfOptions& o) {
        Network<R> network(tower_graph(name, widths, o.tower));
        network.initialize(o.train.seed + (name == "column" ? 1U : 0U));
        return network;
    }

    static Network<R> continued(const std::string& name, const TowerWidths& widths,
                                const Network<R>& towers) {
        check_widths(towers.graph(), name, widths);
        Network<R> network(one_tower(towers.graph(), name));
        copy_parameters(towers, network);
        return network;
    }

    void refresh(Index threads) {
        tower_outputs(network, inputs, false, threads, outputs);
        const TowerWidths& widths = inputs.widths();
        if (widths.embeddings == 0 || widths.inputs() > 1) return;
        for (Index i = 0; i < outputs.local().rows(); ++i) {
            if (samples.count(i) == 0) std::ranges::fill(outputs.local().row(i), R{0});
        }
    }

    void epoch(Index number, const TowerSide& other, const DeepMfOptions& o) {
        samples.set_other(other.outputs);
        inputs.leave_out(o.entry_dropout, o.train.seed + (column ? 1U : 0U), number);
        trainer.epoch(number);
        inputs.leave_out_nothing();
        refresh(o.train.threads);
    }
};

template <Real R>
BlockRowCsr<R> copy_of(const BlockRowCsr<R>& a) {
    return {a.comm(), a.layout(), CsrMatrix<R>(a.local())};
}

TensorList joined(TensorList first, const TensorList& second) {
    first.tensors.insert(first.tensors.end(), second.tensors.begin(), second.tensors.end());
    return first;
}

DeepMfOptions with_width(DeepMfOptions options) {
    options.tower.k = options.als.k;
    if (options.micro_batches == 0) {
        options.micro_batches = default_micro_batches(options.train.batch);
    }
    return options;
}

}  // namespace

template <Real R>
struct DeepMf<R>::Impl {
    DeepMfOptions o;
    BlockRowCsr<R> matrix;
    BlockRowCsr<R> transposed;
    Factors<R> factors;
    std::unique_ptr<TowerSide<R>> rows;
    std::unique_ptr<TowerSide<R>> cols;
    std::optional<Network<R>> network;

    Impl(const BlockRowCsr<R>& a, const DeepMfOptions& options, const DeepMfData<R>& data)
        : o{with_width(options)}, matrix{copy_of(a)}, transposed{transpose(matrix)} {
        if (a.nnz() == 0) {
            throw Error(Fault::input, "there is nothing to learn from: the matrix has no entries",
                        true);
        }
        const Communicator& comm = matrix.comm();
        TowerInputs<R> f = data.rows;
        TowerInputs<R> g = data.cols;
        if (data.entries) {
            f.entries = &matrix;
            g.entries = &transposed;
        }
        rows = std::make_unique<TowerSide<R>>(comm, false, a.rows(), f, o, data.towers);
        cols = std::make_unique<TowerSide<R>>(comm, true, a.cols(), g, o, data.towers);
        network.emplace(both_towers(rows->network.graph(), cols->network.graph()));
        if (o.samples()) {
            for (R& v : matrix.local().values) v = v > R{0} ? R{1} : R{0};
        }
        const bool centred = !o.samples() && !o.als.implicit && o.als.centering == Centering::mean;
        factors.method = "deepmf";
        if (centred) factors.global_mean = start_factors(matrix, transposed, o.als).global_mean;
        set_pairs(0);
        begin(data);
    }

    /// Puts the start into the towers, and computes their first outputs.
    void begin(const DeepMfData<R>& data) {
        const auto start = [&](TowerSide<R>& side, const BlockRows<R>* factors_of_side,
                               const TowerInputs<R>& given) {
            if (factors_of_side != nullptr) {
                begin_with(gather_all(*factors_of_side), 1.0, side.name, o.logistic, side.network);
            } else if (given.factors != nullptr && !given.embeddings) {
                begin_with(gather_all(*given.factors), side.inputs.factor_scale(), side.name,
                           o.logistic, side.network);
            }
        };
        if (data.towers == nullptr) {  // given ones are what they are
            start(*rows, data.start != nullptr ? &data.start->rows : nullptr, data.rows);
            start(*cols, data.start != nullptr ? &data.start->cols : nullptr, data.cols);
        }
        rows->refresh(o.train.threads);
        cols->refresh(o.train.threads);
        refresh();
    }

    /// The pairs of an epoch; if they are not drawn, they stay.
    void set_pairs(Index epoch) {
        const double mean = factors.global_mean;
        if (!o.samples()) {
            rows->samples.set_pairs(matrix, row_problem(o.als, mean, matrix.cols()), false);
            cols->samples.set_pairs(transposed, row_problem(o.als, mean, matrix.rows()), false);
            return;
        }
        const auto phase = matrix.comm().ledger().phase("draw pairs");
        const BlockRowCsr<R> drawn = with_zeros(matrix, o.zeros, o.train.seed, epoch);
        const auto problem = RowProblem::explicit_values(o.als.lambda, o.als.lambda_exponent, 0.0);
        rows->samples.set_pairs(drawn, problem, true);
        cols->samples.set_pairs(transpose(drawn), problem, true);
    }

    Progress measured(Index done) {
        const auto phase = matrix.comm().ledger().phase("objective");
        rows->samples.set_other(cols->outputs);
        double ridge = 0.0;
        const double half = rows->samples.loss(o.loss(), rows->outputs, ridge);
        Progress progress{.unit = "epoch",
                          .step = done,
                          .steps = o.train.epochs,
                          .values = {{"objective", half + cols->samples.ridge(cols->outputs)}}};
        if (!o.samples() && !o.als.implicit) {
            progress.values.emplace_back(
                "train_rmse", std::sqrt((half - ridge) / static_cast<double>(matrix.nnz())));
        }
        return progress;
    }

    void refresh() {
        copy_parameters(rows->network, *network);
        copy_parameters(cols->network, *network);
        factors.rows = rows->outputs.clone();
        factors.cols = cols->outputs.clone();
    }

    [[nodiscard]] TensorList state(Index done) {
        return joined(rows->trainer.state(done), cols->trainer.state(done));
    }

    void run(const Steering& steering) {
        TensorList initial = state(0);
        const Index first = steering.restore(initial);
        if (first > 0) {
            rows->refresh(o.train.threads);
            cols->refresh(o.train.threads);
            refresh();
        }
        for (Index e = first; e < o.train.epochs; ++e) {
            if (o.samples() && e > 0) set_pairs(e);
            rows->epoch(e, *cols, o);
            cols->epoch(e, *rows, o);
            refresh();
            const Progress progress = measured(e + 1);
            factors.history.columns = {"epoch"};
            factors.history.rows.push_back({static_cast<double>(e + 1)});
            for (const auto& [name, value] : progress.values) {
                factors.history.columns.push_back(name);
                factors.history.rows.back().push_back(value);
            }
            if (steering.after(progress, state(e + 1)) == Verdict::stop) break;
        }
    }
};

template <Real R>
DeepMf<R>::DeepMf(const BlockRowCsr<R>& a, const DeepMfOptions& options, const DeepMfData<R>& data)
    : impl_{std::make_unique<Impl>(a, options, data)} {}

template <Real R>
DeepMf<R>::~DeepMf() = default;

template <Real R>
void DeepMf<R>::run(const Steering& steering) {
    impl_->run(steering);
}

template <Real R>
std::vector<LayerStatistics> DeepMf<R>::statistics(Index samples, WantedStatistics wanted) {
    std::vector<LayerStatistics> all;
    const auto add = [&](TowerSide<R>& side, const TowerSide<R>& other) {
        side.samples.set_other(other.outputs);
        std::ranges::move(layer_statistics(side.network, SamplesRef<R>(side.samples),
                                           impl_->o.loss(), samples, wanted),
                          std::back_inserter(all));
        auto visits = side.inputs.visits(impl_->matrix.comm());
        auto next = visits.begin();
        for (const LayerSpec& layer : side.network.graph().layers) {
            if (layer.kind != LayerKind::embedding) continue;
            all.push_back({.layer = layer.name, .visits = std::move(*next++)});
        }
    };
    add(*impl_->rows, *impl_->cols);
    add(*impl_->cols, *impl_->rows);
    return all;
}

template <Real R>
Network<R>& DeepMf<R>::network() {
    return *impl_->network;
}

template <Real R>
const Factors<R>& DeepMf<R>::factors() const {
    return impl_->factors;
}

template <Real R>
DeepMfModel<R> DeepMf<R>::finish() {
    for (TowerSide<R>* side : {impl_->rows.get(), impl_->cols.get()}) {
        copy_parameters(*impl_->network, side->network);
        side->refresh(impl_->o.train.threads);
    }
    impl_->refresh();
    return {std::move(impl_->factors), std::move(*impl_->network)};
}

template <Real R>
DeepMfModel<R> fit_deep_mf(const BlockRowCsr<R>& a, const DeepMfOptions& options,
                           const DeepMfData<R>& data, const Steering& steering) {
    DeepMf<R> fit(a, options, data);
    fit.run(steering);
    return fit.finish();
}

template <Real R>
BlockRows<R> fold_in_deep_mf(const Communicator& comm, Network<R>& towers,
                             const TowerInputs<R>& inputs, const ShardLayout& layout,
                             Index threads) {
    const TowerWidths wanted = widths_in(towers.graph(), "row");
    if (wanted.embeddings > 0 || wanted.factors > 0) {
        throw input_error("the tower of the rows reads ",
                          wanted.embeddings > 0 ? "free embeddings" : "given factors",
                          ", which new rows do not have; fold-in needs one that reads entries or "
                          "features");
    }
    check_widths(towers.graph(), "row", widths_of(inputs, layout.rows()));
    const TowerRows<R> rows(comm, layout, inputs);
    BlockRows<R> out(comm, layout, towers.outputs() / 2);
    tower_outputs(towers, rows, false, threads, out);
    return out;
}

#define RANKFOLD_INSTANTIATE(R)                                                                    \
    template class DeepMf<R>;                                                                      \
    template DeepMfModel<R> fit_deep_mf(const BlockRowCsr<R>&, const DeepMfOptions&,               \
                                        const DeepMfData<R>&, const Steering&);                    \
    template BlockRows<R> fold_in_deep_mf(const Communicator&, Network<R>&, const TowerInputs<R>&, \
                                          const ShardLayout&, Index);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
