// rankfold deepmf: the factorization posed as a network.
#include <algorithm>

#include <fmt/format.h>

#include <rankfold/cli/loop.hpp>
#include <rankfold/cli/network_file.hpp>
#include <rankfold/eval/ranking.hpp>
#include <rankfold/eval/scorer.hpp>
#include <rankfold/hybrid/deep_mf.hpp>

#include "als_settings.hpp"
#include "early_stop.hpp"
#include "network_settings.hpp"
#include "scoring.hpp"
#include "tower_files.hpp"

namespace rankfold::cli {

namespace {

struct DeepMfCommand {
    std::string matrix;
    std::string out;
    std::vector<std::string> input{"embeddings"};
    TowerFileNames files;
    std::string init;
    std::string centering = "mean";
    std::string loss = "squared";
    std::optional<double> zeros;
    std::optional<Index> embedding;
    std::string validation;
    std::string validation_metric;
    std::string validation_negatives;
    DeepMfOptions deep;
    NetworkSettings settings;
    LoopOptions loop;

    [[nodiscard]] bool reads(const char* what) const {
        return std::ranges::find(input, what) != input.end();
    }
    [[nodiscard]] bool ranks() const { return deep.als.implicit || loss == "logistic"; }
};

/// Refuses options that do not go together.
void check_options(const DeepMfCommand& o) {
    for (const std::string& what : o.input) {
        if (what != "embeddings" && what != "rows" && what != "factors" && what != "features") {
            throw input_error("--input '", what,
                              "' is none of embeddings, rows, factors and features");
        }
    }
    if (o.reads("factors") == o.files.factors_file.empty()) {
        throw input_error("--input factors and --factors-file FILE go together");
    }
    const bool given = !o.files.row_features.empty() || !o.files.col_features.empty();
    if (o.reads("features") != given) {
        throw input_error(
            "--input features goes together with --row-features FILE, --col-features FILE or both");
    }
    if (o.input == std::vector<std::string>{"features"} &&
        (o.files.row_features.empty() || o.files.col_features.empty())) {
        throw input_error(
            "--input features alone needs --row-features and --col-features: one of the towers "
            "would read nothing");
    }
    if (!o.init.empty() && !o.reads("embeddings")) {
        throw input_error("--init is for --input embeddings; factors are read by --input factors");
    }
    if (o.deep.entry_dropout > 0.0 && !o.reads("rows")) {
        throw input_error("--entry-dropout is for --input rows");
    }
    if (o.loss == "logistic" && (o.deep.als.implicit || o.deep.als.unobserved_weight)) {
        throw input_error(
            "--implicit and --unobserved-weight are for --loss squared: --loss logistic tells "
            "entries from drawn pairs");
    }
    if (o.zeros && !o.ranks()) throw input_error("--zeros is for --implicit or --loss logistic");
    if (o.zeros && o.deep.als.unobserved_weight) {
        throw input_error("--zeros takes drawn pairs, --unobserved-weight all of them: give one");
    }
    const bool extras =
        !o.validation_negatives.empty() || !o.validation_metric.empty() || o.settings.patience > 0;
    if (o.validation.empty() && extras) {
        throw input_error(
            "--validation-metric, --validation-negatives and --patience need --validation");
    }
}

DeepMfOptions resolve(const Run& run, const DeepMfCommand& o) {
    DeepMfOptions options = o.deep;
    options.als.centering = o.centering == "mean" ? Centering::mean : Centering::none;
    options.als.seed = static_cast<std::uint64_t>(run.common.seed);
    options.tower.embedding = o.embedding.value_or(options.als.k);
    std::erase(options.tower.hidden, 0);
    options.logistic = o.loss == "logistic";
    options.zeros = o.zeros.value_or(options.logistic ? 4.0 : 0.0);
    options.micro_batches = o.settings.blocks();
    options.train = o.settings.resolved(run.common);
    return options;
}

/// The towers' factors on the validation part.
template <Real R>
class FactorValidation {
public:
    FactorValidation(Run& run, const DeepMfCommand& o, const TrainingData<R>& data,
                     const DeepMf<R>& fit)
        : run_{run}, fit_{fit} {
        metric_ = parse_metric(!o.validation_metric.empty() ? o.validation_metric
                               : o.ranks()                  ? "ndcg@10"
                                                            : "rmse");
        if (metric_.classifies()) {
            throw input_error("--validation-metric ", metric_.name,
                              " is for classes, not for factors");
        }
        const ShardLayout& layout = fit.factors().rows.layout();
        train_ = redistribute(*data.train->sparse, layout);
        test_ = redistribute(*data.validation, layout);
        if (o.validation_negatives.empty()) return;
        const auto part = load_matrix<R>(run, o.validation_negatives);
        if (!part->sparse) throw input_error(o.validation_negatives, " must be sparse");
        negatives_ = align_by_name(*part, data.train->ids, layout, data.train->cols()).matrix;
    }

