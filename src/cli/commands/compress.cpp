// rankfold compress: a network's weight matrices become low-rank factors, then it is trained on.
#include <algorithm>

#include <fmt/format.h>

#include <rankfold/cli/loop.hpp>
#include <rankfold/eval/ranking.hpp>
#include <rankfold/hybrid/compress.hpp>
#include <rankfold/nn/trainer.hpp>

#include "scoring.hpp"
#include "training.hpp"

namespace rankfold::cli {

namespace {

struct CompressCommand {
    std::string network;
    std::string data;
    std::string test;
    std::string out;
    std::string method = "svd";
    std::string schedule = "cosine";
    CompressOptions compress;
    Index micro_batches = 0;
    TrainOptions train{.epochs = 5, .batch = 256, .optimizer = {.learning_rate = 5e-4}};
    LoopOptions loop;
};

/// One line of the table.
struct Stage {
    std::string name;
    Index parameters = 0;
    double seconds = 0.0;  ///< per 1,000 samples, of the forward pass on one rank
    std::optional<Estimate> metric;
};

/// Seconds of the forward pass for 1,000 samples, in micro-batches of 125; the median of 5.
template <Real R>
double forward_seconds(const Communicator& comm, Network<R>& network) {
    constexpr Index rows = 125;
    network.prepare(rows);
    Workspace<R> ws = network.workspace(rows, Purpose::inference);
    ws.rows = rows;
    std::vector<double> seconds;
    for (int repeat = 0; repeat < 6; ++repeat) {
        const double start = monotonic_seconds();
        for (int part = 0; part < 8; ++part) network.forward(ws);
        seconds.push_back(monotonic_seconds() - start);
    }
    std::sort(seconds.begin() + 1, seconds.end());  // the first one warms up
    return comm.all_reduce(seconds[3], Reduce::max);
}

std::string metric_name(Loss head) {
    return head == Loss::classes ? "accuracy" : head == Loss::squared ? "rmse" : "hr@10";
}

/// The network's metric on the test matrix. @collective
template <Real R>
Estimate measure(Run& run, NetworkModel<R>& model, const MatrixData<R>& data,
                 const MatrixData<R>& test) {
    const auto phase = run.comm.ledger().phase("evaluate");
    const Index threads = run.common.threads;
    if (model.head == Loss::classes) {
        const auto scorer = network_scorer(model, &test);
        return classification_quality(confusion<R>(scorer, *test.labels, threads)).accuracy;
    }
    const auto scorer = network_scorer(model, &data);
    const auto aligned = align(*test.sparse, scorer.layout(), scorer.cols(), {}, {});
    if (model.head == Loss::squared) {
        return rating_errors<R>(scorer, aligned.matrix, aligned.strangers, {}, threads).rmse;
    }
    const auto seen = align(*data.sparse, scorer.layout(), scorer.cols(), {}, {});
    const std::vector<Metric> wanted{parse_metric("hr@10")};
    return rank_quality<R>(scorer, {.test = aligned.matrix, .train = &seen.matrix}, wanted, threads)
        .metrics.front();
}

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
        model_ = load_network<R>(run, o.network);
        if (model_->input == NetworkInput::indices) {
            throw input_error(o.network,
                              " reads indices of rows and columns; compress takes "
                              "networks of `rankfold mlp`");
        }
        data_ = load_matrix<R>(run, o.data);
        if (!o.test.empty()) test_ = load_matrix<R>(run, o.test);
        check(*data_, o.data);
        if (test_) check(*test_, o.test);
    }

    void run() {
        note("before", *model_);
        std::vector<LayerPlan> plan;
        CompressOptions options = o_.compress;
        options.method = o_.method == "svd"   ? CompressMethod::svd
                         : o_.method == "als" ? CompressMethod::als
                                              : CompressMethod::nmf;
        options.seed = static_cast<std::uint64_t>(run_.common.seed);
        {
            const auto phase = run_.comm.ledger().phase("factorise weights");
            model_ = std::make_shared<NetworkModel<R>>(
                NetworkModel<R>{.head = model_->head,
                                .input = model_->input,
                                .scale = model_->scale,
                                .col_scale = model_->col_scale,
                                .class_names = model_->class_names,
                                .network = compress(run_.comm, model_->network, options, plan),
                                .factors = model_->factors,
                                .ids = model_->ids,
                                .history = {}});
            attach_factors(*model_);
        }
        report_plan(plan);
        note("truncated", *model_);
        if (o_.train.epochs > 0) {
            fine_tune();
            note("fine-tuned", *model_);
        }
        report_stages();
        write();
    }

private:
    void check(const MatrixData<R>& a, const std::string& file) const {
        if (model_->head == Loss::classes ? !a.labels.has_value() : !a.sparse.has_value()) {
            throw input_error(file, model_->head == Loss::classes
                                        ? " has no labels, which this network learns"
                                        : " is dense, but this network learns sparse entries");
        }
    }

    void note(const std::string& name, NetworkModel<R>& model) {
        Stage stage{.name = name, .metric = {}};
        for (const auto& tensor : model.network.arena().tensors()) {
            stage.parameters += tensor.size();
        }
        stage.seconds = forward_seconds(run_.comm, model.network);
        if (test_) stage.metric = measure(run_, model, *data_, *test_);
        stages_.push_back(std::move(stage));
    }

