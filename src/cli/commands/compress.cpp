// rankfold compress: a network's weight matrices become low-rank factors, then it is trained on.
#include <algorithm>
#include <iterator>

#include <fmt/format.h>

#include <rankfold/cli/loop.hpp>
#include <rankfold/eval/align.hpp>
#include <rankfold/hybrid/joint_entries.hpp>
#include <rankfold/nn/negative_samples.hpp>
#include <rankfold/nn/trainer.hpp>

#include "als_settings.hpp"
#include "compress_parts.hpp"
#include "early_stop.hpp"
#include "finished_parts.hpp"
#include "network_settings.hpp"
#include "scoring.hpp"
#include "side_features.hpp"
#include "tower_files.hpp"
#include "training.hpp"
#include "validation_part.hpp"

namespace rankfold::cli {

namespace {

struct CompressCommand {
    std::string network;
    std::string data;
    std::string test;
    std::string validation;
    std::string out;
    std::vector<std::string> methods{"svd"};
    std::optional<double> time;
    std::optional<double> max_loss;
    Index batch = 125;
    Index calibration = 4096;
    Index negatives = 4;
    TowerFileNames towers;
    CompressOptions compress;
    NetworkSettings settings{
        .train = {.epochs = 5, .batch = 256, .optimizer = {.learning_rate = 5e-4}}};
    LoopOptions loop;
};

template <Real R>
class Compression {
public:
    Compression(Run& run, const CompressCommand& o) : run_{run}, o_{o} {
        std::vector<std::string> inputs{o.network, o.data};
        if (!o.test.empty()) inputs.push_back(o.test);
        std::ranges::copy(o.towers.given(), std::back_inserter(inputs));
        run.check_output(o.out, inputs);
        if (o.data.empty()) {
            throw input_error("--data FILE is missing: the matrix that the network is trained on");
        }
        if (o.validation.empty() && (o.methods.size() > 1 || o.max_loss)) {
            throw input_error(
                "--validation is missing: it decides between several --method, and "
                "how far --max-loss may go");
        }
        if (o.time && o.max_loss) throw input_error("give --time or --max-loss, not both");
        dense_ = load_network<R>(run, o.network);
        metric_ = metric_name(*dense_);
        auto [train, validation] = split_validation(run, load_matrix<R>(run, o.data), o.validation);
        data_ = std::move(train);
        validation_ = std::move(validation);
        if (!o.test.empty()) test_ = load_matrix<R>(run, o.test);
        check(*data_, o.data);
        if (test_) check(*test_, o.test);
        if (validation_) check(*validation_, o.validation);
        for (const auto& name : o.methods) methods_.push_back(compress_method(name));
        if (on_pairs()) data_ = in_order_of_network();
        if (on_towers()) open_towers();
        if (!on_towers() && !o.towers.given().empty()) {
            throw input_error(
                "--factors-file, --row-features and --col-features are for the "
                "towers of deepmf, and ",
                o.network, " has none");
        }
        if (is_residual(*dense_)) read_priors();
    }

    void run() {
        CompressionRow before{.method = "before"};
        measure_into(*dense_, before.truncated, before.validation_truncated);
        before.figures = network_figures(run_.comm, dense_->network, o_.batch);
        rows_.push_back(std::move(before));
        const WantedStatistics wanted{
            .moments = std::ranges::count(methods_, CompressMethod::activation_svd) > 0,
            .importance = std::ranges::count(methods_, CompressMethod::als) > 0};
        if (wanted.moments || wanted.importance) calibrate(wanted);
        for (const CompressMethod method : methods_) try_method(method);
        if (!kept_.is_null()) run_.result["validation"] = kept_;
        tell_rows(run_, rows_, metric_);
        write();
    }

private:
    [[nodiscard]] bool on_towers() const { return dense_->input == NetworkInput::towers; }
    /// True if the network is of certain rows and columns.
    [[nodiscard]] bool on_pairs() const {
        return on_towers() || dense_->input == NetworkInput::indices;
    }
    /// The rows and columns of such a network.
    [[nodiscard]] std::pair<Index, Index> shape() const {
        if (dense_->factors) return {dense_->factors->rows.rows(), dense_->factors->cols.rows()};
        const auto& inputs = dense_->network.graph().inputs;
        return {inputs[0].width, inputs[1].width};
    }
    [[nodiscard]] const IdSource& names() const {
        return dense_->factors ? dense_->factors->ids : dense_->ids;
    }

