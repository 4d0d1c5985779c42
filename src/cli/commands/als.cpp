// rankfold als: a matrix file in, a factors file out.
#include <fmt/format.h>

#include <rankfold/cli/loop.hpp>
#include <rankfold/cli/run.hpp>
#include <rankfold/data/tensor_file.hpp>

#include "als_settings.hpp"
#include "early_stop.hpp"
#include "scoring.hpp"

namespace rankfold::cli {

namespace {

struct AlsCommand {
    std::string matrix;
    std::string out;
    std::string init;
    std::string confidences;
    std::optional<double> require;
    AlsSettings settings;
    StopRule stop;
    LoopOptions loop;
};

/// The file of confidences, which must have the entries of `a`. @collective
template <Real R>
std::shared_ptr<const MatrixData<R>> load_confidences(Run& run, const std::string& file,
                                                      const MatrixData<R>& a,
                                                      const AlsOptions& als) {
    auto c = load_matrix<R>(run, file);
    if (als.implicit || !a.sparse || !c->sparse) {
        throw input_error(
            "--confidences are for explicit values of a sparse matrix, in a sparse "
            "matrix file");
    }
    const bool same = c->rows() == a.rows() && c->cols() == a.cols() &&
                      c->sparse->layout() == a.sparse->layout() &&
                      c->sparse->local().row_ptr == a.sparse->local().row_ptr &&
                      c->sparse->local().col_idx == a.sparse->local().col_idx;
    if (run.comm.all_reduce(Index{same}, Reduce::min) == 0) {
        throw input_error(file, " must have an entry for every entry of ", a.file,
                          ", and no others");
    }
    if (value_range(*c).first < 0.0) {
        throw input_error(file, ": confidences must not be negative");
    }
    return c;
}

template <Real R>
void run_als(Run& run, const AlsCommand& o) {
    run.check_output(o.out, {o.matrix, o.stop.validation, o.init});
    const AlsOptions als_options = o.settings.resolved(run.common);
    TrainingData<R> data = load_training<R>(run, o.matrix, o.stop);
    const MatrixData<R>& a = *data.train;
    check_problem(a, als_options);
    EarlyStop<R> early(run, o.stop, data, !als_options.implicit);
    std::shared_ptr<Factors<R>> init;
    if (!o.init.empty()) {
        init = load_factors<R>(run, o.init);
        data.inputs.emplace_back("init", digest_text(digest(run.comm, init->tensors())));
    }
    std::shared_ptr<const MatrixData<R>> confidences;
    if (!o.confidences.empty()) {
        confidences = load_confidences<R>(run, o.confidences, a, als_options);
        data.inputs.emplace_back("confidences", digest_text(confidences->digest));
    }
    if (run.common.dry_run) return;

    report_empty_lines(run, a);
    Steering steering = steer(run, o.loop, data.inputs);
    if (init) steering = warm_start<R>(init, data.train, als_options.k, std::move(steering));
    auto factors =
        std::make_shared<Factors<R>>(fit_als(a, als_options, early.around(std::move(steering)),
                                             confidences ? &*confidences->sparse : nullptr));
    factors->options = run.options.dump();
    factors->history = run.history;
    early.finish(*factors);
    write_factors(
        o.out, *factors,
        {.command = "als", .options = run.options.dump(), .input_digest = digest_text(a.digest)});
    run.digest = digest_text(digest(run.comm, factors->tensors()));
    run.result["rows"] = a.rows();
    run.result["cols"] = a.cols();
    run.result["entries"] = a.entries();
    run.result["method"] = factors->method;
    auto objective = nlohmann::ordered_json::array();
    for (const auto& row : run.history.rows) {
        objective.push_back({{"block", "sweep"}, {"value", row[1]}});
    }
    run.result["objective"] = objective;
    for (const auto& [name, value] : factors->certificate) {
        run.result["certificate"][name] = value;
        run.say(fmt::format("certificate: {} {:.2e}", name, value));
    }
    run.say(fmt::format("{}: {} x {} matrix with {} entries, k = {}, {} sweeps", factors->method,
                        a.rows(), a.cols(), a.entries(), als_options.k,
                        factors->history.rows.size()));
    if (!factors->history.rows.empty()) {
        run.say(fmt::format("objective {:.6g}{}", factors->history.rows.back()[1],
                            als_options.implicit ? ""
                                                 : fmt::format(", training RMSE {:.4f}",
                                                               factors->history.rows.back()[2])));
    }
    if (o.stop.validation.empty() || factors->history.rows.empty()) {
        run.say("wrote " + o.out);
    } else {
        run.say(fmt::format(
            "wrote {}: the factors of sweep {}, with {} {:.4f} on {} validation "
            "entries",
            o.out, early.best_step(), early.metric(), early.best(), data.validation->nnz()));
    }
    run.handover.leave(o.out, factors);
    if (!o.require) return;
    for (const auto& [name, value] : factors->certificate) {
        if (value > *o.require) {
            throw Error(
                Fault::check,
                fmt::format("the certificate's {} is {:.3g}, above --require {:.3g}; more "
                            "--sweeps, --solver cholesky or --precision double make it less",
                            name, value, *o.require),
                true);
        }
    }
}

}  // namespace

Action declare_als(Options& options) {
    auto o = std::make_shared<AlsCommand>();
    options.positional("matrix", o->matrix, "Matrix file (HDF5)");
    options.add("out", o->out, "Factors file to write");
    options.add("init", o->init,
                "Factors file to start from; also with other rows, columns or another k");
    options.add("confidences", o->confidences,
                "Explicit: matrix file with the weight of every entry's error");
    options.add("require", o->require,
                "Exit with 1 if the certificate, the largest |gradient| / |right-hand side| of a "
                "row in the last half sweep, is above this",
                Accept::above(0));
    o->settings.declare_grid(options);
    o->settings.declare_others(options);
    o->stop.declare(options);
    o->loop.declare(options);
    options.examples(
        "rankfold als ratings.h5 --factors 32 --lambda 0.05 --out factors.h5\n"
        "mpirun -n 4 rankfold als clicks.h5 --implicit --factors 64 --out factors.h5\n"
        "rankfold als clicks.h5 --implicit --validation 0.1 --patience 3 --init old.h5 --out f.h5");
    return [o](Run& run) {
        run.common.precision == "float" ? run_als<float>(run, *o) : run_als<double>(run, *o);
    };
}

}  // namespace rankfold::cli
