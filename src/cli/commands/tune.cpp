// rankfold tune: ALS or NMF over a grid of settings, measured on a validation part; the best is
// written.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>
#include <utility>

#include <fmt/format.h>

#include <rankfold/cli/job.hpp>
#include <rankfold/cli/loop.hpp>
#include <rankfold/cli/run.hpp>
#include <rankfold/data/tensor_file.hpp>

#include "als_settings.hpp"
#include "early_stop.hpp"
#include "finished_parts.hpp"
#include "nmf_settings.hpp"

namespace rankfold::cli {

namespace {

struct TuneCommand {
    std::string matrix;
    std::string out;
    std::string method = "als";
    std::vector<Index> factors{64};
    std::vector<double> lambda{0.1};
    std::vector<double> exponent{1.0};
    std::vector<double> alpha{40.0};
    std::vector<double> unobserved;
    bool warm_starts = true;
    AlsSettings fixed;
    NmfSettings nmf;
    StopRule stop;
    LoopOptions loop;

    [[nodiscard]] bool is_nmf() const { return method == "nmf"; }

    void declare(Options& options) {
        options.positional("matrix", matrix,
                           "Matrix file (HDF5), or a job file (TOML) whose keys are these options");
        options.add("out", out, "Factors file to write: the best of the grid");
        options.add("method", method, "What is fitted: als or nmf", Accept::one_of({"als", "nmf"}));
        options.add("factors", factors, "Numbers of factors k", Accept::between(1, 65536));
        options.add("lambda", lambda, "Ridge weights λ", Accept::at_least(0));
        options.add("lambda-exponent", exponent, "Exponents ν", Accept::at_least(0));
        options.add("alpha", alpha, "Implicit: values of α", Accept::at_least(0));
        options.add("unobserved-weight", unobserved, "Implicit, Rendle's form: values of α0",
                    Accept::above(0));
        options.add("warm-starts", warm_starts,
                    "Each fit starts from that with the λ or the k before");
        fixed.declare_others(options);
        options.add("missing", nmf.missing,
                    "nmf: entries that are not stored are unknown, not zero; always so with a "
                    "dense matrix, of which a share of the elements is held back");
        options.add("loss", nmf.loss, "nmf: frobenius, by HALS, or kl, by multiplicative updates",
                    Accept::one_of({"frobenius", "kl"}));
        stop.declare(options);
        loop.declare(options);
        options.examples(
            "rankfold tune ratings.h5 --validation 0.1 --factors 16,32 --lambda 0.2,0.1,0.05 "
            "--out best.h5\n"
            "mpirun -n 2 rankfold tune clicks.train.h5 --validation clicks.validation.h5 "
            "--implicit --factors 64,128 --lambda 0.01,0.003 --unobserved-weight 0.1,0.3 --out "
            "best.h5\n"
            "rankfold tune faces.h5 --method nmf --validation 0.1 --factors 5,10,20,40 --out f.h5\n"
            "rankfold tune tune.toml");
    }

