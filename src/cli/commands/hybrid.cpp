// rankfold hybrid: a factorization and a network with one objective.
#include <algorithm>
#include <charconv>
#include <iterator>
#include <map>

#include <fmt/format.h>

#include <rankfold/cli/joint_scorer.hpp>
#include <rankfold/cli/loop.hpp>
#include <rankfold/cli/network_file.hpp>
#include <rankfold/hybrid/joint.hpp>

#include "early_stop.hpp"
#include "network_settings.hpp"
#include "neumf.hpp"
#include "pair_validation.hpp"
#include "scoring.hpp"
#include "side_features.hpp"

namespace rankfold::cli {

namespace {

struct HybridCommand {
    std::string matrix;
    std::string out;
    std::string form = "joint";
    std::string centering = "mean";
    std::vector<std::string> hidden;
    std::optional<Index> embedding;
    std::optional<Index> epochs;
    std::optional<Index> batch;
    std::optional<Index> factors;
    std::optional<double> learning_rate;
    std::string row_features;
    std::string col_features;
    JointOptions joint;
    NeuMfCommand neumf;
    LoopOptions loop;
};

/// The widths of hidden layers; none for "none".
std::vector<Index> widths_of(const std::vector<std::string>& list) {
    std::vector<Index> widths;
    for (const auto& width : list) {
        if (width == "none" && list.size() == 1) break;
        Index value = 0;
        const auto [end, code] = std::from_chars(width.data(), width.data() + width.size(), value);
        if (code != std::errc() || end != width.data() + width.size() || value < 1) {
            throw input_error("--hidden '", width, "' is neither a width nor none");
        }
        widths.push_back(value);
    }
    return widths;
}

JointOptions resolve(const Run& run, const HybridCommand& o) {
    JointOptions options = o.joint;
    options.als.seed = static_cast<std::uint64_t>(run.common.seed);
    options.als.threads = run.common.threads;
    options.als.centering = o.centering == "mean" ? Centering::mean : Centering::none;
    options.als.k = o.factors.value_or(options.als.k);
    if (!o.hidden.empty()) options.hidden = widths_of(o.hidden);
    options.embedding = o.embedding.value_or(options.embedding);
    options.epochs = o.epochs.value_or(options.epochs);
    options.batch = o.batch.value_or(options.batch);
    options.optimizer.learning_rate = o.learning_rate.value_or(options.optimizer.learning_rate);
    if ((options.prior_weight > 0.0) == (o.row_features.empty() && o.col_features.empty())) {
        throw input_error(
            "--prior-weight pulls factors towards what their features say: it goes together with "
            "--row-features FILE, --col-features FILE or both");
    }
    return options;
}

/// Every block's objective, in order, for the report.
nlohmann::ordered_json objectives(double start, const History& history) {
    nlohmann::ordered_json list{{{"block", "start"}, {"value", start}}};
    for (const auto& row : history.rows) {
        for (std::size_t b = 1; b < 4; ++b) {  // then what is measured beside them
            list.push_back({{"block", history.columns[b]}, {"value", row[b]}});
        }
    }
    return list;
}

template <Real R>
void write_model(Run& run, const HybridCommand& o, JointModel<R>& model,
                 const Provenance& provenance) {
    const auto phase = run.comm.ledger().phase("write");
    auto factors = std::make_shared<Factors<R>>(std::move(model.factors));
    MoreTensors priors;
    add_prior(priors, row_prior_group, model.row_prior);
    add_prior(priors, col_prior_group, model.col_prior);
    const auto leave_digest = [&](TensorList tensors) {
        std::ranges::copy(priors.list.tensors, std::back_inserter(tensors.tensors));
        run.digest = digest_text(digest(run.comm, tensors));
    };
    if (!model.network) {  // then it is a plain factors file
        write_factors(o.out, *factors, provenance, std::nullopt, priors);
        leave_digest(factors->tensors());
        run.handover.leave(o.out, factors);
        return;
    }
    auto whole =
        std::make_shared<NetworkModel<R>>(NetworkModel<R>{.head = Loss::squared,
                                                          .input = NetworkInput::indices,
                                                          .class_names = {},
                                                          .network = std::move(*model.network),
                                                          .factors = factors,
                                                          .ids = {},
                                                          .history = run.history});
    write_network(run.comm, o.out, *whole, provenance, priors);
    TensorList tensors = whole->network.arena().list();
    for (Tensor& tensor : factors->tensors().tensors) tensors.tensors.push_back(tensor);
    leave_digest(std::move(tensors));
    run.handover.leave(o.out, whole);
}

/// Everything that the best round has.
template <Real R>
TensorList parameters_of(JointModel<R>& model) {
    TensorList list = model.factors.tensors();
    const auto append = [&list](const std::string& group, std::optional<Network<R>>& network) {
        if (!network) return;
        for (Tensor tensor : network->arena().list().tensors) {
            tensor.path = group + "/" + tensor.path;
            list.tensors.push_back(std::move(tensor));
        }
    };
    append("network", model.network);
    append(row_prior_group, model.row_prior);
    append(col_prior_group, model.col_prior);
    return list;
}

/// fit_joint(), from given factors if there are any, and with the best round kept if there is a
/// validation part.
template <Real R>
JointModel<R> fit_validated(Run& run, const HybridCommand& o, const JointOptions& options,
                            const std::shared_ptr<const MatrixData<R>>& a,
                            const SideFeatures<R>& features) {
    std::vector<std::pair<std::string, std::string>> inputs{{"matrix", digest_text(a->digest)}};
    std::shared_ptr<const Factors<R>> init;
    if (!o.neumf.init.empty()) {
        const auto given = load_factors<R>(run, o.neumf.init);
        inputs.emplace_back("init", digest_text(digest(run.comm, given->tensors())));
        init = given;
    }
    Steering steering = steer(run, o.loop, std::move(inputs));
    if (init) steering = warm_start(init, a, options.als.k, std::move(steering));
    if (o.neumf.validation.empty()) return fit_joint(*a->sparse, options, features, steering);

    const bool values = !options.als.implicit;
    PairValidation<R> validation(run, {o.neumf.validation, o.neumf.validation_negatives}, *a,
                                 a->layout(), values);
    JointModel<R>* model = nullptr;
    const auto measured = [&] {
        if (model->network) {
            return validation.measure(JointScorer<R>(model->factors, *model->network));
        }
        return validation.measure(FactorScorer<R>(model->factors));
    };
    NetworkStop<R> stop(
        run, [&] { return parameters_of(*model); },
        {.name = "validation_" + validation.metric(),
         .greater_is_better = !values,
         .value = measured,
         .unit = "round"},
        o.neumf.settings.patience);
    JointModel<R> fitted =
        fit_joint<R>(*a->sparse, options, features, stop.around(std::move(steering)),
                     [&](JointModel<R>& live) { model = &live; });
    model = &fitted;
    stop.finish();
    return fitted;
}

template <Real R>
void run_hybrid(Run& run, const HybridCommand& o) {
    std::vector<std::string> inputs{o.matrix};
    for (const auto& file : {o.row_features, o.col_features, o.neumf.init, o.neumf.validation,
                             o.neumf.validation_negatives}) {
        if (!file.empty()) inputs.push_back(file);
    }
    run.check_output(o.out, inputs);
    const JointOptions options = resolve(run, o);
    if (o.neumf.validation.empty() &&
        (!o.neumf.validation_negatives.empty() || o.neumf.settings.patience > 0)) {
        throw input_error("--validation-negatives and --patience need --validation FILE");
    }
    const auto a = load_matrix<R>(run, o.matrix);
    if (!a->sparse) {
        throw input_error("hybrid learns the entries of a sparse matrix, but ", o.matrix,
                          " is dense");
    }
    std::optional<BlockRows<R>> row_features;
    std::optional<BlockRows<R>> col_features;
    SideFeatures<R> features;
    if (!o.row_features.empty()) {
        row_features =
            dense_rows(load_features<R>(run, o.row_features, a->ids, "obs", a->layout()));
        features.rows = &*row_features;
    }
    if (!o.col_features.empty()) {
        const ShardLayout even = ShardLayout::even(a->cols(), 64, run.comm.size());
        col_features = dense_rows(load_features<R>(run, o.col_features, a->ids, "var", even));
        features.cols = &*col_features;
    }
    if (run.common.dry_run) return;

    JointModel<R> model = fit_validated(run, o, options, a, features);
    model.factors.ids = a->ids;
    model.factors.options = run.options.dump();
    model.factors.history = run.history;
    run.result["objective"] = objectives(model.start_objective, run.history);
    run.say(fmt::format("objective: {:.8g} at the start", model.start_objective));
    for (const auto& row : run.history.rows) {
        run.say(fmt::format("round {:>3}: rows {:.8g}  columns {:.8g}  network {:.8g}", row[0],
                            row[1], row[2], row[3]));
    }
    write_model(run, o, model,
                {.command = "hybrid",
                 .options = run.options.dump(),
                 .input_digest = digest_text(a->digest)});
    run.say("wrote " + o.out);
}

/// Refuses options that the form has no use for.
void check_form(const Options& options, const std::string& form) {
    const std::map<std::string, std::vector<std::string>> only{
        {"joint",
         {"rounds", "lambda", "lambda-exponent", "implicit", "alpha", "unobserved-weight",
          "centering", "start-deviation", "zeros", "row-features", "col-features", "prior-weight"}},
        {"neumf", {"negatives", "loss", "dropout"}}};
    for (const auto& [of, names] : only) {
        for (const auto& name : names) {
            if (of != form && options.given(name)) {
                throw input_error("--", name, " is for --form ", of);
            }
        }
    }
}

/// What the options say of the other form.
NeuMfCommand neumf_of(const HybridCommand& o) {
    NeuMfCommand neumf = o.neumf;
    neumf.matrix = o.matrix;
    neumf.out = o.out;
    neumf.loop = o.loop;
    neumf.factors = o.factors;
    neumf.shape.embedding = o.embedding.value_or(neumf.shape.embedding);
    if (!o.hidden.empty()) neumf.shape.hidden = widths_of(o.hidden);
    neumf.settings.train.epochs = o.epochs.value_or(neumf.settings.train.epochs);
    neumf.settings.train.batch = o.batch.value_or(neumf.settings.train.batch);
    neumf.settings.train.optimizer.learning_rate =
        o.learning_rate.value_or(neumf.settings.train.optimizer.learning_rate);
    neumf.settings.micro_batches = o.joint.micro_batches;
    return neumf;
}

}  // namespace

Action declare_hybrid(Options& options) {
    auto o = std::make_shared<HybridCommand>();
    AlsOptions& als = o->joint.als;
    options.positional("matrix", o->matrix, "Matrix file (HDF5), sparse");
    options.add("out", o->out, "Network file to write, with the factors in it");
    options.add("form", o->form,
                "joint: factors and a network of pairs, one objective; neumf: embeddings of which "
                "some are multiplied and some read by a tower, on entries and drawn pairs",
                Accept::one_of({"joint", "neumf"}));
    options.add("factors", o->factors,
                "Number of factors k; default: 64, neumf: as many as --init has, else 32",
                Accept::between(1, 65536));
    options.add("rounds", o->joint.rounds, "Rounds of rows, columns and network",
                Accept::at_least(1));
    options.add("lambda", als.lambda, "Ridge weight λ", Accept::at_least(0));
    options.add("lambda-exponent", als.lambda_exponent,
                "ν: λ is scaled by (entries of the row or column)^ν", Accept::at_least(0));
    options.add("implicit", als.implicit, "Entries are confidences, not values");
    options.add("alpha", als.alpha, "Implicit: the confidence of an entry v is 1 + α v",
                Accept::at_least(0));
    options.add("unobserved-weight", als.unobserved_weight,
                "Implicit, Rendle's form: weight α0 of the pairs without an entry",
                Accept::above(0));
    options.add("centering", o->centering, "Explicit: what is subtracted from the values",
                Accept::one_of({"mean", "none"}));
    options.add("start-deviation", als.start_deviation,
                "Standard deviation of the column factors' start", Accept::above(0));
    options.add("hidden", o->hidden,
                "Widths of the network's hidden layers, or none; default: 32, neumf: 128,64,32");
    options.add("embedding", o->embedding,
                "Width of the network's own embeddings; default: 8, neumf: 128",
                Accept::at_least(1));
    options.add("epochs", o->epochs,
                "Passes of the network over the entries, in a round of joint; default: 1, neumf: "
                "20",
                Accept::at_least(1));
    options.add("batch", o->batch, "Entries of a global batch; default: 1024, neumf: 256",
                Accept::at_least(1));
    options.add("micro-batches", o->joint.micro_batches, "Blocks of a batch; 0 for the default",
                Accept::at_least(0));
    options.add("learning-rate", o->learning_rate,
                "Of the network (Adam); default: 0.002, neumf: 0.001", Accept::above(0));
    options.add("negatives", o->neumf.negatives,
                "neumf: pairs without an entry that are drawn for each entry, anew every epoch",
                Accept::at_least(1));
    options.add("loss", o->neumf.loss,
                "neumf: logistic tells entries from drawn pairs; ranking scores an entry above a "
                "drawn pair (BPR)",
                Accept::one_of({"logistic", "ranking"}));
    options.add("init", o->neumf.init, "Factors to start from, as als gives them");
    options.add("validation", o->neumf.validation,
                "Entries by which the best round or epoch is chosen, the start counting as one: by "
                "NDCG@10, of explicit values by the RMSE");
    options.add("validation-negatives", o->neumf.validation_negatives,
                "The candidates beside them; all columns without an entry unless given");
    options.add("patience", o->neumf.settings.patience,
                "Stop after so many rounds or epochs without a better one; 0: never",
                Accept::at_least(0));
    options.add("dropout", o->neumf.shape.dropout, "neumf: of the tower", Accept::between(0, 0.99));
    options.add("zeros", o->joint.zeros,
                "Implicit: pairs without an entry that the network sees, per entry",
                Accept::at_least(0));
    options.add("row-features", o->row_features, "Matrix file with side features of the rows");
    options.add("col-features", o->col_features, "… of the columns");
    options.add("prior-weight", o->joint.prior_weight,
                "μ: pulls factors towards what a network makes of the features",
                Accept::at_least(0));
    o->loop.declare(options);
    options.examples(
        "rankfold hybrid ratings.h5 --factors 16 --rounds 10 --out joint.h5\n"
        "mpirun -n 4 rankfold hybrid clicks.h5 --implicit --factors 64 --out joint.h5\n"
        "rankfold hybrid clicks.h5 --form neumf --validation clicks.validation.h5 --out neumf.h5");
    o->neumf.settings.train.epochs = 20;
    o->neumf.settings.schedule = "constant";
    return [o, &options](Run& run) {
        check_form(options, o->form);
        if (o->form == "neumf") {
            const NeuMfCommand neumf = neumf_of(*o);
            run.common.precision == "float" ? run_neumf<float>(run, neumf)
                                            : run_neumf<double>(run, neumf);
            return;
        }
        run.common.precision == "float" ? run_hybrid<float>(run, *o) : run_hybrid<double>(run, *o);
    };
}

}  // namespace rankfold::cli
