// rankfold svd: a matrix file in, singular values and vectors out as a factors file.
#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <rankfold/cli/loop.hpp>
#include <rankfold/cli/run.hpp>
#include <rankfold/data/matrix_file.hpp>
#include <rankfold/data/tensor_file.hpp>
#include <rankfold/factor/svd.hpp>

namespace rankfold::cli {

namespace {

struct SvdCommand {
    std::string matrix;
    std::string out;
    std::string center = "none";
    std::optional<double> require;
    SvdOptions svd;
    LoopOptions loop;
};

/// Refuses what cannot work before any work is done.
template <Real R>
void check_problem(const MatrixData<R>& a, const SvdOptions& svd) {
    if (svd.k > std::min(a.rows(), a.cols())) {
        throw input_error("--factors ", svd.k, " is more than the smaller side of the ", a.rows(),
                          " x ", a.cols(), " matrix ", a.file, "; ask for at most ",
                          std::min(a.rows(), a.cols()));
    }
    if (std::same_as<R, float> && svd.tolerance < 1e-6) {
        throw input_error("--tolerance ", svd.tolerance,
                          " is below what single precision reaches; add --precision double");
    }
}

/// What was measured, in the report, in the file and for the reader.
template <Real R>
void tell(Run& run, const MatrixData<R>& a, SvdResult<R>& result) {
    Factors<R>& factors = result.factors;
    const Certificate& certificate = result.certificate;
    std::vector<double> values(factors.singular_values.begin(), factors.singular_values.end());
    run.result["rows"] = a.rows();
    run.result["cols"] = a.cols();
    run.result["entries"] = a.entries();
    run.result["method"] = factors.method;
    run.result["steps"] = result.steps;
    run.result["converged"] = result.converged;
    run.result["singular_values"] = values;
    factors.certificate = certificate.entries();
    for (const auto& [name, value] : factors.certificate) run.result[name] = value;
    run.say(fmt::format("{}: {} x {} matrix with {} entries, k = {}, {} steps", factors.method,
                        a.rows(), a.cols(), a.entries(), factors.k(), result.steps));
    run.say(fmt::format(
        "singular values {:.6g} … {:.6g}; relative error {:.6g}, 2-norm of the "
        "rest below {:.4g}",
        values.front(), values.back(), certificate.relative_error(), certificate.spectral_bound));
    run.say(
        fmt::format("residuals ‖Av − σu‖/σ₁ {:.2e}, ‖Aᵀu − σv‖/σ₁ {:.2e}; ‖UᵀU − I‖ {:.2e}, "
                    "‖VᵀV − I‖ {:.2e}",
                    certificate.left_residual, certificate.right_residual,
                    certificate.u_orthogonality, certificate.v_orthogonality));
    if (factors.method != "pca") return;
    const double total = certificate.norm * certificate.norm;
    std::vector<double> variance;
    std::vector<double> ratio;
    double explained = 0.0;
    for (const double s : values) {
        variance.push_back(s * s / std::max(1.0, static_cast<double>(a.rows()) - 1.0));
        ratio.push_back(total > 0.0 ? s * s / total : 0.0);
        explained += ratio.back();
    }
    run.result["explained_variance"] = variance;
    run.result["explained_variance_ratio"] = ratio;
    run.say(fmt::format(
        "the components explain {:.2f} % of the variance: {:.2f} …", 100.0 * explained,
        fmt::join(std::vector<double>(ratio.begin(), ratio.begin() + std::min<std::ptrdiff_t>(
                                                                         5, std::ssize(ratio))),
                  ", ")));
}

/// The exit code that --require asks for.
void check_required(const Certificate& certificate, std::optional<double> require) {
    if (!require) return;
    const double worst = std::max(
        {certificate.residual(), certificate.u_orthogonality, certificate.v_orthogonality});
    if (worst <= *require) return;
    throw Error(Fault::check,
                concat("the certificate's greatest residual is ", worst, ", above --require ",
                       *require, "; lower --tolerance, or add --precision double"),
                true);
}

template <Real R>
void run_svd(Run& run, const SvdCommand& o) {
    run.check_output(o.out, {o.matrix});
    auto input = run.handover.find<MatrixData<R>>(o.matrix);
    if (!input) {
        const auto phase = run.comm.ledger().phase("read");
        input = std::make_shared<MatrixData<R>>(read_matrix<R>(run.comm, o.matrix));
    }
    const MatrixData<R>& a = *input;
    SvdOptions svd = o.svd;
    svd.seed = static_cast<std::uint64_t>(run.common.seed);
    svd.threads = run.common.threads;
    svd.center = o.center == "columns";
    check_problem(a, svd);
    if (run.common.dry_run) return;

    const Steering steering = steer(run, o.loop, {{"matrix", digest_text(a.digest)}});
    SvdResult<R> result =
        a.sparse ? truncated_svd(*a.sparse, svd, steering) : truncated_svd(*a.dense, svd, steering);
    auto factors = std::make_shared<Factors<R>>(std::move(result.factors));
    factors->ids = a.ids;
    factors->options = run.options.dump();
    factors->history = run.history;
    std::swap(result.factors, *factors);
    tell(run, a, result);
    std::swap(result.factors, *factors);
    if (!result.converged) {
        run.say(fmt::format("not converged to --tolerance {:g}: raise --max-steps, or ask for less",
                            svd.tolerance));
    }
    {
        const auto phase = run.comm.ledger().phase("write");
        write_factors(o.out, *factors,
                      {.command = "svd",
                       .options = run.options.dump(),
                       .input_digest = digest_text(a.digest)});
    }
    run.digest = digest_text(digest(run.comm, factors->tensors()));
    run.say("wrote " + o.out);
    run.handover.leave(o.out, factors);
    check_required(result.certificate, o.require);
}

}  // namespace

Action declare_svd(Options& options) {
    auto o = std::make_shared<SvdCommand>();
    options.positional("matrix", o->matrix, "Matrix file (HDF5)");
    options.add("out", o->out, "Factors file to write: U, V and the singular values");
    options.add("factors", o->svd.k, "Number of singular triplets k", Accept::between(1, 65536));
    options.add("tolerance", o->svd.tolerance,
                "Stop when all residuals are below this, relative to the greatest singular value",
                Accept::above(0));
    options.add("max-steps", o->svd.max_steps, "Stop after so many block steps",
                Accept::at_least(1));
    options.add("block", o->svd.block,
                "Columns that are multiplied at once; 0 for what suits the matrix",
                Accept::between(0, 4096));
    options.add(
        "center", o->center,
        "columns: take the columns' means away first (PCA), without making the matrix dense",
        Accept::one_of({"none", "columns"}));
    options.add("require", o->require,
                "Fail with exit code 1 if a residual of the certificate is above this",
                Accept::above(0));
    o->loop.declare(options);
    options.examples(
        "rankfold svd ratings.h5 --factors 64 --out svd.h5\n"
        "mpirun -n 4 rankfold svd images.h5 --factors 64 --center columns --out pca.h5\n"
        "rankfold svd a.h5 --factors 50 --tolerance 1e-8 --precision double --require 1e-8 --out "
        "svd.h5");
    return [o](Run& run) {
        run.common.precision == "float" ? run_svd<float>(run, *o) : run_svd<double>(run, *o);
    };
}

}  // namespace rankfold::cli