    /// Brings the settings in line with the method. @param given  whether an option was
    void settle(const std::function<bool(const std::string&)>& given,
                nlohmann::ordered_json& record);
};

/// Names of the options that ALS alone has.
std::vector<std::string> als_options() {
    AlsSettings settings;
    Options table("als", "");
    settings.declare_others(table);
    std::vector<std::string> names = table.names();
    std::erase(names, "sweeps");
    names.insert(names.end(), {"alpha", "unobserved-weight"});
    return names;
}

void TuneCommand::settle(const std::function<bool(const std::string&)>& given,
                         nlohmann::ordered_json& record) {
    const std::vector<std::string> others =
        is_nmf() ? als_options() : std::vector<std::string>{"missing", "loss"};
    for (const std::string& name : others) {
        if (given(name)) throw input_error("--", name, " does not go with --method ", method);
    }
    if (!is_nmf()) return;
    nmf.solver = nmf.loss == "kl" ? "mu" : "hals";
    nmf.nmf.sweeps = given("sweeps") ? fixed.als.sweeps : NmfOptions{}.sweeps;
    if (!given("lambda")) lambda = {0.0};
    record["sweeps"] = nmf.nmf.sweeps;
    record["lambda"] = lambda;
}

/// One setting of the grid.
struct Point {
    Index k;
    double lambda;
    double exponent;
    double alpha;
    std::optional<double> unobserved;
};

/// The grid in the order in which warm starts help: within all else k rising, then λ falling.
std::vector<Point> grid_of(const TuneCommand& o) {
    const std::set<Index> ks(o.factors.begin(), o.factors.end());
    const std::set<double, std::greater<>> lambdas(o.lambda.begin(), o.lambda.end());
    std::vector<std::optional<double>> weights(o.unobserved.begin(), o.unobserved.end());
    if (weights.empty()) weights.emplace_back();
    std::vector<Point> points;
    for (const auto& weight : weights) {
        for (const double alpha : o.alpha) {
            for (const double exponent : o.exponent) {
                for (const Index k : ks) {
                    for (const double lambda : lambdas) {
                        points.push_back({k, lambda, exponent, alpha, weight});
                    }
                }
            }
        }
    }
    return points;
}

/// What is varied, as the table's first columns say it.
std::vector<std::pair<std::string, double>> shown(const TuneCommand& o, const Point& p) {
    std::vector<std::pair<std::string, double>> columns{{"factors", static_cast<double>(p.k)}};
    if (!o.is_nmf() || p.lambda > 0.0) columns.emplace_back("lambda", p.lambda);
    if (o.exponent.size() > 1) columns.emplace_back("lambda-exponent", p.exponent);
    if (o.alpha.size() > 1) columns.emplace_back("alpha", p.alpha);
    if (p.unobserved) columns.emplace_back("unobserved-weight", *p.unobserved);
    return columns;
}

template <Real R>
class Tuning {
public:
    Tuning(Run& run, TuneCommand o)
        : run_{run},
          o_{std::move(o)},
          data_{load_training<R>(run, o_.matrix, o_.stop,
                                 o_.is_nmf() ? DenseMatrices::as_entries : DenseMatrices::refused)},
          finished_(run.comm, o_.loop) {
        if (!data_.was_dense) return;
        if (o_.nmf.loss == "kl") {
            throw input_error("--loss kl takes all elements of ", o_.matrix,
                              ", and some are held back; --loss frobenius can do without them");
        }
        o_.nmf.missing = true;
    }

    /// Checks all settings before any work.
    void check() {
        for (const Point& point : grid_of(o_)) {
            if (o_.is_nmf()) {
                static_cast<void>(nmf_of(point));
            } else {
                check_problem(*data_.train, als_of(point));
            }
        }
        if (o_.is_nmf()) check_problem(*data_.train, o_.nmf);
        static_cast<void>(EarlyStop<R>(run_, o_.stop, data_, predicts_values()));
    }

    void search() {
        report_empty_lines(run_, *data_.train);
        std::shared_ptr<const Factors<R>> first_of_k;  // of the k before, with the first λ
        std::shared_ptr<const Factors<R>> before;
        std::optional<Point> last;
        for (const Point& point : grid_of(o_)) {
            const bool same_rest = last && last->exponent == point.exponent &&
                                   last->alpha == point.alpha &&
                                   last->unobserved == point.unobserved;
            if (!same_rest) {
                first_of_k = before = nullptr;
            } else if (last->k != point.k) {
                before = first_of_k;
            }
            const bool first = !same_rest || last->k != point.k;
            const auto fitted = fit(point, o_.warm_starts ? before : nullptr);
            if (fitted) before = fitted;
            if (first && fitted) first_of_k = fitted;
            last = point;
        }
        if (!best_) {
            throw Error(Fault::check, "none of the settings of the grid could be fitted", true);
        }
    }