    /// The training entries in the network's rows and columns.
    std::shared_ptr<const MatrixData<R>> in_order_of_network() {
        const auto [m, n] = shape();
        auto aligned =
            align_by_name(*data_, names(), ShardLayout::even(m, 64, run_.comm.size()), n);
        if (aligned.matrix.nnz() == 0) {
            throw input_error(o_.data, " has, by name, no entry in the network's ", m, " rows and ",
                              n, " columns");
        }
        MatrixData<R> known;
        known.ids = names();
        known.file = data_->file;
        known.digest = data_->digest;
        return with_entries(known, std::move(aligned.matrix));
    }

    void open_towers() {
        if (o_.compress.joint) {
            throw input_error("--joint is not for towers, which are trained one after the other");
        }
        towers_ = recorded_towers(run_.common, dense_->factors->options, o_.network);
        towers_.train = o_.settings.resolved(run_.common);
        towers_.micro_batches = o_.settings.blocks();
        tower_files_.open(run_, o_.towers, *data_, tower_inputs_);
        const TowerWidths rows = widths_in(dense_->network.graph(), "row");
        const TowerWidths cols = widths_in(dense_->network.graph(), "column");
        tower_files_.data.rows.embeddings = rows.embeddings > 0;
        tower_files_.data.cols.embeddings = cols.embeddings > 0;
        tower_files_.data.entries = rows.entries > 0;
    }

    std::unique_ptr<DeepMf<R>> towers_from(const Network<R>& network) {
        DeepMfData<R> given = tower_files_.data;
        given.towers = &network;
        return std::make_unique<DeepMf<R>>(*data_->sparse, towers_, given);
    }

    /// Takes the towers and what they make of their rows over into the model.
    void take(NetworkModel<R>& model, DeepMfModel<R> fitted) {
        fitted.factors.ids = dense_->factors->ids;
        fitted.factors.options = dense_->factors->options;
        model.network = std::move(fitted.network);
        model.factors = std::make_shared<Factors<R>>(std::move(fitted.factors));
    }

    /// The prior networks of a joint model, which stay as they are.
    void read_priors() {
        for (const auto& [group, prior] :
             {std::pair{row_prior_group, &row_prior_}, std::pair{col_prior_group, &col_prior_}}) {
            *prior = read_prior<R>(run_.comm, o_.network, group, dense_->factors->k());
            add_prior(priors_, group, *prior);
        }
    }

    void calibrate(WantedStatistics wanted) {
        if (on_towers()) {
            statistics_ = towers_from(dense_->network)->statistics(o_.calibration, wanted);
            return;
        }
        with_network_samples(*dense_, [&](const auto& samples) {
            statistics_ = layer_statistics(dense_->network, SamplesRef<R>(samples), dense_->head,
                                           o_.calibration, wanted);
        });
        if (dense_->input == NetworkInput::indices) {
            std::ranges::move(table_visits(dense_->network.graph(), *data_->sparse),
                              std::back_inserter(statistics_));
        }
    }

    void check(const MatrixData<R>& a, const std::string& file) const {
        if (on_pairs() && a.sparse && std::pair{a.rows(), a.cols()} != shape()) {
            throw input_error(file, " has ", a.rows(), " rows and ", a.cols(),
                              " columns, but the network is of ", shape().first, " and ",
                              shape().second);
        }
        if (dense_->head == Loss::classes ? !a.labels.has_value() : !a.sparse.has_value()) {
            throw input_error(file, dense_->head == Loss::classes
                                        ? " has no labels, which this network learns"
                                        : " is dense, but this network learns sparse entries");
        }
    }

