#include <rankfold/hybrid/joint.hpp>

#include <algorithm>
#include <cmath>
#include <memory>

#include <rankfold/dist/entry_transpose.hpp>
#include <rankfold/factor/half_sweep.hpp>
#include <rankfold/hybrid/joint_entries.hpp>
#include <rankfold/hybrid/prior.hpp>

namespace rankfold {

namespace {

/// Counts of the true entries of every local row.
template <Real R>
std::vector<Index> entry_counts(const BlockRowCsr<R>& a, bool implicit) {
    std::vector<Index> counts;
    const CsrView<R> rows = a.local().view();
    for (Index i = 0; i < rows.rows; ++i) {
        const auto values = rows.row_values(i);
        counts.push_back(implicit ? std::ranges::count_if(values, [](R v) { return v > R{0}; })
                                  : rows.row_nnz(i));
    }
    return counts;
}

/// One side of the alternation: its entries, targets, and prior.
template <Real R>
struct JointSide {
    const BlockRowCsr<R>* a;
    bool transposed;
    RowProblem problem;
    std::vector<Index> counts;
    std::vector<R> targets;  // b of every entry; empty without h
    std::optional<BlockRows<R>> prior;
    std::unique_ptr<SparseSide<R>> solver;

    [[nodiscard]] SideExtras<R> extras() const {
        return {.targets = targets, .counts = counts, .prior = prior ? &*prior : nullptr};
    }
    /// From h of every entry to its target c (p − h).
    void aim() {
        const auto& values = a->local().values;
        for (std::size_t e = 0; e < values.size(); ++e) {
            const double c = problem.confidence(static_cast<double>(values[e]));
            const double h = static_cast<double>(targets[e]);
            targets[e] = static_cast<R>(c * (preference(values[e]) - h));
        }
    }
    [[nodiscard]] double preference(R value) const {
        return joint_preference(problem, static_cast<double>(value));
    }
};

template <Real R>
class JointFit {
public:
    JointFit(const BlockRowCsr<R>& a, const JointOptions& options, const SideFeatures<R>& features)
        : options_{options}, comm_{a.comm()} {
        matrix_ = joint_entries(a, options);
        transposed_ = transpose(matrix_);
        model_.factors = start_factors(a, transposed_, options.als);
        const double mean = model_.factors.global_mean;
        add_side(rows_, matrix_, false, joint_problem(options, mean, a.cols()), "row");
        add_side(cols_, transposed_, true, joint_problem(options, mean, a.rows()), "column");
        if (!options.hidden.empty()) {
            model_.network.emplace(joint_graph(a.rows(), a.cols(), options));
            model_.network->initialize(options.als.seed);
            silence_output();
            to_columns_.emplace(matrix_, transposed_);
            samples_.emplace(matrix_, blocks());
            // the weights are those of the objective, in all rounds alike
            if (rows_.problem.preference) {
                samples_->set_weights(joint_weights(matrix_, rows_.problem));
            }
            trainer_ = std::make_unique<Trainer<R>>(*model_.network, *samples_, Loss::squared,
                                                    train_options());
        }
        add_prior(features.rows, rows_, model_.factors.rows, row_prior_, model_.row_prior);
        add_prior(features.cols, cols_, model_.factors.cols, col_prior_, model_.col_prior);
    }

    JointModel<R> run(const Steering& steering, const JointWatch<R>& watch) {
        if (watch) watch(model_);
        TensorList initial = state();
        const Index first = steering.restore(initial);
        refresh();
        if (first == 0) {
            rows_.solver->gather(model_.factors.cols);
            model_.start_objective = objective();
        } else {
            model_.start_objective = initial.scalars.at("start_objective");
        }
        model_.factors.history.columns = {"round", "rows", "columns", "network"};
        for (Index round = first; round < options_.rounds; ++round) {
            const double after_rows = solve_rows();
            const double after_columns = solve_columns();
            const double after_network = train(round, after_columns);
            model_.factors.history.rows.push_back(
                {static_cast<double>(round + 1), after_rows, after_columns, after_network});
            const Progress progress{
                .unit = "round",
                .step = round + 1,
                .steps = options_.rounds,
                .values = {
                    {"rows", after_rows}, {"columns", after_columns}, {"network", after_network}}};
            if (steering.after(progress, state()) == Verdict::stop) break;
        }
        trainer_.reset();
        return std::move(model_);
    }

private:
    [[nodiscard]] Index blocks() const {
        return options_.micro_batches > 0 ? options_.micro_batches
                                          : default_micro_batches(options_.batch);
    }
    [[nodiscard]] TrainOptions train_options() const {
        return {.epochs = options_.rounds * options_.epochs,
                .batch = options_.batch,
                .optimizer = options_.optimizer,
                .seed = options_.als.seed,
                .threads = options_.als.threads};
    }