    void write() {
        auto factors = std::make_shared<Factors<R>>(std::move(*best_));
        factors->options = settings_of(best_point_).dump();
        write_factors(o_.out, *factors,
                      {.command = "tune",
                       .options = run_.options.dump(),
                       .input_digest = digest_text(data_.train->digest)});
        run_.digest = digest_text(digest(run_.comm, factors->tensors()));
        run_.history = {};  // that of the last point
        run_.result["table"] = table_;
        run_.result["best"] = best_row_;
        run_.result["validation"] = best_validation_;
        std::string text;
        for (const auto& [name, value] : shown(o_, best_point_)) {
            text += fmt::format(" --{} {:g}", name, value);
        }
        run_.say(fmt::format("best:{}; wrote {}", text, o_.out));
        run_.handover.leave(o_.out, factors);
    }

private:
    /// True if what is held back is a value to predict, and no zero to the fit.
    [[nodiscard]] bool predicts_values() const {
        return o_.is_nmf() ? o_.nmf.missing : !o_.fixed.als.implicit;
    }

    [[nodiscard]] NmfOptions nmf_of(const Point& point) const {
        NmfSettings settings = o_.nmf;
        settings.nmf.k = point.k;
        settings.nmf.lambda = point.lambda;
        settings.nmf.lambda_exponent = point.exponent;
        return settings.resolved(run_.common, run_.comm.size());
    }

    [[nodiscard]] AlsOptions als_of(const Point& point) const {
        AlsOptions options = o_.fixed.resolved(run_.common);
        options.k = point.k;
        options.lambda = point.lambda;
        options.lambda_exponent = point.exponent;
        options.alpha = point.alpha;
        options.unobserved_weight = point.unobserved;
        return options;
    }

    /// What sets a point apart from the others.
    [[nodiscard]] nlohmann::ordered_json own_settings(const Point& point) const {
        nlohmann::ordered_json settings{{"factors", point.k},
                                        {"lambda", point.lambda},
                                        {"lambda-exponent", point.exponent},
                                        {"alpha", point.alpha},
                                        {"missing", o_.nmf.missing},
                                        {"unobserved-weight", nullptr}};
        if (point.unobserved) settings["unobserved-weight"] = *point.unobserved;
        return settings;
    }

    /// The options with which `als` or `nmf` would make the factors of a point.
    [[nodiscard]] nlohmann::ordered_json settings_of(const Point& point) const {
        auto settings = run_.options;
        settings.update(own_settings(point));
        return settings;
    }

    /// Fits one point, adds its line to the table and keeps it if it is the best. Null if its
    /// numbers broke down.
    std::shared_ptr<const Factors<R>> fit(const Point& point,
                                          std::shared_ptr<const Factors<R>> init) {
        const std::string name = fmt::format("point-{}", table_.size() + 1);
        auto inputs = data_.inputs;
        inputs.emplace_back("point", own_settings(point).dump());
        const JobIdentity identity = identity_of(run_, inputs);
        const nlohmann::ordered_json key{identity.options, identity.inputs};
        LoopOptions loop = o_.loop;
        if (!loop.checkpoint.empty()) loop.checkpoint += "/" + name;
        if (const auto kept = finished_.find(name, key); !kept.is_null()) {
            return take_over(point, kept, loop.checkpoint + ".h5");
        }
        run_.history = {};
        EarlyStop<R> early(run_, o_.stop, data_, predicts_values());
        Steering steering = steer(run_, loop, std::move(inputs));
        if (init) steering = warm_start<R>(std::move(init), data_.train, point.k, steering);
        const double start = monotonic_seconds();
        auto factors = std::make_shared<Factors<R>>();
        std::string trouble;
        try {
            *factors = fit_by_method(point, early.around(steering));
            early.finish(*factors);
            if (o_.is_nmf()) scale_components(*factors, point.lambda == 0.0);
        } catch (const Error& error) {
            if (error.fault() != Fault::check) throw;
            trouble = error.what();
        }
        const auto [error_name, error] = training_error(early.best_step());
        nlohmann::ordered_json row;
        for (const auto& [column, value] : shown(o_, point)) row[column] = value;
        if (trouble.empty()) {
            row["sweeps"] = run_.history.rows.size();
            row["best_sweep"] = early.best_step();
            row[error_name] = error;
            row[early.metric()] = early.best();
            row["seconds"] = monotonic_seconds() - start;
        } else {
            row["trouble"] = trouble;
        }
        const nlohmann::ordered_json kept{{"row", row},
                                          {"metric", early.metric()},
                                          {"training_error", error_name},
                                          {"greater_is_better", early.greater_is_better()},
                                          {"validation", run_.result["validation"]}};
        if (!loop.checkpoint.empty() && trouble.empty()) {
            const auto phase = run_.comm.ledger().phase("checkpoint");
            write_factors(loop.checkpoint + ".h5", *factors, {.command = "tune"});
        }
        finished_.add(name, key, kept);
        if (!loop.checkpoint.empty() && run_.comm.is_root()) {
            std::error_code ignored;
            std::filesystem::remove_all(loop.checkpoint, ignored);
        }
        return consider(point, kept, trouble.empty() ? factors : nullptr);
    }

