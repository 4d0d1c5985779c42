// rankfold compress: a network's weight matrices become low-rank factors, then it is trained on.
#include <algorithm>
#include <iterator>

#include <fmt/format.h>

#include <rankfold/cli/loop.hpp>
#include <rankfold/hybrid/entry_samples.hpp>
#include <rankfold/nn/negative_samples.hpp>
#include <rankfold/nn/trainer.hpp>

#include "compress_parts.hpp"
#include "finished_parts.hpp"
#include "network_settings.hpp"
#include "scoring.hpp"
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
        if (dense_->input == NetworkInput::indices || dense_->input == NetworkInput::towers) {
            check_indices();
        }
        metric_ = metric_name(*dense_);
        auto [train, validation] = split_validation(run, load_matrix<R>(run, o.data), o.validation);
        data_ = std::move(train);
        validation_ = std::move(validation);
        if (!o.test.empty()) test_ = load_matrix<R>(run, o.test);
        check(*data_, o.data);
        if (test_) check(*test_, o.test);
        if (validation_) check(*validation_, o.validation);
        for (const auto& name : o.methods) methods_.push_back(compress_method(name));
    }

    void run() {
        CompressionRow before{.method = "before"};
        measure_into(*dense_, before.truncated, before.validation_truncated);
        before.figures = network_figures(run_.comm, dense_->network, {}, o_.batch);
        rows_.push_back(std::move(before));
        const WantedStatistics wanted{
            .moments = std::ranges::count(methods_, CompressMethod::activation_svd) > 0,
            .importance = std::ranges::count(methods_, CompressMethod::als) > 0};
        if (wanted.moments || wanted.importance) {
            with_network_samples(*dense_, [&](const auto& samples) {
                statistics_ = layer_statistics(dense_->network, SamplesRef<R>(samples),
                                               dense_->head, o_.calibration, wanted);
            });
            if (dense_->input == NetworkInput::indices) {
                std::ranges::move(table_visits(dense_->network.graph(), *data_->sparse),
                                  std::back_inserter(statistics_));
            }
        }
        for (const CompressMethod method : methods_) try_method(method);
        tell_rows(run_, rows_, metric_);
        write();
    }

private:
    /// Of networks on indices those of `hybrid` are taken.
    void check_indices() const {
        if (dense_->input == NetworkInput::towers ||
            (!scores_pairs(*dense_) && !is_residual(*dense_))) {
            throw input_error(o_.network,
                              " holds towers of `rankfold deepmf`; compress takes "
                              "networks of mlp and hybrid");
        }
        if (is_residual(*dense_) && o_.settings.train.epochs > 0) {
            throw input_error(o_.network,
                              " is a part of a joint model and is not trained on "
                              "without its factors; give --epochs 0");
        }
    }

    void check(const MatrixData<R>& a, const std::string& file) const {
        const auto& inputs = dense_->network.graph().inputs;
        if (dense_->input == NetworkInput::indices && a.sparse &&
            (a.rows() != inputs[0].width || a.cols() != inputs[1].width)) {
            throw input_error(file, " has ", a.rows(), " rows and ", a.cols(),
                              " columns, but the network has embeddings of ", inputs[0].width,
                              " and ", inputs[1].width);
        }
        if (dense_->head == Loss::classes ? !a.labels.has_value() : !a.sparse.has_value()) {
            throw input_error(file, dense_->head == Loss::classes
                                        ? " has no labels, which this network learns"
                                        : " is dense, but this network learns sparse entries");
        }
    }

    void measure_into(NetworkModel<R>& model, std::optional<Estimate>& test,
                      std::optional<double>& validation) {
        if (test_) test = measure_network(run_, model, *data_, *test_);
        if (validation_) validation = validation_metric(model);
    }
    double validation_metric(NetworkModel<R>& model) {
        return measure_network(run_, model, *data_, *validation_).value;
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
        attach_factors(model);
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
        for (const auto& price : kept.find("prices", key)) {
            prices.push_back({price[0], price[1], price[2]});
        }
        if (prices.size() == shapes.size()) return prices;
        prices = time_prices<R>(run_.comm, shapes, o_.batch);
        auto list = nlohmann::ordered_json::array();
        for (const LayerPrice& price : prices) {
            list.push_back({price.dense, price.base, price.direction});
        }
        kept.add("prices", key, list);
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
            EntrySamples<R> samples(*data_->sparse, blocks);
            samples.set_targets(data_->sparse->local().values);
            use(samples);
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
        auto model = std::make_shared<NetworkModel<R>>(truncated(options, row.plan));
        row.figures = network_figures(run_.comm, model->network, row.plan, o_.batch);
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
        }
        rows_.push_back(std::move(row));
    }

    void fine_tune(NetworkModel<R>& model, const std::string& method) {
        const auto network = digest_text(digest(run_.comm, model.tensors()));
        LoopOptions loop = o_.loop;
        if (methods_.size() > 1 && !loop.checkpoint.empty()) loop.checkpoint += "/" + method;
        run_.history = {};
        with_network_samples(model, [&](const auto& samples) {
            Trainer<R> trainer(model.network, SamplesRef<R>(samples), model.head,
                               o_.settings.resolved(run_.common));
            Steering steering =
                steer(run_, loop, {{"network", network}, {"data", digest_text(data_->digest)}});
            if (!validation_) {
                trainer.run(steering);
                return;
            }
            NetworkStop<R> stop(run_, model.network,
                                {.name = "validation_" + metric_,
                                 .greater_is_better = greater_is_better(metric_),
                                 .value = [&] { return validation_metric(model); }},
                                o_.settings.patience);
            trainer.run(stop.around(std::move(steering)));
            stop.finish();
        });
        model.history = run_.history;
    }

    void write() {
        {
            const auto phase = run_.comm.ledger().phase("write");
            write_network(run_.comm, o_.out, *best_,
                          {.command = "compress",
                           .options = run_.options.dump(),
                           .input_digest = digest_text(data_->digest)});
        }
        run_.digest = digest_text(digest(run_.comm, best_->tensors()));
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
    std::vector<LayerStatistics> statistics_;
    std::vector<CompressionRow> rows_;
    std::shared_ptr<NetworkModel<R>> best_;
    double best_metric_ = 0.0;
};

template <Real R>
void run_compress(Run& run, const CompressCommand& o) {
    Compression<R> compression(run, o);
    if (!run.common.dry_run) compression.run();
}

}  // namespace

Action declare_compress(Options& options) {
    auto o = std::make_shared<CompressCommand>();
    options.positional("network", o->network, "Network file, of mlp or hybrid");
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
