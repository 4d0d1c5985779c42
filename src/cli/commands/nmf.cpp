// rankfold nmf: a matrix file in, nonnegative factors out.
#include <fmt/format.h>

#include <rankfold/cli/loop.hpp>
#include <rankfold/cli/run.hpp>
#include <rankfold/data/tensor_file.hpp>
#include <rankfold/factor/nmf_cost.hpp>

#include "nmf_settings.hpp"
#include "scoring.hpp"

namespace rankfold::cli {

namespace {

struct NmfCommand {
    std::string matrix;
    std::string out;
    NmfSettings settings;
    LoopOptions loop;
};

template <Real R>
Factors<R> factorise(Run& run, const NmfCommand& o, const MatrixData<R>& a,
                     const NmfOptions& options) {
    std::vector<std::pair<std::string, std::string>> inputs{{"matrix", digest_text(a.digest)}};
    const auto start = make_start<R>(run, o.settings, a, options, inputs);
    return fit_nmf(a, o.settings, options, steer(run, o.loop, std::move(inputs)), start.get());
}

template <Real R>
void report(Run& run, const NmfCommand& o, const MatrixData<R>& a, const NmfOptions& options,
            const Factors<R>& factors) {
    run.result["rows"] = a.rows();
    run.result["cols"] = a.cols();
    run.result["entries"] = a.entries();
    run.result["method"] = factors.method;
    if (options.grid) {
        run.result["grid"] = fmt::format("{}x{}", options.grid->rows, options.grid->cols);
    }
    for (const auto& [name, value] : factors.certificate) run.result[name] = value;
    run.result["objective"] = nlohmann::ordered_json::array();
    for (const auto& row : run.history.rows) {
        run.result["objective"].push_back({{"block", "sweep"}, {"value", row[1]}});
    }
    run.say(fmt::format(
        "{}: {} x {} matrix with {} entries, k = {}, {} sweeps by {}{}", factors.method, a.rows(),
        a.cols(), a.entries(), options.k, run.history.rows.size(), o.settings.solver,
        options.grid ? fmt::format(" on a {}x{} grid", options.grid->rows, options.grid->cols)
                     : ""));
    std::string line;
    for (const auto& [name, value] : factors.certificate) {
        line += fmt::format("{}{} {:.6g}", line.empty() ? "" : ", ", name, value);
    }
    run.say(line);
}

template <Real R>
void run_nmf(Run& run, const NmfCommand& o) {
    const NmfSettings& settings = o.settings;
    run.check_output(o.out, {o.matrix, settings.starts_from_file() ? settings.start : ""});
    NmfOptions options = settings.resolved(run.common, run.comm.size());
    const auto input = load_matrix<R>(run, o.matrix);
    const MatrixData<R>& a = *input;
    check_problem(a, settings);
    if (!settings.missing && !options.grid) {
        options.grid =
            choose_grid(a.sparse ? nmf_size(*a.sparse, options.k) : nmf_size(*a.dense, options.k),
                        run.comm.size());
    }
    if (run.common.dry_run) return;

    auto factors = std::make_shared<Factors<R>>(factorise(run, o, a, options));
    factors->options = run.options.dump();
    factors->history = run.history;
    {
        const auto phase = run.comm.ledger().phase("write");
        write_factors(o.out, *factors,
                      {.command = "nmf",
                       .options = run.options.dump(),
                       .input_digest = digest_text(a.digest)});
    }
    run.digest = digest_text(digest(run.comm, factors->tensors()));
    report(run, o, a, options, *factors);
    run.say("wrote " + o.out);
    run.handover.leave(o.out, factors);
}

}  // namespace

Action declare_nmf(Options& options) {
    auto o = std::make_shared<NmfCommand>();
    options.positional("matrix", o->matrix, "Matrix file (HDF5) without negative values");
    options.add("out", o->out, "Factors file to write");
    o->settings.declare(options);
    o->loop.declare(options);
    options.examples(
        "rankfold nmf faces.h5 --factors 49 --sweeps 500 --tolerance 1e-3 --out parts.h5\n"
        "mpirun -n 4 rankfold nmf words.h5 --factors 20 --loss kl --solver mu --out topics.h5\n"
        "mpirun -n 4 rankfold nmf ratings.h5 --missing --lambda 0.05 --factors 16 --out f.h5");
    return [o](Run& run) {
        run.common.precision == "float" ? run_nmf<float>(run, *o) : run_nmf<double>(run, *o);
    };
}

}  // namespace rankfold::cli
