// rankfold als: a matrix file in, a factors file out.
#include <fmt/format.h>

#include <rankfold/cli/loop.hpp>
#include <rankfold/cli/run.hpp>
#include <rankfold/comm/reproducible_sum.hpp>
#include <rankfold/data/matrix_file.hpp>
#include <rankfold/data/tensor_file.hpp>
#include <rankfold/factor/als.hpp>

namespace rankfold::cli {

namespace {

struct AlsCommand {
    std::string matrix;
    std::string out;
    std::string centering = "mean";
    AlsOptions als;
    LoopOptions loop;
};

/// The smallest and the largest given value. @collective
template <Real R>
std::pair<double, double> value_range(const MatrixData<R>& a) {
    double least = std::numeric_limits<double>::infinity();
    double most = -least;
    const std::span<const R> values = a.sparse ? std::span<const R>(a.sparse->local().values)
                                               : std::as_const(*a.dense).local().data();
    for (const R v : values) {
        least = std::min(least, static_cast<double>(v));
        most = std::max(most, static_cast<double>(v));
    }
    return {a.comm().all_reduce(least, Reduce::min), a.comm().all_reduce(most, Reduce::max)};
}

/// Refuses what cannot work before any work is done.
template <Real R>
void check_problem(const MatrixData<R>& a, const AlsOptions& als) {
    const auto [least, most] = value_range(a);
    if (!als.implicit && least == most && a.sparse) {
        throw input_error("all entries of ", a.file, " are equal to ", least,
                          ": there is nothing to learn from their values (did you mean "
                          "--implicit?)");
    }
    if (als.implicit && least < 0.0) {
        throw input_error("the entries of ", a.file, " go down to ", least,
                          ", but --implicit takes them as confidences, which are not negative");
    }
    if (a.dense && !als.implicit && als.centering == Centering::biases) {
        throw input_error("--centering biases is for sparse matrices, and ", a.file, " is dense");
    }
    if (a.dense && !als.implicit && als.k > std::min(a.rows(), a.cols())) {
        throw input_error("--factors ", als.k, " is more than the smaller side of the dense ",
                          a.rows(), " x ", a.cols(), " matrix ", a.file,
                          " has; ask for fewer factors");
    }
}

template <Real R>
void run_als(Run& run, const AlsCommand& o) {
    run.check_output(o.out, {o.matrix});
    auto input = run.handover.find<MatrixData<R>>(o.matrix);
    if (!input) {
        const auto phase = run.comm.ledger().phase("read");
        input = std::make_shared<MatrixData<R>>(read_matrix<R>(run.comm, o.matrix));
    }
    const MatrixData<R>& a = *input;
    AlsOptions als_options = o.als;
    als_options.seed = static_cast<std::uint64_t>(run.common.seed);
    als_options.threads = run.common.threads;
    als_options.centering = o.centering == "mean"     ? Centering::mean
                            : o.centering == "biases" ? Centering::biases
                                                      : Centering::none;
    check_problem(a, als_options);
    if (run.common.dry_run) return;

    const Steering steering = steer(run, o.loop, {{"matrix", digest_text(a.digest)}});
    auto factors = std::make_shared<Factors<R>>();
    if (a.sparse) {
        *factors = als(*a.sparse, als_options, steering);
    } else if (als_options.implicit) {
        *factors = als(sparsify(*a.dense), als_options, steering);
    } else {
        *factors = als(*a.dense, als_options, steering);
    }
    factors->ids = a.ids;
    factors->options = run.options.dump();
    factors->history = run.history;
    {
        const auto phase = run.comm.ledger().phase("write");
        write_factors(o.out, *factors,
                      {.command = "als",
                       .options = run.options.dump(),
                       .input_digest = digest_text(a.digest)});
    }
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
    run.say(fmt::format("{}: {} x {} matrix with {} entries, k = {}, {} sweeps", factors->method,
                        a.rows(), a.cols(), a.entries(), als_options.k,
                        factors->history.rows.size()));
    if (!factors->history.rows.empty()) {
        run.say(fmt::format("objective {:.6g}{}", factors->history.rows.back()[1],
                            als_options.implicit ? ""
                                                 : fmt::format(", training RMSE {:.4f}",
                                                               factors->history.rows.back()[2])));
    }
    run.say("wrote " + o.out);
    run.handover.leave(o.out, factors);
}

}  // namespace

Action declare_als(Options& options) {
    auto o = std::make_shared<AlsCommand>();
    options.positional("matrix", o->matrix, "Matrix file (HDF5)");
    options.add("out", o->out, "Factors file to write");
    options.add("factors", o->als.k, "Number of factors k", Accept::between(1, 65536));
    options.add("sweeps", o->als.sweeps, "Sweeps over rows and columns", Accept::at_least(1));
    options.add("lambda", o->als.lambda, "Ridge weight λ", Accept::at_least(0));
    options.add("lambda-exponent", o->als.lambda_exponent,
                "ν: λ is scaled by (entries of the row or column)^ν", Accept::at_least(0));
    options.add("implicit", o->als.implicit, "Entries are confidences, not values");
    options.add("alpha", o->als.alpha, "Implicit: the confidence of an entry v is 1 + α v",
                Accept::at_least(0));
    options.add("unobserved-weight", o->als.unobserved_weight,
                "Implicit, Rendle's form: weight α0 of the pairs without an entry",
                Accept::above(0));
    options.add(
        "centering", o->centering,
        "Explicit: what is subtracted from the values: their mean, also the biases of rows and "
        "columns, or nothing",
        Accept::one_of({"mean", "biases", "none"}));
    options.add("bias-damping", o->als.bias_damping,
                "Entries that a bias of 0 counts as, with --centering biases", Accept::at_least(0));
    options.add("start-deviation", o->als.start_deviation,
                "Standard deviation of the column factors' start", Accept::above(0));
    o->loop.declare(options);
    options.examples(
        "rankfold als ratings.h5 --factors 32 --lambda 0.05 --out factors.h5\n"
        "mpirun -n 4 rankfold als clicks.h5 --implicit --factors 64 --out factors.h5\n"
        "rankfold als clicks.h5 --implicit --unobserved-weight 0.3 --lambda 0.007 --out f.h5");
    return [o](Run& run) {
        run.common.precision == "float" ? run_als<float>(run, *o) : run_als<double>(run, *o);
    };
}

}  // namespace rankfold::cli