    void add_side(JointSide<R>& side, const BlockRowCsr<R>& a, bool transposed,
                  const RowProblem& problem, const char* axis) {
        side.a = &a;
        side.transposed = transposed;
        side.problem = problem;
        side.counts = entry_counts(a, options_.als.implicit && !options_.hidden.empty());
        side.solver = std::make_unique<SparseSide<R>>(
            a,
            SideOptions{.problem = problem,
                        .solver = options_.als.solver,
                        .threads = options_.als.threads,
                        .axis = axis},
            transposed ? matrix_.layout() : transposed_.layout(), options_.als.k);
    }

    void add_prior(const BlockRows<R>* features, JointSide<R>& side, const BlockRows<R>& factors,
                   std::unique_ptr<Prior<R>>& prior, std::optional<Network<R>>& network) {
        if (features == nullptr || options_.prior_weight == 0.0) return;
        network.emplace(dense_chain(features->cols(), options_.prior_hidden, options_.als.k,
                                    Activation::relu, 0.0));
        network->initialize(options_.als.seed + (side.transposed ? 2U : 1U));
        prior = std::make_unique<Prior<R>>(*network, *features, factors.layout(), blocks(),
                                           train_options());
        side.prior.emplace(comm_, factors.layout(), options_.als.k);
    }

    /// h begins as zero, so that the first half sweeps are those of plain ALS.
    void silence_output() {
        const MatrixView<R> last = model_.network->arena().matrix("layers/output/weight");
        for (Index j = 0; j < last.cols; ++j) last(0, j) = R{0};
    }

    /// Brings targets and priors of both sides up to date with h and e.
    void refresh() {
        for (JointSide<R>* side : {&rows_, &cols_}) {
            const auto& prior = side->transposed ? col_prior_ : row_prior_;
            if (prior) prior->evaluate(*side->prior);
        }
        if (!model_.network) return;
        const auto phase = comm_.ledger().phase("residual network");
        for (JointSide<R>* side : {&rows_, &cols_}) {
            side->targets.resize(side->a->local().values.size());
        }
        model_.network->prepare(512);
        evaluate_entries(*model_.network, matrix_, options_.als.threads,
                         std::span<R>(rows_.targets));
        to_columns_->apply(rows_.targets, cols_.targets);
        for (JointSide<R>* side : {&rows_, &cols_}) side->aim();
    }

    /// The whole objective; the rows' side must have fetched the present Y.
    /// @param scores  x·y of every entry, if they are known
    double objective(std::span<const R> scores = {}) {
        const auto phase = comm_.ledger().phase("objective");
        SideExtras<R> extras = rows_.extras();
        extras.scores = scores;
        const SideLoss rows = rows_.solver->losses(model_.factors.rows, extras);
        double sum =
            rows.entries + rows.ridge + cols_.solver->ridge(model_.factors.cols, cols_.extras());
        if (rows_.problem.alpha0 != 0.0) {
            sum +=
                rows_.problem.alpha0 * all_pairs_square(model_.factors.rows, model_.factors.cols);
        }
        return sum;
    }

    double solve_rows() {
        rows_.solver->solve(model_.factors.cols, model_.factors.rows, rows_.extras());
        return objective();
    }

    double solve_columns() {
        cols_.solver->solve(model_.factors.rows, model_.factors.cols, cols_.extras());
        rows_.solver->gather(model_.factors.cols);
        if (trainer_) {
            const auto phase = comm_.ledger().phase("targets");
            scores_.resize(matrix_.local().values.size());
            rows_.solver->scores(model_.factors.rows, scores_);
        }
        return objective(scores_);
    }

