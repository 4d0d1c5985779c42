#include "early_stop.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include <rankfold/data/tensor_file.hpp>
#include <rankfold/data/text_reader.hpp>
#include <rankfold/eval/align.hpp>
#include <rankfold/eval/ranking.hpp>
#include <rankfold/eval/split.hpp>
#include <rankfold/factor/als.hpp>
#include <rankfold/factor/warm_start.hpp>

#include "scoring.hpp"

namespace rankfold::cli {

namespace {

constexpr double none = std::numeric_limits<double>::quiet_NaN();

const Tensor* find(const TensorList& state, const std::string& path) {
    const auto found = std::ranges::find(state.tensors, path, &Tensor::path);
    return found == state.tensors.end() ? nullptr : &*found;
}

Index width(const Tensor& tensor) {
    return tensor.shape.size() > 1 ? tensor.shape[1] : 1;
}

/// Puts a tensor's rows, whichever ranks have them, where `to` has its own. @collective
template <Real R>
void copy_values(const Tensor& from, BlockRows<R>& to) {
    const Communicator& comm = to.comm();
    const std::vector<Range> held = comm.all_gather(from.local);
    const auto overlap = [](Range a, Range b) {
        const Index begin = std::max(a.begin, b.begin);
        return Range{begin, std::max(begin, std::min(a.end, b.end))};
    };
    const Range mine = to.layout().rank_rows(comm.rank());
    std::vector<Index> send_counts;
    std::vector<Index> recv_counts;
    std::vector<R> packed;
    const auto values = std::get<std::span<R>>(from.data);
    for (int q = 0; q < comm.size(); ++q) {
        const Range wanted = overlap(from.local, to.layout().rank_rows(q));
        const auto first = values.begin() + (wanted.begin - from.local.begin) * to.cols();
        if (wanted.size() > 0)
            packed.insert(packed.end(), first, first + wanted.size() * to.cols());
        send_counts.push_back(wanted.size() * to.cols());
        recv_counts.push_back(overlap(held[static_cast<std::size_t>(q)], mine).size() * to.cols());
    }
    std::vector<R> received(to.local().data().size());
    comm.all_to_all(std::span<const R>(packed), send_counts, std::span<R>(received), recv_counts);
    auto next = received.begin();
    for (const Range& rows : held) {
        const Range got = overlap(rows, mine);
        const Index count = got.size() * to.cols();
        if (count == 0) continue;
        std::copy_n(next, count, to.local().data().begin() + (got.begin - mine.begin) * to.cols());
        next += count;
    }
}

/// Factors that can hold a state's values.
template <Real R>
Factors<R> factors_like(const Communicator& comm, const ShardLayout& rows,
                        const TensorList& state) {
    const auto matrix = [&](const char* path) -> std::optional<BlockRows<R>> {
        const Tensor* tensor = find(state, path);
        if (tensor == nullptr) return std::nullopt;
        if (std::string(path).starts_with("row")) {
            return BlockRows<R>(comm, rows, width(*tensor));
        }
        const Index cols = tensor->shape[0];
        return BlockRows<R>(comm, ShardLayout::even(cols, comm.size(), comm.size()),
                            width(*tensor));
    };
    Factors<R> factors;
    factors.rows = *matrix("row_factors");
    factors.cols = *matrix("col_factors");
    factors.row_bias = matrix("row_bias");
    factors.col_bias = matrix("col_bias");
    return factors;
}

template <Real R>
void copy_state(const TensorList& state, Factors<R>& factors) {
    copy_values(*find(state, "row_factors"), factors.rows);
    copy_values(*find(state, "col_factors"), factors.cols);
    if (factors.row_bias) copy_values(*find(state, "row_bias"), *factors.row_bias);
    if (factors.col_bias) copy_values(*find(state, "col_bias"), *factors.col_bias);
    const auto mean = state.scalars.find("global_mean");
    if (mean != state.scalars.end()) factors.global_mean = mean->second;
}

}  // namespace

std::optional<double> validation_share(const std::string& text) {
    double share = 0.0;
    if (!parse_number(text, share)) return std::nullopt;
    if (share <= 0.0 || share > 0.9) {
        throw input_error("--validation ", text,
                          ": a share must be above 0 and at most 0.9; else name a file");
    }
    return share;
}

template <Real R>
std::shared_ptr<const MatrixData<R>> with_entries(const MatrixData<R>& whole,
                                                  BlockRowCsr<R> entries) {
    auto data = std::make_shared<MatrixData<R>>();
    data->sparse = std::move(entries);
    data->ids = whole.ids;
    data->file = whole.file;
    data->digest = whole.digest;
    return data;
}

void StopRule::declare(Options& options) {
    options.add("validation", validation,
                "Matrix file to validate on after each sweep, or the share of the entries that is "
                "held back for it, as 0.1; the best factors are kept");
    options.add("validation-metric", metric,
                "What is measured there: rmse, mae or a ranking as ndcg@10; rmse for values and "
                "ndcg@10 for --implicit unless given");
    options.add("patience", patience,
                "Stop after this many sweeps in which the validation did not become better; 0: "
                "never",
                Accept::at_least(0));
    options.add("tolerance", tolerance,
                "Relative improvement that counts as one; without --validation: stop when the "
                "objective falls by less",
                Accept::between(0, 1));
}

template <Real R>
TrainingData<R> load_training(Run& run, const std::string& matrix, const StopRule& rule,
                              DenseMatrices dense) {
    std::shared_ptr<const MatrixData<R>> whole = load_matrix<R>(run, matrix);
    TrainingData<R> data{.train = whole, .validation = {}, .was_dense = false, .inputs = {}};
    data.inputs.emplace_back("matrix", digest_text(whole->digest));
    if (rule.validation.empty()) return data;
    const auto share = validation_share(rule.validation);
    if (whole->dense && dense == DenseMatrices::as_entries && share) {
        whole = with_entries(*whole, sparsify(*whole->dense, Zeros::stored));
        data.was_dense = true;
    }
    if (!whole->sparse) {
        throw input_error("--validation needs a sparse matrix", share ? "" : ", or a share", "; ",
                          matrix, " is dense");
    }
    if (share) {
        // other random numbers than those of `split`: what it left of them is never below its share
        constexpr std::uint64_t apart = 0x76616c6964617465;
        SplitParts<R> parts = split_entries(
            *whole->sparse,
            {.validation = *share, .seed = static_cast<std::uint64_t>(run.common.seed) ^ apart});
        data.train = with_entries(*whole, rebalance(parts.train));
        data.validation = redistribute(*parts.validation, data.train->sparse->layout());
        data.inputs.emplace_back("validation", rule.validation);
    } else {
        const auto part = load_matrix<R>(run, rule.validation);
        if (!part->sparse) throw input_error(rule.validation, " is dense; it must be sparse");
        data.validation = align_by_name(*part, whole->ids, whole->layout(), whole->cols()).matrix;
        data.inputs.emplace_back("validation", digest_text(part->digest));
    }
    if (data.validation->nnz() == 0 || data.train->entries() == 0) {
        throw input_error("--validation ", rule.validation,
                          " leaves nothing to validate or to train on");
    }
    return data;
}

template <Real R>
struct EarlyStop<R>::Impl {
    Run& run;
    StopRule rule;
    const TrainingData<R>& data;
    std::optional<Metric> wanted;   // with a validation part
    std::optional<Factors<R>> now;  // what is measured
    std::optional<Factors<R>> best;
    std::vector<double> values;  // after every step: the metric, or else the objective
    Steering inner;

