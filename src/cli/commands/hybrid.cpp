// rankfold hybrid: a factorization and a network with one objective.
#include <charconv>

#include <fmt/format.h>

#include <rankfold/cli/loop.hpp>
#include <rankfold/cli/network_file.hpp>
#include <rankfold/hybrid/joint.hpp>

#include "neumf.hpp"
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

/// The same features, dense.
template <Real R>
BlockRows<R> dense_features(const BlockRowCsr<R>& features) {
    BlockRows<R> dense(features.comm(), features.layout(), features.cols());
    const CsrView<R> rows = features.local().view();
    for (Index i = 0; i < rows.rows; ++i) {
        for (std::size_t e = 0; e < rows.row_cols(i).size(); ++e) {
            dense.local()(i, rows.row_cols(i)[e]) = rows.row_values(i)[e];
        }
    }
    return dense;
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
    if (options.prior_weight > 0.0 && o.row_features.empty() && o.col_features.empty()) {
        throw input_error(
            "--prior-weight pulls factors towards what their features say; give "
            "--row-features or --col-features");
    }
    return options;
}

/// Every block's objective, in order, for the report.
nlohmann::ordered_json objectives(double start, const History& history) {
    nlohmann::ordered_json list{{{"block", "start"}, {"value", start}}};
    for (const auto& row : history.rows) {
        for (std::size_t b = 1; b < row.size(); ++b) {
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
    if (!model.network) {  // then it is a plain factors file
        write_factors(o.out, *factors, provenance);
        run.digest = digest_text(digest(run.comm, factors->tensors()));
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
    write_network(run.comm, o.out, *whole, provenance);
    TensorList tensors = whole->network.arena().list();
    for (Tensor& tensor : factors->tensors().tensors) tensors.tensors.push_back(tensor);
    run.digest = digest_text(digest(run.comm, tensors));
    run.handover.leave(o.out, whole);
}

template <Real R>
void run_hybrid(Run& run, const HybridCommand& o) {
    std::vector<std::string> inputs{o.matrix};
    for (const auto& file : {o.row_features, o.col_features}) {
        if (!file.empty()) inputs.push_back(file);
    }
    run.check_output(o.out, inputs);
    const JointOptions options = resolve(run, o);
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
            dense_features(load_features<R>(run, o.row_features, a->ids, "obs", a->layout()));
        features.rows = &*row_features;
    }
    if (!o.col_features.empty()) {
        const ShardLayout even = ShardLayout::even(a->cols(), 64, run.comm.size());
        col_features = dense_features(load_features<R>(run, o.col_features, a->ids, "var", even));
        features.cols = &*col_features;
    }
    if (run.common.dry_run) return;

    JointModel<R> model = fit_joint(*a->sparse, options, features,
                                    steer(run, o.loop, {{"matrix", digest_text(a->digest)}}));
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

/// What the options say of the other form.
NeuMfCommand neumf_of(const HybridCommand& o) {
    NeuMfCommand neumf = o.neumf;
    neumf.matrix = o.matrix;
    neumf.out = o.out;
    neumf.loop = o.loop;
    neumf.shape.factors = o.factors.value_or(neumf.shape.factors);
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
    options.add("factors", o->factors, "Number of factors k; default: 64, neumf: 32",
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
    options.add("init", o->neumf.init, "neumf: factors to start from, as als gives them");
    options.add("validation", o->neumf.validation,
                "neumf: entries by which the best epoch is chosen (NDCG@10)");
    options.add("validation-negatives", o->neumf.validation_negatives,
                "neumf: the candidates beside them; all columns without an entry unless given");
    options.add("patience", o->neumf.settings.patience,
                "neumf: stop after so many epochs without a better one; 0: never",
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
    return [o](Run& run) {
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