    void fine_tune() {
        TrainOptions train = o_.train;
        train.optimizer.schedule = o_.schedule == "cosine" ? Schedule::cosine : Schedule::constant;
        train.seed = static_cast<std::uint64_t>(run_.common.seed);
        train.threads = run_.common.threads;
        const Index blocks =
            o_.micro_batches > 0 ? o_.micro_batches : default_micro_batches(train.batch);
        const auto network = load_digest();
        with_samples(*model_, *data_, blocks, [&](const auto& samples) {
            Trainer<R> trainer(model_->network, SamplesRef<R>(samples), model_->head, train);
            trainer.run(
                steer(run_, o_.loop, {{"network", network}, {"data", digest_text(data_->digest)}}));
        });
        model_->history = run_.history;
    }

    /// Digest of the truncated network, by which a checkpoint knows its job. @collective
    std::string load_digest() { return digest_text(digest(run_.comm, model_->tensors())); }

    void report_plan(const std::vector<LayerPlan>& plan) {
        run_.say(fmt::format("{:<12} {:>12} {:>6} {:>10} {:>10} {:>10}", "layer", "shape", "inner",
                             "weights", "of dense", "error"));
        auto list = nlohmann::ordered_json::array();
        for (const auto& l : plan) {
            run_.say(fmt::format(
                "{:<12} {:>12} {:>6} {:>10} {:>9.1f}% {:>10.4f}", l.layer,
                fmt::format("{} x {}", l.out, l.in),
                l.inner == 0 ? "dense" : std::to_string(l.inner), l.weights(),
                100.0 * static_cast<double>(l.weights()) / static_cast<double>(l.out * l.in),
                l.relative_error));
            list.push_back({{"layer", l.layer},
                            {"out", l.out},
                            {"in", l.in},
                            {"inner", l.inner},
                            {"weights", l.weights()},
                            {"relative_error", l.relative_error}});
        }
        run_.result["layers"] = list;
    }

    void report_stages() {
        const std::string metric = metric_name(model_->head);
        run_.say(fmt::format("\n{:<12} {:>10} {:>16} {:>18}", o_.method, "parameters",
                             "ms/1000 samples", test_ ? metric : ""));
        for (const auto& stage : stages_) {
            run_.say(fmt::format("{:<12} {:>10} {:>16.3f} {:>18}", stage.name, stage.parameters,
                                 1e3 * stage.seconds,
                                 stage.metric ? fmt::format("{:.4f} ±{:.4f}", stage.metric->value,
                                                            stage.metric->standard_error)
                                              : ""));
            auto& result = run_.result[stage.name];
            result["parameters"] = stage.parameters;
            result["seconds_per_1000_samples"] = stage.seconds;
            if (stage.metric) {
                result[metric] = stage.metric->value;
                result[metric + "_se"] = stage.metric->standard_error;
            }
        }
    }

    void write() {
        {
            const auto phase = run_.comm.ledger().phase("write");
            write_network(run_.comm, o_.out, *model_,
                          {.command = "compress",
                           .options = run_.options.dump(),
                           .input_digest = digest_text(data_->digest)});
        }
        run_.digest = load_digest();
        run_.say("wrote " + o_.out);
        run_.handover.leave(o_.out, model_);
    }

    Run& run_;
    const CompressCommand& o_;
    std::shared_ptr<NetworkModel<R>> model_;
    std::shared_ptr<const MatrixData<R>> data_;
    std::shared_ptr<const MatrixData<R>> test_;
    std::vector<Stage> stages_;
};

template <Real R>
void run_compress(Run& run, const CompressCommand& o) {
    Compression<R> compression(run, o);
    if (!run.common.dry_run) compression.run();
}

}  // namespace

Action declare_compress(Options& options) {
    auto o = std::make_shared<CompressCommand>();
    options.positional("network", o->network, "Network file, of `rankfold mlp`");
    options.add("data", o->data, "Matrix that it is trained on");
    options.add("test", o->test, "Matrix on which the metric before and after is measured");
    options.add("out", o->out, "Network file to write");
    options.add("method", o->method, "How a weight matrix becomes U Vᵀ",
                Accept::one_of({"svd", "als", "nmf"}));
    options.add("size", o->compress.size, "Weights after, as a share of those before",
                Accept{.least = 0, .most = 1, .exclusive_least = true});
    options.add("sweeps", o->compress.sweeps, "Of als and nmf", Accept::at_least(1));
    options.add("epochs", o->train.epochs, "Of training in factored form; 0 for none",
                Accept::at_least(0));
    options.add("batch", o->train.batch, "Samples of a global batch", Accept::at_least(1));
    options.add("micro-batches", o->micro_batches, "Blocks of a batch; 0 for the default",
                Accept::at_least(0));
    options.add("learning-rate", o->train.optimizer.learning_rate, "At the start (Adam)",
                Accept::above(0));
    options.add("schedule", o->schedule, "Of the learning rate: cosine falls to 0 at the end",
                Accept::one_of({"cosine", "constant"}));
    o->loop.declare(options);
    options.examples(
        "rankfold compress network.h5 --data train.h5 --test test.h5 --size 0.25 --out small.h5\n"
        "rankfold compress network.h5 --data train.h5 --method als --epochs 0 --out small.h5\n"
        "mpirun -n 4 rankfold compress network.h5 --data train.h5 --size 0.1 --out small.h5");
    return [o](Run& run) {
        run.common.precision == "float" ? run_compress<float>(run, *o)
                                        : run_compress<double>(run, *o);
    };
}

}  // namespace rankfold::cli
