// rankfold mlp: a matrix file, or factors beside it, in; a network file out.
#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include <rankfold/cli/loop.hpp>
#include <rankfold/cli/network_file.hpp>
#include <rankfold/nn/trainer.hpp>

#include "training.hpp"

namespace rankfold::cli {

namespace {

struct MlpCommand {
    std::string matrix;
    std::string out;
    std::optional<std::string> head;
    std::optional<std::string> input;
    std::string factors_file;
    std::vector<Index> hidden{256, 128};
    std::string activation = "relu";
    std::string method = "adam";
    std::string schedule = "cosine";
    double dropout = 0.1;
    Index micro_batches = 0;
    TrainOptions train{.epochs = 12, .batch = 256, .optimizer = {}};
    LoopOptions loop;
};

/// What is trained on: the matrix and the factors, and how they are used.
template <Real R>
struct MlpProblem {
    std::shared_ptr<const MatrixData<R>> matrix;
    std::shared_ptr<Factors<R>> factors;
    Loss head = Loss::classes;
    NetworkInput input = NetworkInput::matrix;
    Index classes = 0;
    Index blocks = 4;
};

/// The number of classes: that of their names, else one more than the largest label. @collective
template <Real R>
Index class_count(const MatrixData<R>& a) {
    if (!a.class_names.empty()) return std::ssize(a.class_names);
    const auto labels = a.labels->local().data();
    const Index most = labels.empty() ? 0 : std::ranges::max(labels);
    return a.comm().all_reduce(most, Reduce::max) + 1;
}

template <Real R>
MlpProblem<R> open_problem(Run& run, const MlpCommand& o) {
    const auto phase = run.comm.ledger().phase("read");
    MlpProblem<R> p;
    p.matrix = run.handover.find<MatrixData<R>>(o.matrix);
    if (!p.matrix) {
        p.matrix = std::make_shared<const MatrixData<R>>(read_matrix<R>(run.comm, o.matrix));
    }
    const MatrixData<R>& a = *p.matrix;
    p.head = loss_of_head(o.head.value_or(a.labels ? "classes" : "columns"));
    const bool own_rows = p.head == Loss::classes && o.factors_file.empty();
    p.input = input_of_name(o.input.value_or(own_rows ? "matrix" : "factors"));
    p.blocks = o.micro_batches > 0 ? o.micro_batches : default_micro_batches(o.train.batch);
    if (p.head == Loss::classes && !a.labels) {
        throw input_error(o.matrix,
                          " has no labels (obs/label), which --head classes learns; "
                          "import it with --labels, or use --head columns");
    }
    if (p.head == Loss::classes) p.classes = class_count(a);
    if (p.head == Loss::squared && p.input != NetworkInput::factors) {
        throw input_error(
            "--head rating reads the factors of a row and a column; use --input "
            "factors");
    }
    if (p.head == Loss::squared && !a.sparse) {
        throw input_error("--head rating learns the entries of a sparse matrix, but ", o.matrix,
                          " is dense");
    }
    if (p.input == NetworkInput::matrix) return p;
    if (o.factors_file.empty()) {
        throw input_error("--input ", input_name(p.input),
                          " needs --factors-file FILE, from "
                          "`rankfold als` on the same matrix");
    }
    p.factors = run.handover.find<Factors<R>>(o.factors_file);
    if (!p.factors) {
        p.factors = std::make_shared<Factors<R>>(read_factors<R>(run.comm, o.factors_file));
    }
    return p;
}

/// Refuses factors whose columns are not those of the matrix, where that matters. @collective
template <Real R>
void check_columns(const MlpProblem<R>& p, const std::string& file) {
    if (p.head == Loss::classes) return;
    const Index known = p.factors->cols.rows();
    const auto map = match_names(p.matrix->comm(), p.matrix->ids, p.factors->ids, "var",
                                 p.matrix->cols(), known);
    if (p.matrix->cols() != known || !map.empty()) {
        throw input_error("the ", known, " columns of ", file, " are not the ", p.matrix->cols(),
                          " columns of ", p.matrix->file, "; use factors of the same matrix");
    }
}

/// 1 / max |value|, or 1 if all are 0. @collective
template <Real R>
double largest_to_one(const MatrixData<R>& a) {
    const std::span<const R> values = a.sparse ? std::span<const R>(a.sparse->local().values)
                                               : std::as_const(*a.dense).local().data();
    double most = 0.0;
    for (const R x : values) most = std::max(most, std::abs(static_cast<double>(x)));
    most = a.comm().all_reduce(most, Reduce::max);
    return most > 0.0 ? 1.0 / most : 1.0;
}

/// Width of what the network reads, and the scales that bring it to unit size.
struct InputMeasure {
    Index width = 0;
    double scale = 1.0;
    double col_scale = 1.0;
};

/// @collective
template <Real R>
InputMeasure measure_input(const MlpProblem<R>& p) {
    if (p.input == NetworkInput::matrix) return {p.matrix->cols(), largest_to_one(*p.matrix), 1.0};
    if (p.input == NetworkInput::reconstruction) {
        const ScoreProduct<R> product = score_product(*p.factors);
        return {product.rows.cols(), unit_scale(product), 1.0};
    }
    const BlockRows<R> rows = row_features(*p.factors);
    InputMeasure measure{rows.cols(), unit_scale(rows), 1.0};
    if (p.head == Loss::squared) {
        const BlockRows<R> cols = col_features(*p.factors);
        measure.width += cols.cols();
        measure.col_scale = unit_scale(cols);
    }
    return measure;
}

/// The untrained network for inputs of this width.
template <Real R>
NetworkModel<R> new_network(Run& run, const MlpCommand& o, const MlpProblem<R>& p, Index width) {
    const MatrixData<R>& a = *p.matrix;
    std::vector<Index> hidden = o.hidden;
    std::erase(hidden, 0);
    const Index outputs = p.head == Loss::classes        ? p.classes
                          : p.head == Loss::distribution ? a.cols()
                                                         : 1;
    Graph graph = dense_chain(width, hidden, outputs, activation_of(o.activation), o.dropout);
    if (p.input == NetworkInput::reconstruction) {
        LayerSpec& first = graph.layers.front();
        first.kind = LayerKind::factored;
        first.inner = p.factors->cols.rows();
        first.v = Origin::external;
    }
    NetworkModel<R> model{.head = p.head,
                          .input = p.input,
                          .class_names = a.class_names,
                          .network = Network<R>(std::move(graph)),
                          .factors = p.factors,
                          .ids = {},
                          .history = {}};
    if (p.head == Loss::classes && model.class_names.empty()) {
        for (Index c = 0; c < outputs; ++c) model.class_names.push_back(std::to_string(c));
    }
    if (p.input == NetworkInput::matrix && p.head != Loss::classes) model.ids = a.ids;
    model.network.initialize(static_cast<std::uint64_t>(run.common.seed));
    attach_factors(model);
    return model;
}

/// Starts the output at what is known without any input: frequencies, or the mean.
template <Real R>
void set_output_bias(Network<R>& network, std::span<const R> values) {
    std::ranges::copy(values, network.arena().matrix("layers/output/bias").row(0).begin());
}

template <Real R>
void train(Run& run, const MlpCommand& o, const MlpProblem<R>& p, NetworkModel<R>& model,
           SamplesRef<R> samples) {
    TrainOptions options = o.train;
    options.optimizer.method = o.method == "adam" ? Method::adam : Method::sgd;
    options.optimizer.schedule = o.schedule == "cosine" ? Schedule::cosine : Schedule::constant;
    options.seed = static_cast<std::uint64_t>(run.common.seed);
    options.threads = run.common.threads;
    if (run.comm.size() > p.blocks) {
        run.log(
            fmt::format("warning: {} of the {} ranks have no samples: a batch is cut into {} "
                        "micro-batches (--micro-batches)",
                        run.comm.size() - p.blocks, run.comm.size(), p.blocks));
    }
    std::vector<std::pair<std::string, std::string>> inputs{
        {"matrix", digest_text(p.matrix->digest)}};
    if (p.factors) {
        inputs.emplace_back("factors", digest_text(digest(run.comm, p.factors->tensors())));
    }
    Trainer<R> trainer(model.network, samples, p.head, options);
    trainer.run(steer(run, o.loop, std::move(inputs)));
    run.result["samples"] = samples.samples();
    run.result["batch"] = trainer.batch();
    run.result["micro_batches"] = p.blocks;
    run.result["steps_per_epoch"] = trainer.steps_per_epoch();
}

/// Makes the network and its samples, and trains it.
template <Real R>
std::shared_ptr<NetworkModel<R>> fit(Run& run, const MlpCommand& o, const MlpProblem<R>& p) {
    const InputMeasure measure = measure_input(p);
    auto model = std::make_shared<NetworkModel<R>>(new_network(run, o, p, measure.width));
    model->scale = measure.scale;
    model->col_scale = measure.col_scale;
    with_samples(*model, *p.matrix, p.blocks, [&](const auto& samples) {
        if constexpr (requires { samples.log_frequencies(); }) {
            set_output_bias<R>(model->network, samples.log_frequencies());
        } else {
            const R mean = static_cast<R>(samples.mean());
            set_output_bias<R>(model->network, std::span<const R>(&mean, 1));
        }
        train(run, o, p, *model, SamplesRef<R>(samples));
    });
    return model;
}

template <Real R>
void run_mlp(Run& run, const MlpCommand& o) {
    std::vector<std::string> inputs{o.matrix};
    if (!o.factors_file.empty()) inputs.push_back(o.factors_file);
    run.check_output(o.out, inputs);
    const MlpProblem<R> p = open_problem<R>(run, o);
    if (p.factors) check_columns(p, o.factors_file);
    if (run.common.dry_run) return;

    const auto model = fit(run, o, p);
    model->history = run.history;
    {
        const auto phase = run.comm.ledger().phase("write");
        write_network(run.comm, o.out, *model,
                      {.command = "mlp",
                       .options = run.options.dump(),
                       .input_digest = digest_text(p.matrix->digest)});
    }
    run.digest = digest_text(digest(run.comm, model->tensors()));
    const Graph& graph = model->network.graph();
    Index parameters = 0;
    for (const auto& tensor : model->network.arena().tensors()) parameters += tensor.size();
    run.result["head"] = head_name(p.head);
    run.result["input"] = input_name(p.input);
    run.result["parameters"] = parameters;
    std::string widths =
        std::to_string(p.input == NetworkInput::reconstruction ? graph.layers.front().inner
                                                               : graph.inputs.front().width);
    for (const LayerSpec& layer : graph.layers) widths += fmt::format("-{}", layer.outputs);
    run.say(fmt::format("network {} on {} ({}), head {}: {} parameters", widths,
                        input_name(p.input), o.activation, head_name(p.head), parameters));
    if (!run.history.rows.empty()) {
        run.result["loss"] = run.history.rows.back()[1];
        run.say(fmt::format("{} samples, {} epochs, training loss {:.4f}",
                            run.result["samples"].template get<Index>(), run.history.rows.size(),
                            run.history.rows.back()[1]));
    }
    run.say("wrote " + o.out);
    run.handover.leave(o.out, model);
}

}  // namespace

Action declare_mlp(Options& options) {
    auto o = std::make_shared<MlpCommand>();
    OptimizerOptions& optimizer = o->train.optimizer;
    options.positional("matrix", o->matrix, "Matrix file (HDF5): inputs, targets or both");
    options.add("out", o->out, "Network file to write");
    options.add("head", o->head,
                "What is learnt: classes of labelled rows, columns (each row's entries as a "
                "distribution), or rating (each entry's value); default: classes if there are "
                "labels, else columns",
                Accept::one_of({"classes", "columns", "rating"}));
    options.add("input", o->input,
                "What is read: rows of the matrix, of the factors, or of the reconstruction X Yᵀ; "
                "default: matrix for classes without --factors-file, else factors",
                Accept::one_of({"matrix", "factors", "reconstruction"}));
    options.add("factors-file", o->factors_file, "Factors of the same rows (and columns)");
    options.add("hidden", o->hidden, "Widths of the hidden layers; 0 for none",
                Accept::at_least(0));
    options.add("activation", o->activation, "Of the hidden layers",
                Accept::one_of({"relu", "tanh", "sigmoid", "identity"}));
    options.add("epochs", o->train.epochs, "Passes over the samples", Accept::at_least(1));
    options.add("batch", o->train.batch, "Samples of a global batch", Accept::at_least(1));
    options.add("micro-batches", o->micro_batches,
                "Blocks that a batch is cut into, whatever the number of ranks; 0: the largest "
                "power of two up to batch / 128, at least 4",
                Accept::at_least(0));
    options.add("optimizer", o->method, "Update rule", Accept::one_of({"adam", "sgd"}));
    options.add("learning-rate", optimizer.learning_rate, "At the start", Accept::above(0));
    options.add("momentum", optimizer.momentum, "Of sgd", Accept::between(0, 0.9999));
    options.add("schedule", o->schedule, "Of the learning rate: cosine falls to 0 at the end",
                Accept::one_of({"cosine", "constant"}));
    options.add("dropout", o->dropout, "Share of hidden units dropped in training",
                Accept::between(0, 0.99));
    o->loop.declare(options);
    options.examples(
        "rankfold mlp images.h5 --out network.h5\n"
        "mpirun -n 4 rankfold mlp clicks.h5 --factors-file factors.h5 --hidden 256 --out n.h5\n"
        "rankfold mlp ratings.h5 --head rating --factors-file factors.h5 --out ratings-net.h5");
    return [o](Run& run) {
        run.common.precision == "float" ? run_mlp<float>(run, *o) : run_mlp<double>(run, *o);
    };
}

}  // namespace rankfold::cli
