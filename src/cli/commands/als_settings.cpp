#include "als_settings.hpp"

#include <fmt/format.h>

#include <rankfold/eval/baselines.hpp>
#include <rankfold/factor/half_sweep.hpp>

#include "scoring.hpp"

namespace rankfold::cli {

void AlsSettings::declare_grid(Options& options) {
    options.add("factors", als.k, "Number of factors k", Accept::between(1, 65536));
    options.add("lambda", als.lambda, "Ridge weight λ", Accept::at_least(0));
    options.add("lambda-exponent", als.lambda_exponent,
                "ν: λ is scaled by (entries of the row or column)^ν", Accept::at_least(0));
    options.add("alpha", als.alpha, "Implicit: the confidence of an entry v is 1 + α v",
                Accept::at_least(0));
    options.add("unobserved-weight", als.unobserved_weight,
                "Implicit, Rendle's form: weight α0 of the pairs without an entry",
                Accept::above(0));
}

void AlsSettings::declare_others(Options& options) {
    options.add("sweeps", als.sweeps, "Sweeps over rows and columns", Accept::at_least(1));
    options.add("implicit", als.implicit,
                "Values say how sure a preference is (negative ones: a dislike)");
    options.add("base-confidence", als.base_confidence,
                "Implicit: c0 of the confidence c0 + α |v|; pairs without an entry have 1",
                Accept::at_least(0));
    options.add("centering", centering,
                "Explicit: what is subtracted from the values: their mean, or nothing",
                Accept::one_of({"mean", "none"}));
    options.add("biases", als.biases, "Explicit: fit a bias of every row and column too");
    options.presets(preset,
                    "Settings under which another program's numbers mean the same; see help "
                    "settings",
                    {{"none", {}},
                     {"spark", {"--implicit", "--alpha=1"}},
                     {"implicit",
                      {"--implicit", "--alpha=1", "--base-confidence=0", "--lambda-exponent=0",
                       "--lambda=0.01"}},
                     {"ials", {"--implicit", "--unobserved-weight=0.1", "--lambda=0.003"}}});
    options.add("solver", solver,
                "How a row is solved: exactly (cholesky), by conjugate gradients, or by blocks of "
                "factors (for large k)",
                Accept::one_of({"cholesky", "cg", "subspace"}));
    options.add("cg-steps", als.solver.cg_steps, "cg: steps a row at most", Accept::at_least(1));
    options.add("cg-tolerance", als.solver.cg_tolerance,
                "cg: a row is done when its residual has shrunk by this factor",
                Accept::at_least(0));
    options.add("block", als.solver.block, "subspace: factors in a block", Accept::at_least(1));
    options.add("exchange", exchange,
                "How factors reach other ranks: all of them, those needed, or those needed and "
                "partial normal equations of rows with many entries; auto: what sends least",
                Accept::one_of({"auto", "all", "needed", "reduced"}));
    options.add("memory-per-rank", memory_per_rank,
                "Bytes for all that a rank holds, as 800MB or 4GB; rows are then solved in as many "
                "panels as it takes");
    options.add("reproducible", reproducible,
                "on: the same bits on any number of ranks; off: sums in MPI's order",
                Accept::one_of({"on", "off"}));
    options.add("exact-last", als.exact_last, "The last sweep exactly, whatever the solver");
    options.add("start-deviation", als.start_deviation,
                "Standard deviation of the column factors' start", Accept::above(0));
}

AlsOptions AlsSettings::resolved(const CommonOptions& common) const {
    AlsOptions options = als;
    options.seed = static_cast<std::uint64_t>(common.seed);
    options.threads = common.threads;
    options.reproducible = reproducible == "on";
    if (memory_per_rank) {
        options.memory_per_rank = parse_bytes("--memory-per-rank", *memory_per_rank);
    }
    options.centering = centering == "mean" ? Centering::mean : Centering::none;
    options.exchange = exchange == "all"       ? Exchange::all
                       : exchange == "needed"  ? Exchange::needed
                       : exchange == "reduced" ? Exchange::reduced
                                               : Exchange::automatic;
    options.solver.solver = solver == "cg"         ? Solver::cg
                            : solver == "subspace" ? Solver::subspace
                                                   : Solver::cholesky;
    return options;
}

AlsSettings recorded_settings(const std::string& options, const std::string& file) {
    const auto recorded = nlohmann::json::parse(options, nullptr, false);
    if (!recorded.is_object()) {
        throw input_error(file, " does not say with which options it was made (attribute options)");
    }
    AlsSettings settings;
    Options table("als", "");
    settings.declare_grid(table);
    settings.declare_others(table);
    std::vector<std::string> arguments;
    for (const auto& name : table.names()) {
        const auto value = recorded.value(name, nlohmann::json());
        if (value.is_boolean()) {
            arguments.push_back((value.get<bool>() ? "--" : "--no-") + name);
        } else if (value.is_string()) {
            arguments.push_back("--" + name + "=" + value.get<std::string>());
        } else if (value.is_number()) {
            arguments.push_back("--" + name + "=" + value.dump());
        }
    }
    try {
        static_cast<void>(table.parse(arguments));
    } catch (const Error& error) {
        throw input_error(file, ": its attribute options cannot be understood: ", error.what());
    }
    return settings;
}

template <Real R>
void check_problem(const MatrixData<R>& a, const AlsOptions& als) {
    const auto [least, most] = value_range(a);
    if (!als.implicit && least == most && a.sparse) {
        throw input_error("all entries of ", a.file, " are equal to ", least,
                          ": there is nothing to learn from their values (did you mean "
                          "--implicit?)");
    }
    if (als.biases && (als.implicit || a.dense)) {
        throw input_error(
            "--biases are for explicit values of a sparse matrix",
            als.implicit ? ", not for --implicit" : concat("; ", a.file, " is dense"));
    }
    if (als.implicit && most <= 0.0) {
        throw input_error("no entry of ", a.file,
                          " is positive: --implicit takes positive values as preferences");
    }
    if (a.dense && !als.implicit && als.k > std::min(a.rows(), a.cols())) {
        throw input_error("--factors ", als.k, " is more than the smaller side of the dense ",
                          a.rows(), " x ", a.cols(), " matrix ", a.file,
                          " has; ask for fewer factors");
    }
}

void with_names(const Communicator& comm, const IdSource& ids, const std::function<void()>& fit) {
    try {
        fit();
    } catch (const NotPositiveDefinite& error) {
        if (ids.file.empty()) throw;
        const auto names =
            names_on_root(comm, ids, error.axis() == "row" ? "obs" : "var", {error.index()});
        throw NotPositiveDefinite(error.axis(), error.index(), names.empty() ? "" : names.front());
    }
}

template <Real R>
Factors<R> fit_als(const MatrixData<R>& a, const AlsOptions& options, const Steering& steering,
                   const BlockRowCsr<R>* confidences) {
    Factors<R> factors;
    with_names(a.comm(), a.ids, [&] {
        if (a.sparse) {
            factors = als(*a.sparse, options, steering, confidences);
        } else if (options.implicit) {
            factors = als(sparsify(*a.dense), options, steering);
        } else {
            factors = als(*a.dense, options, steering);
        }
    });
    factors.ids = a.ids;
    return factors;
}

template <Real R>
void report_empty_lines(Run& run, const MatrixData<R>& a) {
    if (!a.sparse) return;
    const CsrView<R> local = a.sparse->local().view();
    Index rows = 0;
    for (Index i = 0; i < local.rows; ++i) rows += local.row_nnz(i) == 0 ? 1 : 0;
    rows = run.comm.all_reduce(rows, Reduce::sum);
    const Index cols = std::ranges::count(summarize(*a.sparse).col_counts, Index{0});
    run.result["rows_without_entries"] = rows;
    run.result["cols_without_entries"] = cols;
    if (rows + cols > 0) {
        run.say(fmt::format("{} rows and {} columns have no entry: their factors are zero", rows,
                            cols));
    }
}

#define RANKFOLD_INSTANTIATE(R)                                                           \
    template void check_problem(const MatrixData<R>&, const AlsOptions&);                 \
    template Factors<R> fit_als(const MatrixData<R>&, const AlsOptions&, const Steering&, \
                                const BlockRowCsr<R>*);                                   \
    template void report_empty_lines(Run&, const MatrixData<R>&);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold::cli