    void measure_into(NetworkModel<R>& model, std::optional<Estimate>& test,
                      std::optional<double>& validation) {
        if (test_) test = measure_network(run_, model, metric_, *data_, *test_);
        if (validation_) validation = validation_metric(model);
    }
    double validation_metric(NetworkModel<R>& model) {
        return measure_network(run_, model, metric_, *data_, *validation_).value;
    }

    /// True if a is the better metric.
    [[nodiscard]] bool better(double a, double b) const {
        return greater_is_better(metric_) ? a > b : a < b;
    }

    NetworkModel<R> truncated(const CompressOptions& options, std::vector<LayerPlan>& plan) {
        const auto phase = run_.comm.ledger().phase("factorise weights");
        NetworkModel<R> model{
            .head = dense_->head,
            .input = dense_->input,
            .scale = dense_->scale,
            .col_scale = dense_->col_scale,
            .class_names = dense_->class_names,
            .network = compress(run_.comm, dense_->network, options, statistics_, plan),
            .factors = dense_->factors,
            .ids = dense_->ids,
            .history = {},
            .standard = dense_->standard};
        if (on_towers()) {
            take(model, towers_from(model.network)->finish());
        } else {
            attach_factors(model);
        }
        return model;
    }

    CompressOptions options_for(CompressMethod method) {
        CompressOptions options = o_.compress;
        options.method = method;
        options.seed = static_cast<std::uint64_t>(run_.common.seed);
        if (o_.time) {
            if (prices_.empty()) prices_ = measured_prices();
            options.prices = prices_;
            options.size = *o_.time;
        }
        if (o_.max_loss) options.size = least_size(options);
        return options;
    }

    /// Prices by the clock: measured once, and kept with the checkpoints, so that a run that goes
    /// on has the layers of the one that was stopped.
    std::vector<LayerPrice> measured_prices() {
        const auto shapes = stacks(dense_->network.graph(), o_.compress.joint);
        FinishedParts kept(run_.comm, o_.loop);
        const nlohmann::ordered_json key{
            {"network", digest_text(digest(run_.comm, dense_->tensors()))},
            {"batch", o_.batch},
            {"joint", o_.compress.joint}};
        std::vector<LayerPrice> prices;
        for (const auto& price : kept.find("layer prices", key)) {
            prices.push_back({.dense = price["dense"],
                              .base = price["base"],
                              .direction = price["direction"],
                              .too_wide = price["too_wide"]});
        }
        if (prices.size() == shapes.size()) return prices;
        prices = time_prices<R>(run_.comm, shapes, o_.batch);
        auto list = nlohmann::ordered_json::array();
        for (const LayerPrice& price : prices) {
            list.push_back({{"dense", price.dense},
                            {"base", price.base},
                            {"direction", price.direction},
                            {"too_wide", price.too_wide}});
        }
        kept.add("layer prices", key, list);
        return prices;
    }

    /// What the network learns from the data: for networks on pairs its entries, with drawn pairs
    /// beside them.
    template <class Use>
    void with_network_samples(const NetworkModel<R>& model, const Use& use) {
        const Index blocks = o_.settings.blocks();
        if (model.input != NetworkInput::indices) {
            with_samples(model, *data_, blocks, use);
            return;
        }
        if (is_residual(model)) {
            const std::string& recorded = model.factors->options;
            JointOptions joint{.als =
                                   recorded_settings(recorded, o_.network).resolved(run_.common)};
            joint.zeros = recorded_option(recorded, "zeros", joint.zeros);
            use(residual_samples(*data_->sparse, joint, *model.factors, blocks));
            return;
        }
        const bool ranked = model.head == Loss::ranking;
        use(NegativeSamples<R>(*data_->sparse, o_.negatives,
                               ranked ? NegativeUse::ranked : NegativeUse::labelled, blocks,
                               static_cast<std::uint64_t>(run_.common.seed)));
    }

