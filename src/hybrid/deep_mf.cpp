#include <rankfold/hybrid/deep_mf.hpp>

#include <algorithm>
#include <cmath>

#include <rankfold/core/subscript.hpp>
#include <rankfold/factor/half_sweep.hpp>
#include <rankfold/hybrid/entry_samples.hpp>

namespace rankfold {

namespace {

constexpr Index tile = 256;

/// Both towers, and their outputs side by side.
Graph tower_graph(Index m, Index n, const DeepMfOptions& options) {
    Graph graph;
    graph.inputs = {{.name = "row", .width = m, .index = true},
                    {.name = "column", .width = n, .index = true}};
    for (const std::string side : {"row", "column"}) {
        graph.layers.push_back({.name = side + "_embedding",
                                .kind = LayerKind::embedding,
                                .inputs = {side},
                                .outputs = options.embedding});
        std::string before = side + "_embedding";
        for (std::size_t l = 0; l < options.hidden.size(); ++l) {
            const std::string name = side + "_hidden" + std::to_string(l + 1);
            graph.layers.push_back({.name = name,
                                    .inputs = {before},
                                    .outputs = options.hidden[l],
                                    .activation = Activation::relu});
            before = name;
        }
        graph.layers.push_back({.name = side + "_tower", .inputs = {before}, .outputs = options.k});
    }
    graph.layers.push_back({.name = "towers",
                            .kind = LayerKind::concat,
                            .inputs = {"row_tower", "column_tower"},
                            .outputs = 2 * options.k});
    return graph;
}

/// Puts the leading factors into the embeddings, and, if they are all that a tower computes, 1 into
/// its diagonal. @collective
template <Real R>
void start_towers(const Factors<R>& start, const DeepMfOptions& options, Network<R>& network) {
    for (const bool columns : {false, true}) {
        const std::string side = columns ? "column" : "row";
        const DenseMatrix<R> factors = gather_all(columns ? start.cols : start.rows);
        const MatrixView<R> table = network.arena().matrix("embeddings/" + side + "_embedding");
        RANKFOLD_EXPECT(factors.rows() == table.rows);
        for (Index i = 0; i < table.rows; ++i) {
            for (Index f = 0; f < table.cols; ++f) {
                table(i, f) = f < factors.cols() ? factors(i, f) : R{0};
            }
        }
        if (!options.hidden.empty()) continue;
        const MatrixView<R> tower = network.arena().matrix("layers/" + side + "_tower/weight");
        for (Index i = 0; i < tower.rows; ++i) {
            for (Index j = 0; j < tower.cols; ++j) tower(i, j) = i == j ? R{1} : R{0};
        }
    }
}

/// Writes f (or g) of this rank's rows of one side, a tile at a time.
template <Real R>
void tower_outputs(const Network<R>& network, bool columns, BlockRows<R>& out) {
    Workspace<R> ws = network.workspace(tile, Purpose::inference);
    const Index k = out.cols();
    for (Index s = out.shards().begin; s < out.shards().end; ++s) {
        const Range rows = out.layout().shard_rows(s);
        for (Index first = rows.begin; first < rows.end; first += tile) {
            ws.rows = std::min(tile, rows.end - first);
            for (Index t = 0; t < ws.rows; ++t) {
                ws.indices[columns ? 1 : 0][at(t)] = first + t;
                ws.indices[columns ? 0 : 1][at(t)] = 0;
            }
            network.forward(ws);
            const auto z = network.output(ws).col_block(columns ? Range{k, 2 * k} : Range{0, k});
            for (Index t = 0; t < ws.rows; ++t) {
                std::ranges::copy(z.row(t), out.local().row(first + t - out.first_row()).begin());
            }
        }
    }
}

/// Entries of every column, over all ranks.
template <Real R>
std::vector<Index> column_counts(const BlockRowCsr<R>& a) {
    std::vector<Index> counts(at(a.cols()), 0);
    for (const ColIndex j : a.local().col_idx) ++counts[at(j)];
    a.comm().all_reduce(std::span<Index>(counts), Reduce::sum);
    return counts;
}

/// Gives the samples their targets and their shares λ n^(ν−1) of the penalties.
template <Real R>
void set_samples(const BlockRowCsr<R>& a, const DeepMfOptions& options, double mean,
                 EntrySamples<R>& samples) {
    const std::vector<Index> col_counts = column_counts(a);
    const auto share = [&](Index n) {
        return static_cast<R>(options.lambda *
                              std::pow(static_cast<double>(n), options.lambda_exponent - 1.0));
    };
    std::vector<R> targets;
    std::vector<R> rows;
    std::vector<R> cols;
    const CsrView<R> local = a.local().view();
    for (Index i = 0; i < local.rows; ++i) {
        for (Index e = local.row_ptr[i]; e < local.row_ptr[i + 1]; ++e) {
            targets.push_back(static_cast<R>(static_cast<double>(local.values[e]) - mean));
            rows.push_back(share(local.row_nnz(i)));
            cols.push_back(share(col_counts[at(local.col_idx[e])]));
        }
    }
    samples.set_targets(targets);
    samples.set_ridge(rows, cols);
}

}  // namespace

template <Real R>
DeepMfModel<R> fit_deep_mf(const BlockRowCsr<R>& a, const DeepMfOptions& options,
                           const Steering& steering, const Factors<R>* start) {
    BlockRowCsr<R> matrix(a.comm(), a.layout(), CsrMatrix<R>(a.local()));
    if (options.implicit) {
        for (R& v : matrix.local().values) v = R{1};
        matrix = with_zeros(matrix, options.zeros, options.train.seed);
    }
    const BlockRowCsr<R> transposed = transpose(matrix);
    const AlsOptions als{.k = options.k,
                         .lambda = options.lambda,
                         .lambda_exponent = options.lambda_exponent,
                         .centering = options.implicit ? Centering::none : options.centering};
    DeepMfModel<R> model{start_factors(matrix, transposed, als),
                         Network<R>(tower_graph(a.rows(), a.cols(), options))};
    Factors<R>& factors = model.factors;
    factors.method = "deepmf";
    model.network.initialize(options.train.seed);
    if (start != nullptr) start_towers(*start, options, model.network);

    const double mean = factors.global_mean;
    SideOptions side{.problem = row_problem(als, mean, a.cols()), .threads = options.train.threads};
    SparseSide<R> rows(matrix, side, factors.cols.layout(), options.k);
    side.problem = row_problem(als, mean, a.rows());
    const SparseSide<R> cols(transposed, side, factors.rows.layout(), options.k);
    EntrySamples<R> samples(matrix, options.micro_batches > 0
                                        ? options.micro_batches
                                        : default_micro_batches(options.train.batch));
    set_samples(matrix, options, mean, samples);
    Trainer<R> trainer(model.network, samples, Loss::factorization, options.train);

    const auto outputs = [&] {
        model.network.prepare(tile);
        tower_outputs(model.network, false, factors.rows);
        tower_outputs(model.network, true, factors.cols);
    };
    factors.history.columns = {"epoch", "objective", "train_rmse"};
    TensorList initial = trainer.state(0);
    for (Index e = steering.restore(initial); e < options.train.epochs; ++e) {
        trainer.epoch(e);
        Progress progress{
            .unit = "epoch", .step = e + 1, .steps = options.train.epochs, .values = {}};
        {
            const auto phase = a.comm().ledger().phase("objective");
            outputs();
            rows.gather(factors.cols);
            const SideLoss loss = rows.losses(factors.rows);
            const double objective = loss.entries + loss.ridge + cols.ridge(factors.cols);
            const double rmse = std::sqrt(loss.entries / static_cast<double>(matrix.nnz()));
            progress.values = {{"objective", objective}, {"train_rmse", rmse}};
            factors.history.rows.push_back({static_cast<double>(e + 1), objective, rmse});
        }
        if (steering.after(progress, trainer.state(e + 1)) == Verdict::stop) break;
    }
    outputs();  // also when an earlier run had done all epochs
    return model;
}

template DeepMfModel<float> fit_deep_mf(const BlockRowCsr<float>&, const DeepMfOptions&,
                                        const Steering&, const Factors<float>*);
template DeepMfModel<double> fit_deep_mf(const BlockRowCsr<double>&, const DeepMfOptions&,
                                         const Steering&, const Factors<double>*);

}  // namespace rankfold
