#include "compress_parts.hpp"

#include <algorithm>

#include <fmt/format.h>

#include <rankfold/cli/joint_scorer.hpp>

#include "als_settings.hpp"
#include "scoring.hpp"

namespace rankfold::cli {

namespace {

/// One layer of a stack as a network of its own. @param inner  0: dense
template <Real R>
Network<R> single_layer(const StackShape& shape, Index inner) {
    Graph graph = dense_chain(shape.in, {}, shape.out, Activation::relu, 0.0);
    if (inner > 0) {
        graph.layers.front().kind = LayerKind::factored;
        graph.layers.front().inner = inner;
    }
    Network<R> network(std::move(graph));
    network.initialize(1);
    return network;
}

std::string inner_text(const std::vector<LayerPlan>& plan) {
    std::string text;
    for (const LayerPlan& layer : plan) {
        text += fmt::format("{}{}", text.empty() ? "" : ",",
                            layer.inner == 0 ? "dense" : std::to_string(layer.inner));
    }
    return text;
}

std::string value_text(const std::optional<Estimate>& metric,
                       const std::optional<double>& validation) {
    if (metric) return fmt::format("{:.4f} ±{:.4f}", metric->value, metric->standard_error);
    return validation ? fmt::format("{:.4f} (validation)", *validation) : "";
}

}  // namespace

template <Real R>
double forward_seconds(const Communicator& comm, Network<R>& network, Index batch) {
    network.prepare(batch);
    Workspace<R> ws = network.workspace(batch, Purpose::inference);
    ws.rows = batch;
    const Index passes = std::max<Index>(1, 1000 / batch);
    std::vector<double> seconds;
    for (int repeat = 0; repeat < 10; ++repeat) {
        const double start = monotonic_seconds();
        for (Index pass = 0; pass < passes; ++pass) network.forward(ws);
        seconds.push_back((monotonic_seconds() - start) * 1000.0 /
                          static_cast<double>(passes * batch));
    }
    std::sort(seconds.begin() + 1, seconds.end());  // the first one warms up
    return comm.all_reduce(seconds[5], Reduce::max);
}

template <Real R>
std::vector<LayerPrice> time_prices(const Communicator& comm, const std::vector<StackShape>& stacks,
                                    Index batch) {
    std::vector<LayerPrice> prices;
    for (const StackShape& stack : stacks) {
        if (stack.table) {  // looking up a row takes no product
            prices.push_back({.dense = 0.0, .base = 0.0, .direction = 1e-12});
            continue;
        }
        const auto seconds = [&](Index inner) {
            Network<R> network = single_layer<R>(stack, inner);
            return forward_seconds(comm, network, batch);
        };
        const Index even = stack.out * stack.in / (stack.out + stack.in);  // as large as dense
        const Index less = std::max<Index>(1, even / 8);
        const Index more = std::max(less + 1, even / 2);
        const double first = seconds(less);
        LayerPrice price{.dense = seconds(0), .too_wide = stack.too_wide()};
        price.direction =
            std::max(1e-12, (seconds(more) - first) / static_cast<double>(more - less));
        price.base = std::max(0.0, first - price.direction * static_cast<double>(less));
        if (first >= price.dense) price.base = price.dense;
        prices.push_back(price);
    }
    return prices;
}

template <Real R>
std::string metric_name(const NetworkModel<R>& model) {
    if (model.head == Loss::classes) return "accuracy";
    if (model.head == Loss::masked) return "rmse";
    if (model.input == NetworkInput::towers) {
        const std::string& options = model.factors->options;
        const bool values =
            model.head == Loss::factorization && !recorded_option(options, "implicit", false);
        return values ? "rmse" : "hr@10";
    }
    // the joint model's residual stands beside factors of values or of preferences
    const bool values = !is_residual(model) || model.factors->method == "als-explicit";
    return model.head == Loss::squared && values ? "rmse" : "hr@10";
}

template <Real R>
std::vector<LayerStatistics> table_visits(const Graph& graph, const BlockRowCsr<R>& entries) {
    std::vector<double> counts[2];  // of rows, of columns
    const CsrView<R> local = entries.local().view();
    for (Index i = 0; i < local.rows; ++i) {
        counts[0].push_back(static_cast<double>(local.row_nnz(i)));
    }
    counts[0] = entries.comm().all_gather(std::span<const double>(counts[0]));
    for (const Index n : summarize(entries).col_counts) {
        counts[1].push_back(static_cast<double>(n));
    }
    std::vector<LayerStatistics> visits;
    for (const LayerSpec& layer : graph.layers) {
        if (layer.kind != LayerKind::embedding) continue;
        const bool column = layer.inputs.front() == graph.inputs[1].name;
        visits.push_back({.layer = layer.name, .visits = counts[column ? 1 : 0]});
    }
    return visits;
}

namespace {

/// The metric of any scorer on the entries of `test`, whose rows and columns, as those of `data`,
/// are found by the scorer's names.
template <Real R, class AnyScorer>
Estimate measure_scores(const AnyScorer& scorer, const IdSource& names, const std::string& metric,
                        const MatrixData<R>& data, const MatrixData<R>& test, Index threads) {
    const auto by_name = [&](const MatrixData<R>& matrix) {
        return align_by_name(matrix, names, scorer.layout(), scorer.cols());
    };
    const auto aligned = by_name(test);
    if (metric == "rmse") {
        return rating_errors<R>(scorer, aligned.matrix, aligned.strangers, {}, threads).rmse;
    }
    const auto seen = by_name(data);
    const std::vector<Metric> wanted{parse_metric(metric)};
    return rank_quality<R>(scorer, {.test = aligned.matrix, .train = &seen.matrix}, wanted, threads)
        .metrics.front();
}

}  // namespace

template <Real R>
Estimate measure_factors(Run& run, const Factors<R>& factors, const IdSource& names,
                         const std::string& metric, const MatrixData<R>& data,
                         const MatrixData<R>& test) {
    return measure_scores(FactorScorer<R>(factors), names, metric, data, test, run.common.threads);
}

template <Real R>
Estimate measure_network(Run& run, NetworkModel<R>& model, const std::string& metric,
                         const MatrixData<R>& data, const MatrixData<R>& test) {
    const auto phase = run.comm.ledger().phase("evaluate");
    const Index threads = run.common.threads;
    if (model.head == Loss::classes) {
        const auto scorer = network_scorer(model, &test);
        return classification_quality(confusion<R>(scorer, *test.labels, threads)).accuracy;
    }
    if (model.input == NetworkInput::towers) {
        return measure_factors(run, *model.factors, model.factors->ids, metric, data, test);
    }
    if (is_residual(model)) {
        return measure_scores(JointScorer<R>(*model.factors, model.network), model.factors->ids,
                              metric, data, test, threads);
    }
    if (scores_pairs(model)) {
        return measure_scores(JointScorer<R>(run.comm, model.network), model.ids, metric, data,
                              test, threads);
    }
    return measure_scores(network_scorer(model, &data), data.ids, metric, data, test, threads);
}

template <Real R>
NetworkFigures network_figures(const Communicator& comm, Network<R>& network, Index batch) {
    NetworkFigures figures;
    for (const auto& tensor : network.arena().tensors()) figures.parameters += tensor.size();
    figures.megabytes = 1e-6 * static_cast<double>(figures.parameters) * sizeof(R);
    figures.flops = network.forward_flops(1);
    figures.seconds = forward_seconds(comm, network, batch);
    return figures;
}

void tell_plan(Run& run, const CompressionRow& row) {
    run.say(fmt::format("{:<18} {:>14} {:>6} {:>10} {:>10} {:>10}", row.method + ": layer", "shape",
                        "inner", "weights", "of dense", "error"));
    for (const LayerPlan& l : row.plan) {
        const bool small = std::min(l.out, l.in) < least_width_to_factor;
        run.say(fmt::format(
            "{:<18} {:>14} {:>6} {:>10} {:>9.1f}% {:>10.4f}{}", l.layer,
            fmt::format("{} x {}", l.out, l.in), l.inner == 0 ? "dense" : std::to_string(l.inner),
            l.weights(),
            100.0 * static_cast<double>(l.weights()) / static_cast<double>(l.out * l.in),
            l.relative_error,
            l.inner > 0 ? (l.shares_v ? "  shares V" : "")
            : small     ? "  would not get faster"
                        : "  would not get smaller and faster"));
    }
    run.say("");
}

void tell_rows(Run& run, const std::vector<CompressionRow>& rows, const std::string& metric) {
    run.say(fmt::format("{:<7} {:>20} {:>10} {:>10} {:>11} {:>8} {:>22} {:>22}", "method", "inner",
                        "parameters", "kflop/row", "ms/1000", "MB", metric + " truncated",
                        "fine-tuned"));
    for (const CompressionRow& row : rows) {
        run.say(fmt::format("{:<7} {:>20} {:>10} {:>10.1f} {:>11.3f} {:>8.3f} {:>22} {:>22}",
                            row.method, row.plan.empty() ? "dense" : inner_text(row.plan),
                            row.figures.parameters, 1e-3 * row.figures.flops,
                            1e3 * row.figures.seconds, row.figures.megabytes,
                            value_text(row.truncated, row.validation_truncated),
                            value_text(row.tuned, row.validation_tuned)));
        nlohmann::ordered_json json{{"method", row.method},
                                    {"size", row.size},
                                    {"parameters", row.figures.parameters},
                                    {"flops_per_row", row.figures.flops},
                                    {"seconds_per_1000_samples", row.figures.seconds},
                                    {"megabytes", row.figures.megabytes}};
        const auto add = [&](const char* stage, const std::optional<Estimate>& value,
                             const std::optional<double>& validation) {
            if (value) {
                json[stage][metric] = value->value;
                json[stage][metric + "_se"] = value->standard_error;
            }
            if (validation) json[stage]["validation_" + metric] = *validation;
        };
        add(row.plan.empty() ? "before" : "truncated", row.truncated, row.validation_truncated);
        add("fine-tuned", row.tuned, row.validation_tuned);
        for (const LayerPlan& l : row.plan) {
            json["layers"].push_back({{"layer", l.layer},
                                      {"out", l.out},
                                      {"in", l.in},
                                      {"inner", l.inner},
                                      {"weights", l.weights()},
                                      {"relative_error", l.relative_error}});
        }
        run.result["rows"].push_back(std::move(json));
    }
}

#define RANKFOLD_INSTANTIATE(R)                                                              \
    template std::string metric_name(const NetworkModel<R>&);                                \
    template std::vector<LayerStatistics> table_visits(const Graph&, const BlockRowCsr<R>&); \
    template double forward_seconds(const Communicator&, Network<R>&, Index);                \
    template std::vector<LayerPrice> time_prices<R>(const Communicator&,                     \
                                                    const std::vector<StackShape>&, Index);  \
    template Estimate measure_factors(Run&, const Factors<R>&, const IdSource&,              \
                                      const std::string&, const MatrixData<R>&,              \
                                      const MatrixData<R>&);                                 \
    template Estimate measure_network(Run&, NetworkModel<R>&, const std::string&,            \
                                      const MatrixData<R>&, const MatrixData<R>&);           \
    template NetworkFigures network_figures(const Communicator&, Network<R>&, Index);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold::cli