    /// A point that an earlier run has finished.
    std::shared_ptr<const Factors<R>> take_over(const Point& point,
                                                const nlohmann::ordered_json& kept,
                                                const std::string& file) {
        std::shared_ptr<Factors<R>> factors;
        if (!kept["row"].contains("trouble")) {
            factors = std::make_shared<Factors<R>>(read_factors<R>(run_.comm, file));
            factors->ids = data_.train->ids;
        }
        return consider(point, kept, factors);
    }

    /// Adds the line of a fitted point to the table, and keeps its factors if they are the best.
    std::shared_ptr<const Factors<R>> consider(const Point& point,
                                               const nlohmann::ordered_json& kept,
                                               std::shared_ptr<const Factors<R>> factors) {
        table_.push_back(kept["row"]);
        print_line(point, kept);
        if (!factors) return nullptr;
        const double value = kept["row"][kept["metric"].get<std::string>()];
        const bool better = !best_ || (kept["greater_is_better"].get<bool>() ? value > best_value_
                                                                             : value < best_value_);
        if (better) {
            best_ = copy_of(*factors);
            best_value_ = value;
            best_point_ = point;
            best_row_ = table_.back();
            best_validation_ = kept["validation"];
        }
        return factors;
    }

    Factors<R> fit_by_method(const Point& point, const Steering& steering) {
        if (!o_.is_nmf()) return fit_als(*data_.train, als_of(point), steering);
        const NmfOptions options = nmf_of(point);
        std::vector<std::pair<std::string, std::string>> inputs;
        const auto start = make_start<R>(run_, o_.nmf, *data_.train, options, inputs);
        return fit_nmf(*data_.train, o_.nmf, options, steering, start.get());
    }

    static Factors<R> copy_of(const Factors<R>& factors) {
        Factors<R> copy;
        copy.rows = factors.rows.clone();
        copy.cols = factors.cols.clone();
        if (factors.row_bias) copy.row_bias = factors.row_bias->clone();
        if (factors.col_bias) copy.col_bias = factors.col_bias->clone();
        copy.global_mean = factors.global_mean;
        copy.method = factors.method;
        copy.ids = factors.ids;
        copy.history = factors.history;
        return copy;
    }

    /// The error on the training part after the best step: its name and value.
    [[nodiscard]] std::pair<std::string, double> training_error(Index step) const {
        const History& history = run_.history;
        for (const char* name : {"train_rmse", "relative_error", "objective"}) {
            const auto found = std::ranges::find(history.columns, name);
            if (found == history.columns.end() || step < 1) continue;
            return {name, history.rows.at(static_cast<std::size_t>(step) - 1)
                              .at(static_cast<std::size_t>(found - history.columns.begin()))};
        }
        return {"", 0.0};
    }