    [[nodiscard]] typename NetworkStop<R>::Measure measure() {
        return {.name = "validation_" + metric_.name,
                .greater_is_better = metric_.ranks(),
                .value = [this] { return value(); }};
    }

private:
    double value() {
        const FactorScorer<R> scorer(fit_.factors());
        if (!metric_.ranks()) {
            const RatingErrors errors =
                rating_errors<R>(scorer, test_, {}, {}, run_.common.threads);
            return metric_.kind == MetricKind::rmse ? errors.rmse.value : errors.mae.value;
        }
        RankingTask<R> task{.test = test_};
        if (negatives_) {
            task.negatives = &*negatives_;
        } else {
            task.train = &train_;
        }
        return rank_quality<R>(scorer, task, std::span<const Metric>(&metric_, 1),
                               run_.common.threads)
            .metrics.front()
            .value;
    }

    Run& run_;
    const DeepMf<R>& fit_;
    Metric metric_;
    BlockRowCsr<R> train_;
    BlockRowCsr<R> test_;
    std::optional<BlockRowCsr<R>> negatives_;
};

template <Real R>
DeepMfModel<R> fit(Run& run, const DeepMfCommand& o, const DeepMfOptions& options,
                   const TrainingData<R>& data, const DeepMfData<R>& given, Steering steering) {
    o.settings.warn_of_idle_ranks(run);
    DeepMf<R> towers(*data.train->sparse, options, given);
    if (!data.validation) {
        towers.run(steering);
        return towers.finish();
    }
    FactorValidation<R> validation(run, o, data, towers);
    NetworkStop<R> stop(run, towers.network(), validation.measure(), o.settings.patience);
    towers.run(stop.around(std::move(steering)));
    stop.finish();
    return towers.finish();
}

/// Tells what came out: the report's numbers, and a line.
template <Real R>
void report_model(Run& run, const DeepMfCommand& o, const NetworkModel<R>& model) {
    Index parameters = 0;
    for (const auto& tensor : model.network.arena().tensors()) parameters += tensor.size();
    run.result["parameters"] = parameters;
    auto objective = nlohmann::ordered_json::array();
    for (const auto& row : run.history.rows) {
        objective.push_back({{"block", "network"}, {"value", row[1]}});
    }
    run.result["objective"] = objective;
    std::string inputs;
    for (const auto& name : o.input) inputs += (inputs.empty() ? "" : ", ") + name;
    if (run.history.rows.empty()) return;
    run.say(
        fmt::format("{} towers of {} outputs on {}: {} parameters, objective {:.6g} after {} "
                    "epochs",
                    o.deep.tower.hidden.empty() ? "linear" : "nonlinear", o.deep.als.k, inputs,
                    parameters, run.history.rows.back()[1], run.history.rows.size()));
}

template <Real R>
void run_deepmf(Run& run, const DeepMfCommand& o) {
    std::vector<std::string> files{o.matrix};
    for (const auto& file : {o.init, o.validation, o.validation_negatives}) {
        if (!file.empty() && !(file == o.validation && validation_share(file))) {
            files.push_back(file);
        }
    }
    std::ranges::copy(o.files.given(), std::back_inserter(files));
    run.check_output(o.out, files);
    check_options(o);
    const DeepMfOptions options = resolve(run, o);
    if (!load_matrix<R>(run, o.matrix)->sparse) {
        throw input_error("deepmf learns the entries of a sparse matrix, but ", o.matrix,
                          " is dense; import it with --missing or as triplets");
    }
    StopRule rule;
    rule.validation = o.validation;
    TrainingData<R> data = load_training<R>(run, o.matrix, rule);
    AlsOptions problem = options.als;
    problem.implicit = o.ranks();
    check_problem(*data.train, problem);
    TowerFiles<R> given;
    given.open(run, o.files, *data.train, data.inputs);
    given.data.rows.embeddings = given.data.cols.embeddings = o.reads("embeddings");
    given.data.entries = o.reads("rows");
    std::shared_ptr<Factors<R>> init;
    if (!o.init.empty()) {
        const auto whole = load_factors<R>(run, o.init);
        data.inputs.emplace_back("init", digest_text(digest(run.comm, whole->tensors())));
        init = factors_for(run, o.init, *whole, *data.train);
        given.data.start = init.get();
    }
    if (run.common.dry_run) return;

    auto fitted = fit(run, o, options, data, given.data, steer(run, o.loop, data.inputs));
    auto factors = std::make_shared<Factors<R>>(std::move(fitted.factors));
    factors->ids = data.train->ids;
    factors->options = run.options.dump();
    factors->history = run.history;
    auto model =
        std::make_shared<NetworkModel<R>>(NetworkModel<R>{.head = options.loss(),
                                                          .input = NetworkInput::towers,
                                                          .class_names = {},
                                                          .network = std::move(fitted.network),
                                                          .factors = factors,
                                                          .ids = {},
                                                          .history = run.history});
    {
        const auto phase = run.comm.ledger().phase("write");
        write_network(run.comm, o.out, *model,
                      {.command = "deepmf",
                       .options = run.options.dump(),
                       .input_digest = digest_text(data.train->digest)});
    }
    run.digest = digest_text(digest(run.comm, model->tensors()));
    report_model(run, o, *model);
    run.say("wrote " + o.out);
    run.handover.leave(o.out, model);
}

void declare_objective(Options& options, DeepMfCommand& o) {
    AlsOptions& als = o.deep.als;
    options.add("factors", als.k, "Outputs of the towers k", Accept::between(1, 65536));
    options.add("lambda", als.lambda, "Ridge weight λ of the outputs, as in als",
                Accept::at_least(0));
    options.add("lambda-exponent", als.lambda_exponent,
                "ν: λ is scaled by (entries of the row or column)^ν", Accept::at_least(0));
    options.add("implicit", als.implicit,
                "Values say how sure a preference is, over all pairs, as in als");
    options.add("alpha", als.alpha, "Implicit: the confidence of an entry v is 1 + α v",
                Accept::at_least(0));
    options.add("unobserved-weight", als.unobserved_weight,
                "Implicit, Rendle's form: weight α0 of the pairs without an entry",
                Accept::above(0));
    options.add("centering", o.centering, "Explicit: what is subtracted from the values",
                Accept::one_of({"mean", "none"}));
    options.add("loss", o.loss,
                "squared, of the values or (--implicit) of preferences; logistic tells entries "
                "from drawn pairs without one",
                Accept::one_of({"squared", "logistic"}));
    options.add("zeros", o.zeros,
                "Pairs without an entry that are drawn every epoch, per entry: logistic (default: "
                "4), or implicit in place of all pairs",
                Accept::above(0));
}

void declare_towers(Options& options, DeepMfCommand& o) {
    options.add("input", o.input,
                "What the towers read, one or several: embeddings (free, of every row and column), "
                "rows (the row or column of the matrix itself), factors (of --factors-file), "
                "features");
    options.add("embedding", o.embedding,
                "Width of the tables of embeddings, rows and features; default: as --factors",
                Accept::at_least(1));
    options.add("hidden", o.deep.tower.hidden,
                "Widths of the hidden layers of each tower, beside its linear part; 0 for none",
                Accept::at_least(0));
    options.add("dropout", o.deep.tower.dropout, "Share of hidden units dropped in training",
                Accept::between(0, 0.99));
    options.add("entry-dropout", o.deep.entry_dropout,
                "Share of a row's entries that its tower does not see, others in each epoch",
                Accept::between(0, 0.99));
    o.files.declare(options);
    options.add("init", o.init, "Factors that the embeddings begin with");
}

}  // namespace

Action declare_deepmf(Options& options) {
    auto o = std::make_shared<DeepMfCommand>();
    o->settings.train = o->deep.train;
    options.positional("matrix", o->matrix, "Matrix file (HDF5), sparse");
    options.add("out", o->out, "Network file to write, with the factors in it");
    declare_objective(options, *o);
    declare_towers(options, *o);
    options.add("validation", o->validation,
                "Matrix file to measure on after each epoch, or the share of the entries that is "
                "held back for it, as 0.1; the best parameters are kept, the start's may be");
    options.add("validation-metric", o->validation_metric,
                "rmse, mae or a ranking as ndcg@10; rmse for values and ndcg@10 otherwise unless "
                "given");
    options.add("validation-negatives", o->validation_negatives,
                "Candidates beside the validation entries; all columns without an entry unless "
                "given");
    o->settings.declare(options);
    o->loop.declare(options);
    options.examples(
        "rankfold deepmf ratings.h5 --factors 16 --out towers.h5\n"
        "mpirun -n 4 rankfold deepmf clicks.h5 --implicit --unobserved-weight 0.1 --input rows "
        "--hidden 256 --entry-dropout 0.3 --validation 0.1 --out towers.h5\n"
        "rankfold deepmf clicks.h5 --loss logistic --input rows,features --row-features users.h5 "
        "--out towers.h5");
    return [o](Run& run) {
        run.common.precision == "float" ? run_deepmf<float>(run, *o) : run_deepmf<double>(run, *o);
    };
}

}  // namespace rankfold::cli