    [[nodiscard]] bool greater_is_better() const { return wanted && wanted->ranks(); }
    [[nodiscard]] bool better(double a, double b) const {
        return greater_is_better() ? a > b : a < b;
    }

    /// The number of the best step, from 1; the first of equal ones. 0 before any.
    [[nodiscard]] Index best_step() const {
        std::size_t best_at = 0;
        for (std::size_t s = 1; s < values.size(); ++s) {
            if (better(values[s], values[best_at]) || std::isnan(values[best_at])) best_at = s;
        }
        return values.empty() ? 0 : static_cast<Index>(best_at) + 1;
    }

    [[nodiscard]] bool enough() const {
        if (values.empty()) return false;
        if (!wanted) {
            const std::size_t n = values.size();
            return rule.tolerance > 0.0 && n > 1 &&
                   values[n - 2] - values[n - 1] < rule.tolerance * std::abs(values[n - 2]);
        }
        if (rule.patience == 0) return false;
        double reference = values.front();
        Index since = 0;
        for (std::size_t s = 1; s < values.size(); ++s) {
            const double margin = rule.tolerance * std::abs(reference);
            ++since;
            if (better(values[s], greater_is_better() ? reference + margin : reference - margin)) {
                reference = values[s];
                since = 0;
            }
        }
        return since >= rule.patience;
    }

    double measure() {
        const auto phase = run.comm.ledger().phase("validation");
        const FactorScorer<R> scorer(*now);
        if (!wanted->ranks()) {
            const RatingErrors errors =
                rating_errors<R>(scorer, *data.validation, {}, {}, run.common.threads);
            return wanted->kind == MetricKind::rmse ? errors.rmse.value : errors.mae.value;
        }
        return rank_quality<R>(scorer, {.test = *data.validation, .train = &*data.train->sparse},
                               std::span<const Metric>(&*wanted, 1), run.common.threads)
            .metrics.front()
            .value;
    }