    /// The last row of the table, for the reader; before the first good one the header.
    void print_line(const Point& point, const nlohmann::ordered_json& kept) {
        const auto& row = table_.back();
        const std::string metric = kept["metric"];
        std::string header;
        std::string line;
        for (const auto& [name, value] : shown(o_, point)) {
            const std::size_t width = std::max<std::size_t>(8, name.size());
            header += fmt::format("{:>{}}  ", name, width);
            line += fmt::format("{:>{}}  ", fmt::format("{:g}", value), width);
        }
        if (row.contains("trouble")) {
            line += row["trouble"].get<std::string>();
        } else {
            const std::string error = kept["training_error"];
            if (!std::exchange(headed_, true)) {
                run_.say(fmt::format("{}{:>6}  {:>6}  {:>14}  {:>17}  {:>8}", header, "sweeps",
                                     "best", error, "validation " + metric, "seconds"));
            }
            line += fmt::format("{:>6}  {:>6}  {:>14.6g}  {:>17.5f}  {:>8.2f}",
                                row["sweeps"].get<Index>(), row["best_sweep"].get<Index>(),
                                row[error].get<double>(), row[metric].get<double>(),
                                row["seconds"].get<double>());
        }
        run_.say(line);
    }

    Run& run_;
    TuneCommand o_;
    TrainingData<R> data_;
    FinishedParts finished_;
    nlohmann::ordered_json table_ = nlohmann::ordered_json::array();
    bool headed_ = false;
    std::optional<Factors<R>> best_;
    double best_value_ = 0.0;
    Point best_point_{};
    nlohmann::ordered_json best_row_;
    nlohmann::ordered_json best_validation_;
};

template <Real R>
void run_tune(Run& run, const TuneCommand& o) {
    run.check_output(o.out, {o.matrix, o.stop.validation});
    if (o.stop.validation.empty()) {
        throw input_error(
            "tune: --validation FILE or a share is missing, on which the settings are compared");
    }
    Tuning<R> tuning(run, o);
    tuning.check();
    if (run.common.dry_run) return;
    tuning.search();
    tuning.write();
}

/// The settings of a job file, under those that the command line gave itself.
void read_settings(Run& run, TuneCommand& o, const Options& given) {
    const std::string file = o.matrix;
    o = {};
    Options table("tune", "");
    o.declare(table);
    std::vector<std::string> arguments;
    const auto known = table.names();
    for (const auto& [key, text] : flat_settings(read_job_text(run.comm, file), file)) {
        if (std::ranges::find(known, key) == known.end()) {
            throw input_error(file, ": there is no option ", key, did_you_mean(key, known));
        }
        if (key != "matrix" && given.given(key)) continue;
        if (table.is_positional(key)) {
            arguments.push_back(text);
        } else if (table.is_flag(key)) {
            arguments.push_back((text == "true" ? "--" : "--no-") + key);
        } else {
            arguments.push_back("--" + key + "=" + text);
        }
    }
    for (const auto& name : known) {
        if (name != "matrix" && given.given(name)) {
            const auto& value = run.options[name];
            std::string text = value.is_string() ? value.get<std::string>() : value.dump();
            if (value.is_array()) text = text.substr(1, text.size() - 2);
            arguments.push_back(value.is_boolean() ? (value.get<bool>() ? "--" : "--no-") + name
                                                   : "--" + name + "=" + text);
        }
    }
    static_cast<void>(table.parse(arguments));
    const auto resolved = table.resolved();
    for (const auto& [name, value] : resolved.items()) run.options[name] = value;
    o.settle([&](const std::string& name) { return table.given(name); }, run.options);
}

}  // namespace

Action declare_tune(Options& options) {
    auto o = std::make_shared<TuneCommand>();
    o->declare(options);
    return [o, &options](Run& run) {
        if (o->matrix.ends_with(".toml")) {
            read_settings(run, *o, options);
        } else {
            o->settle([&](const std::string& name) { return options.given(name); }, run.options);
        }
        run.common.precision == "float" ? run_tune<float>(run, *o) : run_tune<double>(run, *o);
    };
}

}  // namespace rankfold::cli