    /// The factors stand still, and with them the scores.
    double train(Index round, double before) {
        if (!trainer_ && !row_prior_ && !col_prior_) return before;
        if (trainer_) {
            const auto& values = matrix_.local().values;
            {
                const auto phase = comm_.ledger().phase("targets");
                std::vector<R> targets(values.size());
                for (std::size_t e = 0; e < values.size(); ++e) {
                    const double score = static_cast<double>(scores_[e]);
                    targets[e] = static_cast<R>(rows_.preference(values[e]) - score);
                }
                samples_->set_targets(targets);
            }
            for (Index e = 0; e < options_.epochs; ++e) {
                trainer_->epoch(round * options_.epochs + e);
            }
        }
        if (row_prior_) row_prior_->train(model_.factors.rows, round, options_.epochs);
        if (col_prior_) col_prior_->train(model_.factors.cols, round, options_.epochs);
        refresh();
        return objective(scores_);
    }

    /// Everything a checkpoint needs.
    TensorList state() {
        TensorList list = model_.factors.tensors();
        const auto append = [&list](const std::string& prefix, const TensorList& more) {
            for (Tensor tensor : more.tensors) {
                tensor.path = prefix + tensor.path;
                list.tensors.push_back(std::move(tensor));
            }
        };
        list.scalars["start_objective"] = model_.start_objective;
        if (trainer_) append("network/", trainer_->state(0));
        if (row_prior_) append("row_prior/", row_prior_->state());
        if (col_prior_) append("col_prior/", col_prior_->state());
        return list;
    }

    JointOptions options_;
    const Communicator& comm_;
    BlockRowCsr<R> matrix_;  // with the sampled pairs
    BlockRowCsr<R> transposed_;
    JointModel<R> model_;
    JointSide<R> rows_;
    JointSide<R> cols_;
    std::optional<EntryTranspose<R>> to_columns_;
    std::optional<EntrySamples<R>> samples_;
    std::unique_ptr<Trainer<R>> trainer_;
    std::vector<R> scores_;  // x·y of every entry after the columns' half sweep, if there is h
    std::unique_ptr<Prior<R>> row_prior_;
    std::unique_ptr<Prior<R>> col_prior_;
};

}  // namespace

Graph joint_graph(Index m, Index n, const JointOptions& options) {
    Graph graph;
    graph.inputs = {{.name = "row", .width = m, .index = true},
                    {.name = "column", .width = n, .index = true}};
    graph.layers = {{.name = "row_embedding",
                     .kind = LayerKind::embedding,
                     .inputs = {"row"},
                     .outputs = options.embedding},
                    {.name = "column_embedding",
                     .kind = LayerKind::embedding,
                     .inputs = {"column"},
                     .outputs = options.embedding},
                    {.name = "pair",
                     .kind = LayerKind::concat,
                     .inputs = {"row_embedding", "column_embedding"},
                     .outputs = 2 * options.embedding}};
    const Graph chain =
        dense_chain(2 * options.embedding, options.hidden, 1, Activation::relu, 0.0);
    for (LayerSpec layer : chain.layers) {
        if (layer.inputs.front() == "input") layer.inputs.front() = "pair";
        graph.layers.push_back(std::move(layer));
    }
    return graph;
}

template <Real R>
JointModel<R> fit_joint(const BlockRowCsr<R>& a, const JointOptions& options,
                        const SideFeatures<R>& features, const Steering& steering,
                        const JointWatch<R>& watch) {
    JointFit<R> fit(a, options, features);
    return fit.run(steering, watch);
}

template JointModel<float> fit_joint(const BlockRowCsr<float>&, const JointOptions&,
                                     const SideFeatures<float>&, const Steering&,
                                     const JointWatch<float>&);
template JointModel<double> fit_joint(const BlockRowCsr<double>&, const JointOptions&,
                                      const SideFeatures<double>&, const Steering&,
                                      const JointWatch<double>&);

}  // namespace rankfold