    /// The state with the best factors beside it.
    TensorList extended(const TensorList& state) {
        TensorList list = state;
        if (!wanted) return list;
        if (!now) {
            now = factors_like<R>(run.comm, data.train->layout(), state);
            best = factors_like<R>(run.comm, data.train->layout(), state);
        }
        TensorList kept = best->tensors("best/");
        list.tensors.insert(list.tensors.end(), kept.tensors.begin(), kept.tensors.end());
        return list;
    }

    Index restore(TensorList& state) {
        TensorList list = extended(state);
        const Index steps = inner.restore(list);
        state.scalars = list.scalars;
        const History& history = run.history;
        const auto column = std::ranges::find(history.columns, column_name());
        if (steps > 0 && column != history.columns.end()) {
            const auto c = static_cast<std::size_t>(column - history.columns.begin());
            for (const auto& row : history.rows) values.push_back(row[c]);
        }
        if (best) {
            const auto mean = state.scalars.find("global_mean");
            if (mean != state.scalars.end()) best->global_mean = mean->second;
        }
        // a run that had stopped here has nothing left to do
        return enough() ? std::numeric_limits<Index>::max() : steps;
    }

    [[nodiscard]] std::string column_name() const {
        return wanted ? "validation_" + wanted->name : "objective";
    }

