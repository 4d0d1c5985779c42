// rankfold mlp: a matrix file, or factors beside it, in; a network file out.
#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include <rankfold/cli/loop.hpp>
#include <rankfold/cli/network_file.hpp>
#include <rankfold/data/text_reader.hpp>
#include <rankfold/hybrid/compress.hpp>
#include <rankfold/nn/sample_quality.hpp>

#include "network_settings.hpp"
#include "scoring.hpp"
#include "training.hpp"
#include "validation_part.hpp"

namespace rankfold::cli {

namespace {

struct MlpCommand {
    std::string matrix;
    std::string out;
    std::optional<std::string> head;
    std::optional<std::string> loss;
    std::optional<std::string> input;
    std::string factors_file;
    std::string init;
    std::string validation;
    std::vector<Index> hidden{256, 128};
    std::string activation = "relu";
    bool layer_norm = false;
    std::string standardise = "none";
    std::string class_weights = "none";
    double dropout = 0.1;
    Index factored = 0;
    std::string factorize;
    Index every_epochs = 2;
    NetworkSettings settings{.train = {.epochs = 12, .batch = 256, .optimizer = {}}};
    LoopOptions loop;
};

/// What is trained on: the matrix and the factors, and how they are used.
template <Real R>
struct MlpProblem {
    std::shared_ptr<const MatrixData<R>> matrix;
    std::shared_ptr<const MatrixData<R>> validation;
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
    auto [train, validation] = split_validation(run, load_matrix<R>(run, o.matrix), o.validation);
    p.matrix = std::move(train);
    p.validation = std::move(validation);
    const MatrixData<R>& a = *p.matrix;
    p.head = loss_of(o.head.value_or(a.labels ? "classes" : "columns"), o.loss.value_or(""));
    const bool own_rows = p.head == Loss::classes && o.factors_file.empty();
    p.input = input_of_name(o.input.value_or(own_rows ? "matrix" : "factors"));
    p.blocks = o.settings.blocks();
    if (p.head == Loss::classes && !a.labels) {
        throw input_error(o.matrix,
                          " has no labels (obs/label), which --head classes learns; "
                          "import it with --labels, or use --head columns");
    }
    if (p.head == Loss::classes) p.classes = class_count(a);
    if (p.validation && p.head == Loss::classes && !p.validation->labels) {
        throw input_error(p.validation->file, " has no labels to validate by");
    }
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

/// The graph with those layers factored that get smaller by it.
Graph with_factored_layers(Graph graph, Index inner) {
    for (LayerSpec& layer : graph.layers) {
        if (layer.kind != LayerKind::dense) continue;
        const Index in = graph.width(layer.inputs.front());
        if (inner * (in + layer.outputs) >= in * layer.outputs) continue;
        layer.kind = LayerKind::factored;
        layer.inner = inner;
    }
    return graph;
}

/// What "svd:0.25" asks for.
CompressOptions factorize_options(const Run& run, const std::string& text) {
    const auto colon = text.find(':');
    CompressOptions options{.method = compress_method(text.substr(0, colon)),
                            .seed = static_cast<std::uint64_t>(run.common.seed)};
    if (options.method == CompressMethod::activation_svd) {
        throw input_error("--factorize ", text, ": take svd, als or nmf");
    }
    if (colon != std::string::npos && (!parse_number(text.substr(colon + 1), options.size) ||
                                       options.size <= 0.0 || options.size > 1.0)) {
        throw input_error("--factorize ", text, ": after the colon comes a share, as svd:0.25");
    }
    return options;
}

/// The untrained network for inputs of this width.
template <Real R>
NetworkModel<R> new_network(Run& run, const MlpCommand& o, const MlpProblem<R>& p, Index width) {
    const MatrixData<R>& a = *p.matrix;
    std::vector<Index> hidden = o.hidden;
    std::erase(hidden, 0);
    const Index outputs = p.head == Loss::classes   ? p.classes
                          : p.head == Loss::squared ? 1
                                                    : a.cols();
    Graph graph = dense_chain(width, hidden, outputs, activation_of(o.activation), o.dropout);
    if (o.layer_norm) graph = with_layer_norms(graph);
    if (o.factored > 0) graph = with_factored_layers(std::move(graph), o.factored);
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

/// Weights by which every class counts alike: samples / (classes · samples of the class).
template <Real R>
std::vector<R> balanced_weights(const std::vector<Index>& counts) {
    const auto all = static_cast<double>(std::accumulate(counts.begin(), counts.end(), Index{0}));
    std::vector<R> weights;
    for (const Index n : counts) {
        weights.push_back(static_cast<R>(all / static_cast<double>(std::ssize(counts) * n)));
    }
    return weights;
}

/// Refuses classes that cannot be learnt because no row has them.
template <Real R>
void check_classes(const NetworkModel<R>& model, const std::vector<Index>& counts) {
    const auto empty = std::ranges::find(counts, Index{0});
    if (empty == counts.end()) return;
    throw input_error("the class ",
                      model.class_names[static_cast<std::size_t>(empty - counts.begin())],
                      " has no sample (", counts.size(),
                      " classes); leave it out of the labels, or give rows of it");
}

/// The measurement after every epoch: the accuracy of classes, else the loss.
template <Real R>
typename NetworkStop<R>::Measure measure_on(SamplesRef<R> samples, const MlpProblem<R>& p,
                                            NetworkModel<R>& model, Index threads) {
    const bool classes = p.head == Loss::classes;
    return {.name = classes ? "validation_accuracy" : "validation_loss",
            .greater_is_better = classes,
            .value = [samples, &model, threads, classes] {
                model.network.prepare(256);
                const SampleQuality quality =
                    sample_quality(model.network, samples, model.head, threads);
                return classes ? quality.accuracy : quality.loss;
            }};
}

/// `inner`, but before it, every so many epochs and not after the last, the weights are factorised
/// and put back.
template <Real R>
Steering projecting(Run& run, const MlpCommand& o, Network<R>& network, Steering inner) {
    if (o.factorize.empty()) return inner;
    const CompressOptions options = factorize_options(run, o.factorize);
    return {.restore = inner.restore,
            .after = [&run, &network, options, every = o.every_epochs, after = inner.after](
                         const Progress& progress, const TensorList& state) {
                if (progress.step % every == 0 && progress.step < progress.steps) {
                    const auto phase = run.comm.ledger().phase("factorise weights");
                    const bool weighted = options.method == CompressMethod::als;
                    project_weights(run.comm, network, options,
                                    weighted ? moment_importance(run.comm, network, state)
                                             : std::vector<LayerStatistics>{});
                }
                return after(progress, state);
            }};
}

/// Trains, with the best parameters kept if there is something to measure them by.
template <Real R>
void train(Run& run, const MlpCommand& o, const MlpProblem<R>& p, NetworkModel<R>& model,
           SamplesRef<R> samples) {
    const TrainOptions options = o.settings.resolved(run.common);
    o.settings.warn_of_idle_ranks(run);
    std::vector<std::pair<std::string, std::string>> inputs{
        {"matrix", digest_text(p.matrix->digest)}};
    if (p.factors) {
        inputs.emplace_back("factors", digest_text(digest(run.comm, p.factors->tensors())));
    }
    if (!o.init.empty()) {
        inputs.emplace_back("init", digest_text(digest(run.comm, model.tensors())));
    }
    Trainer<R> trainer(model.network, samples, p.head, options);
    run.result["samples"] = samples.samples();
    run.result["batch"] = trainer.batch();
    run.result["micro_batches"] = p.blocks;
    run.result["steps_per_epoch"] = trainer.steps_per_epoch();
    Steering steering = steer(run, o.loop, std::move(inputs));
    if (!p.validation) {
        trainer.run(projecting(run, o, model.network, std::move(steering)));
        return;
    }
    with_samples(model, *p.validation, p.blocks, [&](const auto& measured) {
        NetworkStop<R> stop(run, model.network,
                            measure_on<R>(SamplesRef<R>(measured), p, model, run.common.threads),
                            o.settings.patience);
        trainer.run(projecting(run, o, model.network, stop.around(std::move(steering))));
        stop.finish();
    });
}

/// Brings the parameters of an earlier network in, where both have them in the same shape.
template <Real R>
void start_from(Run& run, const std::string& file, NetworkModel<R>& model) {
    const auto init = load_network<R>(run, file);
    Index taken = 0;
    for (const ParameterTensor& tensor : model.network.arena().tensors()) {
        for (const ParameterTensor& other : init->network.arena().tensors()) {
            if (other.path != tensor.path || other.rows != tensor.rows ||
                other.cols != tensor.cols) {
                continue;
            }
            const auto from = init->network.arena().matrix(tensor.path);
            const auto to = model.network.arena().matrix(tensor.path);
            for (Index i = 0; i < from.rows; ++i) {
                std::ranges::copy(from.row(i), to.row(i).begin());
            }
            ++taken;
        }
    }
    if (taken == 0) {
        throw input_error("--init ", file,
                          " has no layer in common with the network that is to be trained; give "
                          "the same --hidden");
    }
    run.say(fmt::format("{} of {} parameter tensors start from {}", taken,
                        model.network.arena().tensors().size(), file));
}

/// Makes the network and its samples, and trains it.
template <Real R>
std::shared_ptr<NetworkModel<R>> fit(Run& run, const MlpCommand& o, const MlpProblem<R>& p) {
    const InputMeasure measure = measure_input(p);
    auto model = std::make_shared<NetworkModel<R>>(new_network(run, o, p, measure.width));
    model->scale = measure.scale;
    model->col_scale = measure.col_scale;
    if (o.standardise == "columns") {
        if (p.input != NetworkInput::matrix) {
            throw input_error("--standardise columns is for --input matrix");
        }
        model->scale = 1.0;
        model->standard =
            p.matrix->sparse ? column_scale(*p.matrix->sparse) : column_scale(*p.matrix->dense);
    }
    with_samples(*model, *p.matrix, p.blocks, [&](auto& samples) {
        if constexpr (requires { samples.log_frequencies(); }) {
            if (p.head == Loss::classes) check_classes(*model, samples.counts());
            if (o.class_weights == "balanced") {
                if (p.head != Loss::classes) {
                    throw input_error("--class-weights is for --head classes");
                }
                samples.set_class_weights(balanced_weights<R>(samples.counts()));
            } else if (p.head == Loss::classes || p.head == Loss::distribution) {
                set_output_bias<R>(model->network, samples.log_frequencies());
            }
        } else {
            const R mean = static_cast<R>(samples.mean());
            set_output_bias<R>(model->network, std::span<const R>(&mean, 1));
        }
        if (!o.init.empty()) start_from(run, o.init, *model);
        train(run, o, p, *model, SamplesRef<R>(samples));
    });
    return model;
}

template <Real R>
void run_mlp(Run& run, const MlpCommand& o) {
    std::vector<std::string> inputs{o.matrix};
    for (const std::string& file : {o.factors_file, o.init}) {
        if (!file.empty()) inputs.push_back(file);
    }
    run.check_output(o.out, inputs);
    if (o.settings.patience > 0 && o.validation.empty()) {
        throw input_error("--patience needs --validation");
    }
    if (!o.factorize.empty()) {
        static_cast<void>(factorize_options(run, o.factorize));
        if (o.factored > 0) throw input_error("give --factored or --factorize, not both");
        if (o.every_epochs >= o.settings.train.epochs) {
            throw input_error("--factorize would never do so: --every-epochs ", o.every_epochs,
                              " are not less than --epochs ", o.settings.train.epochs);
        }
    }
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
    options.positional("matrix", o->matrix, "Matrix file (HDF5): inputs, targets or both");
    options.add("out", o->out, "Network file to write");
    options.add("head", o->head,
                "What is learnt: classes of labelled rows, columns (each row's entries), or rating "
                "(each entry's value); default: classes if there are labels, else columns",
                Accept::one_of({"classes", "columns", "rating"}));
    options.add("loss", o->loss,
                "Of columns: cross-entropy (a row is a distribution), logistic (each column by "
                "itself), masked (squares of the values that a row has)",
                Accept::one_of({"cross-entropy", "logistic", "masked", "squared"}));
    options.add("input", o->input,
                "What is read: rows of the matrix, of the factors, or of the reconstruction X Yᵀ; "
                "default: matrix for classes without --factors-file, else factors",
                Accept::one_of({"matrix", "factors", "reconstruction"}));
    options.add("factors-file", o->factors_file, "Factors of the same rows (and columns)");
    options.add("init", o->init, "Network file to start from: layers of the same name and shape");
    options.add("validation", o->validation,
                "Matrix file to measure on after each epoch, or the share that is held back for "
                "it, as 0.1; the best parameters are kept");
    options.add("hidden", o->hidden, "Widths of the hidden layers; 0 for none",
                Accept::at_least(0));
    options.add("activation", o->activation, "Of the hidden layers",
                Accept::one_of({"relu", "gelu", "tanh", "sigmoid", "identity"}));
    options.add("layer-norm", o->layer_norm, "A layer norm before each activation");
    options.add("dropout", o->dropout, "Share of hidden units dropped in training",
                Accept::between(0, 0.99));
    options.add("factored", o->factored,
                "Weights as U Vᵀ with so many columns from the start, where that makes a layer "
                "smaller; 0: dense",
                Accept::at_least(0));
    options.add(
        "factorize", o->factorize,
        "METHOD:SHARE, as svd:0.25: every --every-epochs the weights are replaced by the "
        "product of factors of this size (svd; als, weighted by Adam's second moments; nmf), "
        "and trained on");
    options.add("every-epochs", o->every_epochs, "Epochs between two such factorizations",
                Accept::at_least(1));
    options.add("standardise", o->standardise,
                "columns: every input has mean 0 and deviation 1 over the training rows; none: the "
                "largest value becomes 1",
                Accept::one_of({"none", "columns"}));
    options.add("class-weights", o->class_weights, "balanced: every class counts alike",
                Accept::one_of({"none", "balanced"}));
    o->settings.declare(options);
    o->loop.declare(options);
    options.examples(
        "rankfold mlp images.h5 --out network.h5\n"
        "mpirun -n 4 rankfold mlp images.h5 --validation 0.1 --patience 5 --epochs 40 --out n.h5\n"
        "rankfold mlp ratings.h5 --head rating --factors-file factors.h5 --out ratings-net.h5");
    return [o](Run& run) {
        run.common.precision == "float" ? run_mlp<float>(run, *o) : run_mlp<double>(run, *o);
    };
}

}  // namespace rankfold::cli
