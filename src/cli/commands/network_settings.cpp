#include "network_settings.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

namespace rankfold::cli {

void NetworkSettings::declare(Options& options, Index least_epochs) {
    OptimizerOptions& o = train.optimizer;
    options.add("epochs", train.epochs, "Passes over the samples",
                Accept::at_least(static_cast<double>(least_epochs)));
    options.add("batch", train.batch, "Samples of a global batch", Accept::at_least(1));
    options.add("micro-batches", micro_batches,
                "Blocks that a batch is cut into, whatever the number of ranks; 0: the largest "
                "power of two up to batch / 128, at least 4",
                Accept::at_least(0));
    options.add("accumulate", train.accumulate,
                "Passes in which a batch is computed, so that less of it is in memory",
                Accept::at_least(1));
    options.add("optimizer", optimizer, "Update rule", Accept::one_of({"adam", "adamw", "sgd"}));
    options.add("learning-rate", o.learning_rate, "At the start", Accept::above(0));
    options.add("momentum", o.momentum, "Of sgd", Accept::between(0, 0.9999));
    options.add("weight-decay", o.weight_decay,
                "Of weights, not of biases: apart from the gradient for adamw, else a part of it",
                Accept::at_least(0));
    options.add("clip", o.clip, "Largest norm of the whole gradient; 0: no limit",
                Accept::at_least(0));
    options.add("schedule", schedule,
                "Of the learning rate: cosine falls to 0 at the end, step by --step-factor every "
                "--step-epochs",
                Accept::one_of({"cosine", "constant", "step"}));
    options.add("step-epochs", o.step_epochs, "Epochs between two steps of the learning rate",
                Accept::above(0));
    options.add("step-factor", o.step_factor, "What a step multiplies it by", Accept::above(0));
    options.add("warm-up", o.warm_up, "Epochs in which the learning rate grows from 0",
                Accept::at_least(0));
    options.add("gradient-sum", gradient_sum,
                "owner: each rank sums and updates its part; allreduce: every rank gets the whole "
                "sum and updates everything",
                Accept::one_of({"owner", "allreduce"}));
    options.add("reproducible", reproducible,
                "on: the same bits on any number of ranks; off: somewhat faster",
                Accept::one_of({"on", "off"}));
    options.add("patience", patience,
                "Stop after this many epochs in which the validation did not become better; 0: "
                "never. The best parameters are kept in any case",
                Accept::at_least(0));
}

TrainOptions NetworkSettings::resolved(const CommonOptions& common) const {
    TrainOptions options = train;
    options.optimizer.method = optimizer == "adam"    ? Method::adam
                               : optimizer == "adamw" ? Method::adamw
                                                      : Method::sgd;
    options.optimizer.schedule = schedule == "cosine" ? Schedule::cosine
                                 : schedule == "step" ? Schedule::step
                                                      : Schedule::constant;
    options.owner_updates = gradient_sum == "owner";
    options.reproducible = reproducible == "on";
    options.seed = static_cast<std::uint64_t>(common.seed);
    options.threads = common.threads;
    return options;
}

Index NetworkSettings::blocks() const {
    return micro_batches > 0 ? micro_batches : default_micro_batches(train.batch);
}

void NetworkSettings::warn_of_idle_ranks(const Run& run) const {
    if (run.comm.size() <= blocks()) return;
    run.log(
        fmt::format("warning: {} of the {} ranks have no samples: a batch is cut into {} "
                    "micro-batches (--micro-batches)",
                    run.comm.size() - blocks(), run.comm.size(), blocks()));
}

template <Real R>
NetworkStop<R>::NetworkStop(Run& run, std::function<TensorList()> parameters, Measure measure,
                            Index patience)
    : run_{run},
      parameters_{std::move(parameters)},
      measure_{std::move(measure)},
      patience_{patience} {}

template <Real R>
void NetworkStop<R>::keep() {
    best_.clear();
    for (const Tensor& tensor : parameters_().tensors) {
        const auto values = std::get<std::span<R>>(tensor.data);
        best_.emplace_back(values.begin(), values.end());
    }
}

/// The number of the best epoch, from 1; the first of equal ones. 0: the start.
template <Real R>
Index NetworkStop<R>::best_step() const {
    const auto best = measure_.greater_is_better ? std::ranges::max_element(values_)
                                                 : std::ranges::min_element(values_);
    if (best == values_.end()) return 0;
    const bool better =
        !std::isfinite(start_) || (measure_.greater_is_better ? *best > start_ : *best < start_);
    return better ? best - values_.begin() + 1 : 0;
}

template <Real R>
double NetworkStop<R>::measured() {
    const auto phase = run_.comm.ledger().phase("validation");
    return measure_.value();
}

template <Real R>
bool NetworkStop<R>::enough() const {
    return patience_ > 0 && std::ssize(values_) - best_step() >= patience_;
}

/// The state with the best parameters beside it.
template <Real R>
TensorList NetworkStop<R>::extended(const TensorList& state) {
    TensorList list = state;
    const TensorList parameters = parameters_();
    for (std::size_t t = 0; t < best_.size(); ++t) {
        list.tensors.push_back(parameters.tensors[t]);
        list.tensors.back().path = "best/" + parameters.tensors[t].path;
        list.tensors.back().data = std::span<R>(best_[t]);
    }
    list.scalars["best/start"] = start_;
    return list;
}

template <Real R>
Index NetworkStop<R>::restore(TensorList& state) {
    keep();
    TensorList list = extended(state);
    const Index steps = inner_.restore(list);
    if (steps == 0) keep();  // what the run begins with may be given
    start_ = steps > 0 ? list.scalars.at("best/start") : measured();
    list.scalars.erase("best/start");
    state.scalars = list.scalars;
    const History& history = run_.history;
    const auto column = std::ranges::find(history.columns, measure_.name);
    if (steps > 0 && column != history.columns.end()) {
        for (const auto& row : history.rows) {
            values_.push_back(row[static_cast<std::size_t>(column - history.columns.begin())]);
        }
    }
    // a run that had stopped here has nothing left to do
    return enough() ? std::numeric_limits<Index>::max() : steps;
}

template <Real R>
Verdict NetworkStop<R>::after(Progress progress, const TensorList& state) {
    values_.push_back(measured());
    progress.values.emplace_back(measure_.name, values_.back());
    if (measure_.others) {
        for (const auto& value : measure_.others()) progress.values.push_back(value);
    }
    if (best_step() == std::ssize(values_)) {
        keep();
    }
    const Verdict verdict = inner_.after(progress, extended(state));
    return enough() ? Verdict::stop : verdict;
}

template <Real R>
Steering NetworkStop<R>::around(Steering inner) {
    inner_ = std::move(inner);
    return {.restore = [this](TensorList& state) { return restore(state); },
            .after = [this](const Progress& progress,
                            const TensorList& state) { return after(progress, state); }};
}

template <Real R>
void NetworkStop<R>::finish() {
    if (values_.empty()) return;
    const TensorList parameters = parameters_();
    for (std::size_t t = 0; t < best_.size(); ++t) {
        std::ranges::copy(best_[t], std::get<std::span<R>>(parameters.tensors[t].data).begin());
    }
    const Index step = best_step();
    const double best = step > 0 ? values_[static_cast<std::size_t>(step) - 1] : start_;
    run_.result["validation"] = {
        {"metric", measure_.name}, {"value", best}, {concat("best_", measure_.unit), step}};
    run_.say(fmt::format("kept the parameters of {} of {}: {} {:.4f}",
                         step > 0 ? fmt::format("{} {}", measure_.unit, step) : "the start",
                         values_.size(), measure_.name, best));
}

template class NetworkStop<float>;
template class NetworkStop<double>;

}  // namespace rankfold::cli
