// rankfold evaluate: models measured on held-out entries or labelled rows, beside the baselines.
#include <algorithm>
#include <cmath>
#include <set>

#include <fmt/format.h>

#include <rankfold/eval/metrics.hpp>
#include <rankfold/eval/ranking.hpp>

#include "early_stop.hpp"
#include "scoring.hpp"

namespace rankfold::cli {

namespace {

struct EvaluateCommand {
    std::vector<std::string> models;
    std::string train;
    std::string test;
    std::string validation;
    std::string negatives;
    std::string factors_file;
    std::vector<std::string> metrics;
    bool clip = false;
};

/// One line of the table: a model or a baseline, and those of the wanted metrics that it has.
struct Line {
    std::string name;
    std::vector<std::optional<Estimate>> values;
};

template <Real R>
struct Parts {
    std::shared_ptr<const MatrixData<R>> test;
    std::shared_ptr<const MatrixData<R>> train;
    std::shared_ptr<const MatrixData<R>> validation;
    std::shared_ptr<const MatrixData<R>> negatives;
};

/// The parts in the rows and columns of one model.
template <Real R>
struct AlignedParts {
    std::optional<Aligned<R>> test;
    std::optional<BlockRows<R>> dense_test;
    std::optional<BlockRowCsr<R>> train;
    std::optional<BlockRowCsr<R>> validation;
    std::optional<BlockRowCsr<R>> negatives;
    std::optional<TrainingSummary> summary;
};

template <Real R>
class Evaluation {
public:
    Evaluation(Run& run, const EvaluateCommand& o, Parts<R> parts, std::vector<Metric> wanted)
        : run_{run}, o_{o}, parts_{std::move(parts)}, wanted_{std::move(wanted)} {}

    /// Measures the model; the baselines too, unless that is done.
    void measure(const Model<R>& model) {
        Line line{unused_name(model.name()), std::vector<std::optional<Estimate>>(wanted_.size())};
        if (any(&Metric::classifies)) classify(model, line);
        if (any(&Metric::ranks) || any(&Metric::rates)) {
            if (model.classifies()) {
                throw input_error(model.path(),
                                  " tells the classes of rows; it is measured by "
                                  "accuracy and macro-f1");
            }
            const bool with_baselines = lines_.empty();
            const AlignedParts<R> parts = align_parts(model);
            if (with_baselines) add_baselines(model, parts);
            rank(model.scorer(), parts, line, true);
            rate(model.scorer(), parts, rating_rule(model, parts), line, true);
        }
        lines_.push_back(std::move(line));
    }

    /// Prints the table, and puts the numbers in the report and their digest beside it.
    void report() const;

private:
    [[nodiscard]] bool any(bool (Metric::*kind)() const) const {
        return std::ranges::any_of(wanted_, [&](const Metric& m) { return (m.*kind)(); });
    }
    [[nodiscard]] std::string unused_name(const std::string& wish) const;
    [[nodiscard]] AlignedParts<R> align_parts(const Model<R>& model) const;
    [[nodiscard]] RatingRule<R> rating_rule(const Model<R>& model,
                                            const AlignedParts<R>& parts) const;
    void add_baselines(const Model<R>& model, const AlignedParts<R>& parts);
    void rank(ScorerRef<R> scorer, const AlignedParts<R>& parts, Line& line, bool note);
    void rate(ScorerRef<R> scorer, const AlignedParts<R>& parts, const RatingRule<R>& rule,
              Line& line, bool note);
    void classify(const Model<R>& model, Line& line);