    Verdict after(Progress progress, const TensorList& state) {
        if (wanted) {
            static_cast<void>(extended(state));  // makes `now` and `best`
            copy_state(state, *now);
            values.push_back(measure());
            progress.values.emplace_back(column_name(), values.back());
            if (best_step() == std::ssize(values)) std::swap(*now, *best);
        } else {
            for (const auto& [name, value] : progress.values) {
                if (name == "objective") values.push_back(value);
            }
        }
        const Verdict verdict = inner.after(progress, extended(state));
        return enough() ? Verdict::stop : verdict;
    }
};

template <Real R>
EarlyStop<R>::EarlyStop(Run& run, const StopRule& rule, const TrainingData<R>& data, bool values)
    : impl_{std::make_unique<Impl>(Impl{run, rule, data, {}, {}, {}, {}, {}})} {
    if (!data.validation) {
        if (!rule.metric.empty()) throw input_error("--validation-metric needs --validation");
        return;
    }
    impl_->wanted = parse_metric(!rule.metric.empty() ? rule.metric : values ? "rmse" : "ndcg@10");
    if (impl_->wanted->classifies()) {
        throw input_error("--validation-metric ", rule.metric, " is for classes, not for factors");
    }
}

template <Real R>
EarlyStop<R>::~EarlyStop() = default;

template <Real R>
Steering EarlyStop<R>::around(Steering inner) {
    impl_->inner = std::move(inner);
    return {.restore = [this](TensorList& state) { return impl_->restore(state); },
            .after = [this](const Progress& progress,
                            const TensorList& state) { return impl_->after(progress, state); }};
}

template <Real R>
void EarlyStop<R>::finish(Factors<R>& factors) {
    if (!impl_->wanted || impl_->values.empty()) return;
    const auto put = [](const BlockRows<R>& from, BlockRows<R>& to) {
        to = redistribute(from, to.layout());
    };
    put(impl_->best->rows, factors.rows);
    put(impl_->best->cols, factors.cols);
    if (factors.row_bias && impl_->best->row_bias) put(*impl_->best->row_bias, *factors.row_bias);
    if (factors.col_bias && impl_->best->col_bias) put(*impl_->best->col_bias, *factors.col_bias);
    factors.global_mean = impl_->best->global_mean;
    impl_->run.result["validation"] = {{"metric", metric()},
                                       {"value", best()},
                                       {"best_sweep", best_step()},
                                       {"entries", impl_->data.validation->nnz()}};
}

template <Real R>
double EarlyStop<R>::best() const {
    const Index step = impl_->wanted ? best_step() : 0;
    return step == 0 ? none : impl_->values[static_cast<std::size_t>(step) - 1];
}

template <Real R>
bool EarlyStop<R>::greater_is_better() const {
    return impl_->greater_is_better();
}

template <Real R>
Index EarlyStop<R>::best_step() const {
    return impl_->best_step();
}

template <Real R>
std::string EarlyStop<R>::metric() const {
    return impl_->wanted ? impl_->wanted->name : "";
}

namespace {

/// For this rank's rows of a tensor, the row of the same name in other factors, −1 for none.
std::vector<Index> part_of_map(const std::vector<Index>& map, Range rows) {
    std::vector<Index> part;
    for (Index i = rows.begin; i < rows.end; ++i) {
        part.push_back(map.empty() ? i : map[static_cast<std::size_t>(i)]);
    }
    return part;
}

}  // namespace

template <Real R>
Steering warm_start(std::shared_ptr<const Factors<R>> init,
                    std::shared_ptr<const MatrixData<R>> train, Index k, Steering inner) {
    const auto restore = [init, train, k, before = inner.restore](TensorList& state) {
        const Index steps = before(state);
        if (steps > 0) return steps;
        const Communicator& comm = train->comm();
        const Factors<R> cut = cut_factors(*init, k);
        const auto place = [&](const char* path, const char* axis, const BlockRows<R>& from,
                               Index count) {
            const Tensor& to = *find(state, path);
            const auto map = match_names(comm, train->ids, init->ids, axis, count, from.rows());
            place_rows(
                from, part_of_map(map, to.local),
                MatrixView<R>(std::get<std::span<R>>(to.data).data(), to.local.size(), width(to)));
        };
        place("row_factors", "obs", cut.rows, train->rows());
        place("col_factors", "var", cut.cols, train->cols());
        if (init->row_bias && find(state, "row_bias") != nullptr) {
            place("row_bias", "obs", *init->row_bias, train->rows());
        }
        if (init->col_bias && find(state, "col_bias") != nullptr) {
            place("col_bias", "var", *init->col_bias, train->cols());
        }
        return steps;
    };
    return {.restore = restore, .after = inner.after};
}

template <Real R>
std::shared_ptr<Factors<R>> factors_for(Run& run, const std::string& path,
                                        const Factors<R>& factors, const MatrixData<R>& a) {
    auto found = std::make_shared<Factors<R>>();
    const auto side = [&](const char* axis, Index count, const ShardLayout& layout,
                          const BlockRows<R>& from, const std::optional<BlockRows<R>>& from_bias,
                          BlockRows<R>& to, std::optional<BlockRows<R>>& bias) {
        const bool rows = axis == std::string("obs");
        const auto map = match_names(run.comm, a.ids, factors.ids, axis, count, from.rows());
        const auto named = [&](const IdSource& ids) {
            return axis_names(run.comm, ids, axis).has_value();
        };
        if (count != from.rows() && !(named(a.ids) && named(factors.ids))) {
            throw input_error(path, " has factors of ", from.rows(), rows ? " rows" : " columns",
                              ", but ", a.file, " has ", count, ", and not both have names");
        }
        const auto strangers = static_cast<Index>(std::ranges::count(map, Index{-1}));
        if (strangers == count) {
            throw input_error(path, " has factors of ", from.rows(), rows ? " rows" : " columns",
                              ", of which ", a.file, " has none by name");
        }
        if (strangers > 0) {
            run.say(fmt::format("{} of {} {} are not in {}: they begin with 0", strangers, count,
                                rows ? "rows" : "columns", path));
        }
        to = BlockRows<R>(run.comm, layout, from.cols());
        const auto part = part_of_map(map, layout.rank_rows(run.comm.rank()));
        place_rows(from, part, to.local().view());
        if (!from_bias) return;
        bias.emplace(run.comm, layout, 1);
        place_rows(*from_bias, part, bias->local().view());
    };
    side("obs", a.rows(), a.layout(), factors.rows, factors.row_bias, found->rows, found->row_bias);
    side("var", a.cols(), ShardLayout::even(a.cols(), 64, run.comm.size()), factors.cols,
         factors.col_bias, found->cols, found->col_bias);
    found->singular_values = factors.singular_values;
    found->global_mean = factors.global_mean;
    found->method = factors.method;
    found->ids = a.ids;
    return found;
}

template <Real R>
std::shared_ptr<Factors<R>> load_factors(Run& run, const std::string& path) {
    if (auto held = run.handover.find<Factors<R>>(path)) return held;
    return std::make_shared<Factors<R>>(read_factors<R>(run.comm, path));
}

#define RANKFOLD_INSTANTIATE(R)                                                                   \
    template std::shared_ptr<const MatrixData<R>> with_entries(const MatrixData<R>&,              \
                                                               BlockRowCsr<R>);                   \
    template TrainingData<R> load_training(Run&, const std::string&, const StopRule&,             \
                                           DenseMatrices);                                        \
    template class EarlyStop<R>;                                                                  \
    template Steering warm_start(std::shared_ptr<const Factors<R>>,                               \
                                 std::shared_ptr<const MatrixData<R>>, Index, Steering);          \
    template std::shared_ptr<Factors<R>> factors_for(Run&, const std::string&, const Factors<R>&, \
                                                     const MatrixData<R>&);                       \
    template std::shared_ptr<Factors<R>> load_factors(Run&, const std::string&);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold::cli