    /// The least share of the weights with which the truncated network loses no more than
    /// --max-loss, to 1 %, by bisection.
    double least_size(CompressOptions options) {
        double enough = 1.0;
        double too_little = 0.0;
        while (enough - too_little > 0.01) {
            options.size = 0.5 * (enough + too_little);
            (loses_little(options) ? enough : too_little) = options.size;
        }
        return enough;
    }

    bool loses_little(const CompressOptions& options) {
        std::vector<LayerPlan> plan;
        std::optional<NetworkModel<R>> model;
        try {
            model = truncated(options, plan);
        } catch (const Error& error) {
            if (error.fault() != Fault::input) throw;  // else: less than the layers can have
            return false;
        }
        const double lost = validation_metric(*model) - *rows_.front().validation_truncated;
        return (greater_is_better(metric_) ? -lost : lost) <= 0.01 * *o_.max_loss;
    }

    void try_method(CompressMethod method) {
        CompressionRow row{.method = method_name(method)};
        const CompressOptions options = options_for(method);
        row.size = options.size;
        auto model = std::make_shared<NetworkModel<R>>(truncated(options, row.plan));
        row.figures = network_figures(run_.comm, model->network, o_.batch);
        tell_plan(run_, row);
        measure_into(*model, row.truncated, row.validation_truncated);
        if (o_.settings.train.epochs > 0) {
            fine_tune(*model, row.method);
            measure_into(*model, row.tuned, row.validation_tuned);
        }
        const auto last = row.validation_tuned ? row.validation_tuned : row.validation_truncated;
        if (!best_ || better(*last, best_metric_)) {
            best_ = model;
            best_metric_ = last.value_or(0.0);
            run_.result["method"] = row.method;
            kept_ = run_.result.value("validation", nlohmann::ordered_json());
        }
        rows_.push_back(std::move(row));
    }

    void fine_tune(NetworkModel<R>& model, const std::string& method) {
        const auto network = digest_text(digest(run_.comm, model.tensors()));
        LoopOptions loop = o_.loop;
        if (methods_.size() > 1 && !loop.checkpoint.empty()) loop.checkpoint += "/" + method;
        run_.history = {};
        std::vector<std::pair<std::string, std::string>> inputs{
            {"network", network}, {"data", digest_text(data_->digest)}};
        std::ranges::copy(tower_inputs_, std::back_inserter(inputs));
        Steering steering = steer(run_, loop, std::move(inputs));
        if (on_towers()) {
            const auto towers = towers_from(model.network);
            train(towers->network(), *towers, std::move(steering), [&] {
                return measure_factors(run_, towers->factors(), names(), metric_, *data_,
                                       *validation_)
                    .value;
            });
            take(model, towers->finish());
        } else {
            with_network_samples(model, [&](const auto& samples) {
                Trainer<R> trainer(model.network, SamplesRef<R>(samples), model.head,
                                   o_.settings.resolved(run_.common));
                train(model.network, trainer, std::move(steering),
                      [&] { return validation_metric(model); });
            });
        }
        model.history = run_.history;
    }

    /// Runs a training, and keeps the best parameters if there is a validation part.
    void train(Network<R>& network, auto& training, Steering steering,
               std::function<double()> value) {
        if (!validation_) {
            training.run(steering);
            return;
        }
        NetworkStop<R> stop(run_, network,
                            {.name = "validation_" + metric_,
                             .greater_is_better = greater_is_better(metric_),
                             .value = std::move(value)},
                            o_.settings.patience);
        training.run(stop.around(std::move(steering)));
        stop.finish();
    }

    void write() {
        {
            const auto phase = run_.comm.ledger().phase("write");
            write_network(run_.comm, o_.out, *best_,
                          {.command = "compress",
                           .options = run_.options.dump(),
                           .input_digest = digest_text(data_->digest)},
                          priors_);
        }
        TensorList tensors = best_->tensors();
        std::ranges::copy(priors_.list.tensors, std::back_inserter(tensors.tensors));
        run_.digest = digest_text(digest(run_.comm, tensors));
        run_.say("wrote " + o_.out);
        run_.handover.leave(o_.out, best_);
    }