    Run& run_;
    const EvaluateCommand& o_;
    Parts<R> parts_;
    std::vector<Metric> wanted_;
    std::vector<Line> lines_;
};

template <Real R>
std::string Evaluation<R>::unused_name(const std::string& wish) const {
    std::string name = wish;
    for (int number = 2; std::ranges::find(lines_, name, &Line::name) != lines_.end(); ++number) {
        name = fmt::format("{}-{}", wish, number);
    }
    return name;
}

template <Real R>
AlignedParts<R> Evaluation<R>::align_parts(const Model<R>& model) const {
    const auto phase = run_.comm.ledger().phase("align");
    const ScorerRef<R> scorer = model.scorer();
    AlignedParts<R> parts;
    if (parts_.test->sparse) {
        parts.test = align_with(model, *parts_.test);
    } else if (parts_.test->rows() != scorer.rows() || parts_.test->cols() != scorer.cols()) {
        throw input_error("the dense test matrix ", o_.test, " is ", parts_.test->rows(), " x ",
                          parts_.test->cols(), ", but ", model.path(), " has ", scorer.rows(),
                          " rows and ", scorer.cols(), " columns");
    } else {
        parts.dense_test = redistribute(*parts_.test->dense, scorer.layout());
    }
    const auto aligned = [&](const std::shared_ptr<const MatrixData<R>>& part) {
        return part && part->sparse ? std::optional(std::move(align_with(model, *part).matrix))
                                    : std::nullopt;
    };
    parts.train = aligned(parts_.train);
    parts.validation = aligned(parts_.validation);
    parts.negatives = aligned(parts_.negatives);
    if (parts.train) {
        parts.summary = summarize(*parts.train);
    } else if (parts_.train) {
        parts.summary = summarize(*parts_.train->dense);
    }
    return parts;
}

template <Real R>
RatingRule<R> Evaluation<R>::rating_rule(const Model<R>& model,
                                         const AlignedParts<R>& parts) const {
    RatingRule<R> rule;
    if (parts.train) {
        rule.train = &*parts.train;
        rule.summary = &*parts.summary;
    }
    rule.offsets = model.offsets().value_or(Offsets());
    if (rule.offsets.mean == 0.0 && parts.summary) rule.offsets.mean = parts.summary->mean;
    if (o_.clip) rule.clip = {parts.summary->least, parts.summary->greatest};
    return rule;
}

/// Popularity for rankings and the global mean for ratings, as far as there is a training part.
template <Real R>
void Evaluation<R>::add_baselines(const Model<R>& model, const AlignedParts<R>& parts) {
    if (!parts.summary) return;
    const std::vector<std::optional<Estimate>> none(wanted_.size());
    const ShardLayout& layout = model.scorer().layout();
    if (any(&Metric::ranks)) {
        Line line{"popularity", none};
        const auto scorer = popularity<R>(layout, parts.summary->col_counts);
        rank(scorer, parts, line, false);
        lines_.push_back(std::move(line));
    }
    Line line{"global_mean", none};
    const auto scorer = constant_scorer<R>(layout, model.scorer().cols(), parts.summary->mean);
    RatingRule<R> rule;
    rule.offsets.mean = parts.summary->mean;
    rank(scorer, parts, line, false);
    rate(scorer, parts, rule, line, false);
    lines_.push_back(std::move(line));
}

template <Real R>
void Evaluation<R>::rank(ScorerRef<R> scorer, const AlignedParts<R>& parts, Line& line, bool note) {
    std::vector<Metric> metrics;
    std::ranges::copy_if(wanted_, std::back_inserter(metrics), &Metric::ranks);
    if (metrics.empty()) return;
    const auto pointer = [](const auto& part) { return part ? &*part : nullptr; };
    const RankingQuality quality = rank_quality<R>(scorer,
                                                   {.test = parts.test->matrix,
                                                    .train = pointer(parts.train),
                                                    .validation = pointer(parts.validation),
                                                    .negatives = pointer(parts.negatives)},
                                                   metrics, run_.common.threads);
    if (quality.rows == 0) {
        throw input_error("no row of the model has an entry in ", o_.test,
                          ": are the names of rows and columns those of the model?");
    }
    std::size_t next = 0;
    for (std::size_t c = 0; c < wanted_.size(); ++c) {
        if (wanted_[c].ranks()) line.values[c] = quality.metrics[next++];
    }
    if (!note) return;
    run_.result["rows"] = quality.rows;
    run_.result["rows_left_out"] = quality.rows_left_out;
    const Index unknown =
        run_.comm.all_reduce(static_cast<Index>(parts.test->strangers.size()), Reduce::sum);
    if (unknown > 0) run_.result["unknown_entries"] = unknown;
}

template <Real R>
void Evaluation<R>::rate(ScorerRef<R> scorer, const AlignedParts<R>& parts,
                         const RatingRule<R>& rule, Line& line, bool note) {
    if (!any(&Metric::rates)) return;
    const bool strangers = parts.test && !run_.comm.all_agree(parts.test->strangers.empty());
    if (strangers && rule.offsets.mean == 0.0 && !parts.summary) {
        throw input_error(o_.test,
                          " has entries in rows or columns that the model does not know; "
                          "give --train FILE, whose mean is predicted there");
    }
    const RatingErrors errors =
        parts.test ? rating_errors<R>(scorer, parts.test->matrix, parts.test->strangers, rule,
                                      run_.common.threads)
                   : rating_errors<R>(scorer, *parts.dense_test, rule, run_.common.threads);
    for (std::size_t c = 0; c < wanted_.size(); ++c) {
        if (wanted_[c].kind == MetricKind::rmse) line.values[c] = errors.rmse;
        if (wanted_[c].kind == MetricKind::mae) line.values[c] = errors.mae;
    }
    if (!note) return;
    run_.result["entries"] = errors.entries;
    run_.result["entries_of_unseen_rows_or_columns"] = errors.absent;
}

/// The labels of a matrix as classes of the model: by the classes' names where both have them, else
/// as they are; −1 for a class that the model does not know.
template <Real R>
BlockRows<Index> model_labels(const Model<R>& model, const MatrixData<R>& matrix) {
    BlockRows<Index> labels = matrix.labels->clone();
    if (matrix.class_names.empty()) return labels;
    std::vector<Index> class_of;
    for (const auto& name : matrix.class_names) {
        const auto found = std::ranges::find(model.class_names(), name);
        class_of.push_back(
            found == model.class_names().end() ? -1 : found - model.class_names().begin());
    }
    for (Index& label : labels.local().data()) {
        const bool named = label >= 0 && label < std::ssize(class_of);
        label = named ? class_of[static_cast<std::size_t>(label)] : -1;
    }
    return labels;
}

template <Real R>
void Evaluation<R>::classify(const Model<R>& model, Line& line) {
    if (!model.classifies() || !parts_.test->labels) {
        throw input_error(
            "accuracy and macro-f1 need a network with a head for classes and a test "
            "matrix with labels: ",
            model.classifies() ? o_.test + " has none" : model.path() + " is none");
    }
    const BlockRows<Index> labels = model_labels(model, *parts_.test);
    const auto measured = [&](ScorerRef<R> scorer, Line& target) {
        const auto quality =
            classification_quality(confusion<R>(scorer, labels, run_.common.threads));
        for (std::size_t c = 0; c < wanted_.size(); ++c) {
            if (wanted_[c].kind == MetricKind::accuracy) target.values[c] = quality.accuracy;
            if (wanted_[c].kind == MetricKind::macro_f1) target.values[c] = quality.macro_f1;
        }
        return quality.samples;
    };
    if (lines_.empty() && parts_.train && parts_.train->labels) {
        // the most frequent class of the training rows
        std::vector<Index> counts(model.class_names().size(), 0);
        const BlockRows<Index> known = model_labels(model, *parts_.train);
        for (const Index label : known.local().data()) {
            if (label >= 0 && label < std::ssize(counts)) ++counts[static_cast<std::size_t>(label)];
        }
        run_.comm.all_reduce(std::span<Index>(counts), Reduce::sum);
        Line baseline{"popularity", std::vector<std::optional<Estimate>>(wanted_.size())};
        const auto most_frequent = popularity<R>(labels.layout(), counts);
        measured(most_frequent, baseline);
        lines_.push_back(std::move(baseline));
    }
    const Index samples = measured(model.scorer(), line);
    if (samples == 0) {
        throw input_error("no row of ", o_.test, " has a label among the classes of ",
                          model.path());
    }
    run_.result["rows"] = samples;
    run_.result["rows_left_out"] = parts_.test->rows() - samples;
}

template <Real R>
void Evaluation<R>::report() const {
    std::size_t width = 12;
    for (const Line& line : lines_) width = std::max(width, line.name.size());
    std::string header = fmt::format("{:<{}}", "", width);
    for (const Metric& metric : wanted_) header += fmt::format("  {:>18}", metric.name);
    run_.say(header);
    std::vector<double> values;
    values.reserve(lines_.size() * wanted_.size());
    TensorList numbers;
    for (const Line& line : lines_) {
        std::string text = fmt::format("{:<{}}", line.name, width);
        auto& result = run_.result[line.name] = nlohmann::ordered_json::object();
        for (std::size_t c = 0; c < wanted_.size(); ++c) {
            if (!line.values[c]) {
                text += fmt::format("  {:>18}", "-");
                continue;
            }
            const auto [value, error] = *line.values[c];
            text += fmt::format("  {:>9.4f} ±{:.4f}", value, error);
            result[wanted_[c].name] = value;
            result[wanted_[c].name + "_se"] = error;
            values.push_back(value);
            numbers.add_replicated(line.name + "/" + wanted_[c].name, {1},
                                   std::span<double>(&values.back(), 1));
        }
        run_.say(text);
    }
    run_.digest = digest_text(digest(run_.comm, numbers));
    const auto count = [&](const char* key) { return run_.result.value(key, Index{0}); };
    if (run_.result.contains("rows")) {
        run_.say(fmt::format("{} rows counted, {} left out (nothing to test); ± standard error",
                             count("rows"), count("rows_left_out")));
    }
    if (run_.result.contains("entries")) {
        run_.say(fmt::format("{} entries, {} of them in rows or columns without training entries",
                             count("entries"), count("entries_of_unseen_rows_or_columns")));
    }
    if (count("unknown_entries") > 0) {
        run_.say(
            fmt::format("{} test entries are in rows or columns that the model does not know; "
                        "they count in no ranking",
                        count("unknown_entries")));
    }
}

/// What is measured if nothing is asked for.
template <Real R>
std::vector<std::string> default_metrics(const Model<R>& model, const MatrixData<R>& test) {
    if (model.classifies()) return {"accuracy", "macro-f1"};
    if (model.rates() || test.dense) return {"rmse", "mae"};
    return {"hr@10", "ndcg@10"};
}

/// Refuses what the parts at hand cannot answer.
template <Real R>
void check_parts(const EvaluateCommand& o, const Parts<R>& parts,
                 const std::vector<Metric>& wanted) {
    if (std::ranges::any_of(wanted, &Metric::ranks)) {
        if (!parts.test->sparse || (parts.train && !parts.train->sparse)) {
            throw input_error(
                "rankings need sparse matrices, in which absent entries are "
                "candidates; ",
                parts.test->sparse ? o.train : o.test, " is dense");
        }
        if (!parts.train && !parts.negatives) {
            throw input_error(
                "a ranking over all columns needs --train FILE, whose entries are no "
                "candidates (or give --negatives FILE)");
        }
    }
    if (o.clip && !parts.train) {
        throw input_error("--clip needs --train FILE, whose range of values it clips to");
    }
}

template <Real R>
void run_evaluate(Run& run, const EvaluateCommand& o) {
    if (o.test.empty()) throw input_error("evaluate: --test FILE is missing; see --help");
    const auto load = [&](const std::string& path) {
        return path.empty() ? nullptr : load_matrix<R>(run, path);
    };
    const Parts<R> parts{.test = load(o.test),
                         .train = load(o.train),
                         .validation = load(o.validation),
                         .negatives = load(o.negatives)};
    const auto factors = o.factors_file.empty() ? nullptr : load_factors<R>(run, o.factors_file);
    std::vector<std::unique_ptr<Model<R>>> models;
    for (const auto& path : o.models)
        models.push_back(std::make_unique<Model<R>>(run, path, parts.train, parts.test, factors));
    std::vector<Metric> wanted;
    const auto names =
        o.metrics.empty() ? default_metrics(*models.front(), *parts.test) : o.metrics;
    for (const auto& name : names) wanted.push_back(parse_metric(name));
    check_parts(o, parts, wanted);
    if (run.common.dry_run) return;
    Evaluation<R> evaluation(run, o, parts, std::move(wanted));
    for (const auto& model : models) evaluation.measure(*model);
    evaluation.report();
}

}  // namespace

Action declare_evaluate(Options& options) {
    auto o = std::make_shared<EvaluateCommand>();
    options.positional("model", o->models, "Factors or network files, to be compared");
    options.add("train", o->train, "Matrix that the models were trained on");
    options.add("test", o->test, "Matrix with the test entries, or with labelled rows");
    options.add("validation", o->validation, "Matrix whose entries are no candidates either");
    options.add("negatives", o->negatives,
                "Matrix whose entries, with the test entries, are the only candidates");
    options.add("factors-file", o->factors_file,
                "Factors of the rows of --test, as fold-in gives them, for a network that reads "
                "factors");
    options.add("metrics", o->metrics,
                "hr@K, ndcg@K, recall@K, recall-min@K, map@K, auc, rmse, mae, accuracy, macro-f1; "
                "hr@10 and ndcg@10 for rankings, rmse and mae for ratings, accuracy and macro-f1 "
                "for classes unless given");
    options.add("clip", o->clip, "Clip predicted ratings to the range of the training values");
    options.examples(
        "rankfold evaluate factors.h5 --train r.train.h5 --test r.test.h5 --metrics rmse,mae\n"
        "rankfold evaluate als.h5 mlp.h5 --train c.train.h5 --test c.test.h5 "
        "--metrics hr@10,ndcg@10\n"
        "rankfold evaluate network.h5 --test images.test.h5");
    return [o](Run& run) {
        run.common.precision == "float" ? run_evaluate<float>(run, *o)
                                        : run_evaluate<double>(run, *o);
    };
}

}  // namespace rankfold::cli
