// rankfold svd: a matrix file in, singular values and vectors out as a factors file.
#include <unistd.h>

#include <charconv>
#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <rankfold/cli/loop.hpp>
#include <rankfold/cli/run.hpp>
#include <rankfold/comm/session.hpp>
#include <rankfold/data/matrix_file.hpp>
#include <rankfold/data/tensor_file.hpp>
#include <rankfold/factor/svd.hpp>
#include <rankfold/scalapack/full_svd.hpp>

namespace rankfold::cli {

namespace {

struct SvdCommand {
    std::string matrix;
    std::string out;
    std::string center = "none";
    std::optional<double> require;
    std::optional<Index> factors;
    bool full = false;
    std::string driver = "divide";
    std::string grid;
    bool values_only = false;
    SvdOptions svd;
    LoopOptions loop;
};

/// "PxQ" as two numbers.
std::pair<int, int> parse_grid(const std::string& text) {
    const char* end = text.data() + text.size();
    int rows = 0;
    int cols = 0;
    const auto first = std::from_chars(text.data(), end, rows);
    if (first.ec == std::errc() && first.ptr != end && *first.ptr == 'x') {
        const auto second = std::from_chars(first.ptr + 1, end, cols);
        if (second.ec == std::errc() && second.ptr == end && rows > 0 && cols > 0) {
            return {rows, cols};
        }
    }
    throw input_error("--grid '", text, "' is not of the form 2x3 (rows x columns of ranks)");
}

/// Refuses options that do not go together.
void check_options(const SvdCommand& o) {
    const auto refuse = [](const char* option, const char* with) {
        throw input_error("--", option, " goes with ", with);
    };
    if (o.full && o.factors) refuse("factors", "a truncated decomposition, without --full");
    if (o.full && o.center != "none") refuse("center", "a truncated decomposition, without --full");
    if (o.full && !o.loop.checkpoint.empty()) {
        refuse("checkpoint", "a truncated decomposition, without --full");
    }
    if (!o.full && !o.grid.empty()) refuse("grid", "--full");
    if (!o.full && o.values_only) refuse("values-only", "--full");
    if (o.values_only && o.require) refuse("require", "vectors, without --values-only");
}

/// Physical memory of this rank's host, shared out among its ranks. @collective
double memory_per_rank(const Communicator& comm) {
    const std::string mine = host_name();
    const auto hosts = comm.all_gather(mine);
    return static_cast<double>(sysconf(_SC_PHYS_PAGES)) *
           static_cast<double>(sysconf(_SC_PAGESIZE)) /
           static_cast<double>(std::ranges::count(hosts, mine));
}

/// Refuses a full decomposition that memory does not hold: the matrix twice (as row blocks and on
/// the grid), and the vectors twice.
template <Real R>
void check_memory(const MatrixData<R>& a, bool vectors) {
    const double m = static_cast<double>(a.rows());
    const double n = static_cast<double>(a.cols());
    const double words = 2.0 * m * n + (vectors ? 2.0 * (m + n) * std::min(m, n) : 0.0);
    const double needed = words * sizeof(R) / a.comm().size();
    const double there = memory_per_rank(a.comm());
    if (!a.comm().all_agree(needed < 0.9 * there)) {
        throw input_error(fmt::format(
            "all singular values of the {} x {} matrix {} need {:.1f} GB a rank, and a rank has "
            "{:.1f}; use more ranks on more nodes, or ask for --factors",
            a.rows(), a.cols(), a.file, needed * 1e-9, there * 1e-9));
    }
}

/// A sparse matrix with its zeros.
template <Real R>
BlockRows<R> densify(const BlockRowCsr<R>& a) {
    BlockRows<R> dense(a.comm(), a.layout(), a.cols());
    const auto rows = a.local().view();
    for (Index i = 0; i < rows.rows; ++i) {
        for (Index e = rows.row_ptr[i]; e < rows.row_ptr[i + 1]; ++e) {
            dense.local()(i, rows.col_idx[e]) = rows.values[e];
        }
    }
    return dense;
}

/// All singular triplets, certified like the others.
template <Real R>
SvdResult<R> decompose_fully(Run& run, const SvdCommand& o, const MatrixData<R>& a) {
    const BlockRows<R> densified = a.sparse ? densify(*a.sparse) : BlockRows<R>();
    const BlockRows<R>& dense = a.sparse ? densified : *a.dense;
    FullSvdOptions options{.vectors = !o.values_only};
    options.driver = o.driver == "divide" ? FullSvdDriver::divide : FullSvdDriver::pdgesvd;
    if (!o.grid.empty()) std::tie(options.grid_rows, options.grid_cols) = parse_grid(o.grid);
    FullSvd<R> found = full_svd(dense, options);
    run.result["driver"] = found.driver;
    run.say("driver " + found.driver + (found.note.empty() ? "" : ": " + found.note));
    SvdResult<R> result;
    result.converged = true;
    Factors<R>& factors = result.factors;
    factors.singular_values = std::move(found.s);
    factors.method = "svd";
    if (o.values_only) return result;
    factors.rows = std::move(found.u);
    factors.cols = std::move(found.v);
    fix_signs(factors.rows, factors.cols);
    const DenseOperator<R> matrix(dense, run.common.threads);
    const std::vector<double> values(factors.singular_values.begin(),
                                     factors.singular_values.end());
    const BlockRows<R> v = redistribute(factors.cols, matrix.col_layout());
    result.certificate =
        certify<R>(matrix, factors.rows, values, v, static_cast<std::uint64_t>(run.common.seed),
                   run.common.threads);
    return result;
}

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

/// Values without vectors stand in the report alone.
template <Real R>
void tell_values(Run& run, const std::vector<R>& s) {
    const std::vector<double> values(s.begin(), s.end());
    run.result["singular_values"] = values;
    run.say(
        fmt::format("{} singular values from {:.9g} down to {:.9g}; all of them are in the "
                    "--report",
                    values.size(), values.front(), values.back()));
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
    check_options(o);
    if (!o.values_only || !o.out.empty()) run.check_output(o.out, {o.matrix});
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
    svd.k = o.full ? std::min(a.rows(), a.cols()) : o.factors.value_or(svd.k);
    check_problem(a, svd);
    if (o.full) check_memory(a, !o.values_only);
    if (run.common.dry_run) return;

    SvdResult<R> result;
    if (o.full) {
        result = decompose_fully(run, o, a);
    } else {
        const Steering steering = steer(run, o.loop, {{"matrix", digest_text(a.digest)}});
        result = a.sparse ? truncated_svd(*a.sparse, svd, steering)
                          : truncated_svd(*a.dense, svd, steering);
    }
    if (o.values_only) {
        tell_values(run, result.factors.singular_values);
        return;
    }
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
    options.add("factors", o->factors, "Number of singular triplets k; 64 without",
                Accept::between(1, 65536));
    options.add("full", o->full,
                "All singular triplets, by ScaLAPACK; a sparse matrix is made dense for it");
    options.add("driver", o->driver,
                "full: divide and conquer between ScaLAPACK's reductions, or ScaLAPACK's own",
                Accept::one_of({"divide", "pdgesvd"}));
    options.add("grid", o->grid, "full: the grid of ranks, as 2x3; the squarest without");
    options.add("values-only", o->values_only, "full: no vectors; the values go in the report");
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
        "mpirun -n 4 rankfold svd images.h5 --factors 64 --center columns --out pca.h5\n"
        "mpirun -n 4 rankfold svd a.h5 --full --grid 2x2 --precision double --out full.h5\n"
        "rankfold svd a.h5 --factors 50 --tolerance 1e-8 --precision double --require 1e-8 --out "
        "svd.h5");
    return [o](Run& run) {
        run.common.precision == "float" ? run_svd<float>(run, *o) : run_svd<double>(run, *o);
    };
}

}  // namespace rankfold::cli