    Run& run_;
    const CompressCommand& o_;
    std::vector<CompressMethod> methods_;
    std::string metric_;
    std::vector<LayerPrice> prices_;  // by the clock, once they are known
    std::shared_ptr<NetworkModel<R>> dense_;
    std::shared_ptr<const MatrixData<R>> data_;
    std::shared_ptr<const MatrixData<R>> validation_;
    std::shared_ptr<const MatrixData<R>> test_;
    DeepMfOptions towers_;                                           // of deepmf's networks
    TowerFiles<R> tower_files_;                                      // …
    std::vector<std::pair<std::string, std::string>> tower_inputs_;  // … roles and digests
    std::optional<Network<R>> row_prior_;                            // of a joint model
    std::optional<Network<R>> col_prior_;
    MoreTensors priors_;
    std::vector<LayerStatistics> statistics_;
    std::vector<CompressionRow> rows_;
    std::shared_ptr<NetworkModel<R>> best_;
    double best_metric_ = 0.0;
    nlohmann::ordered_json kept_;  // the epoch of the best, for the report
};

template <Real R>
void run_compress(Run& run, const CompressCommand& o) {
    Compression<R> compression(run, o);
    if (!run.common.dry_run) compression.run();
}

}  // namespace

Action declare_compress(Options& options) {
    auto o = std::make_shared<CompressCommand>();
    options.positional("network", o->network, "Network file, of mlp, hybrid or deepmf");
    options.add("data", o->data, "Matrix that it is trained on");
    options.add("validation", o->validation,
                "Matrix file, or a share of the data, that decides between methods, sizes and "
                "epochs");
    options.add("test", o->test, "Matrix on which the metric before and after is measured");
    options.add("out", o->out, "Network file to write: with several methods, the best of them");
    options.add(
        "method", o->methods,
        "How a weight matrix or an embedding's table becomes U Vᵀ: svd, asvd (by the inputs "
        "that reach the layer, or how often a table's row is read), als (by how much the "
        "loss depends on each weight), nmf; or several of them",
        Accept::one_of({"svd", "asvd", "als", "nmf"}));
    options.add("size", o->compress.size, "Weights after, as a share of those before",
                Accept{.least = 0, .most = 1, .exclusive_least = true});
    options.add("time", o->time,
                "Instead of --size: measured time of the layers' products, as a share of before",
                Accept{.least = 0, .most = 1, .exclusive_least = true});
    options.add("max-loss", o->max_loss,
                "Instead of --size: the least size that loses so many points (hundredths) of the "
                "metric on the validation part before it is trained on",
                Accept::at_least(0));
    options.add("joint", o->compress.joint,
                "Layers of equal input width are stacked and share V, which is not trained on");
    options.add("deployment-batch", o->batch, "Samples that are computed together when timed",
                Accept::at_least(1));
    options.add("calibration", o->calibration,
                "Samples of the data by which asvd and als see what matters", Accept::at_least(1));
    options.add("negatives", o->negatives,
                "Networks of `hybrid --form neumf`: pairs without an entry that are drawn for each "
                "entry",
                Accept::at_least(1));
    o->towers.declare(options);
    options.add("sweeps", o->compress.sweeps, "Of als and nmf", Accept::at_least(1));
    o->settings.declare(options, 0);
    o->loop.declare(options);
    options.examples(
        "rankfold compress network.h5 --data train.h5 --test test.h5 --size 0.25 --out small.h5\n"
        "rankfold compress network.h5 --data train.h5 --validation 0.1 --max-loss 1 --out "
        "small.h5\n"
        "mpirun -n 4 rankfold compress network.h5 --data train.h5 --validation 0.1 "
        "--method svd,asvd,als,nmf --out small.h5");
    return [o, &options](Run& run) {
        if (options.given("size") && (o->time || o->max_loss)) {
            throw input_error(
                "--time and --max-loss find the size themselves: give one of the three");
        }
        run.common.precision == "float" ? run_compress<float>(run, *o)
                                        : run_compress<double>(run, *o);
    };
}

}  // namespace rankfold::cli
