// rankfold nmf: a matrix file in, nonnegative factors out.
#include <charconv>

#include <fmt/format.h>

#include <rankfold/cli/loop.hpp>
#include <rankfold/cli/run.hpp>
#include <rankfold/data/tensor_file.hpp>
#include <rankfold/factor/nmf.hpp>
#include <rankfold/factor/nmf_cost.hpp>

#include "early_stop.hpp"
#include "scoring.hpp"

namespace rankfold::cli {

namespace {

struct NmfCommand {
    std::string matrix;
    std::string out;
    std::string solver = "hals";
    std::string loss = "frobenius";
    std::string start = "auto";
    std::string grid = "auto";
    bool missing = false;
    NmfOptions nmf;
    LoopOptions loop;
};

/// Role and digest of what decides the result.
using Inputs = std::vector<std::pair<std::string, std::string>>;

/// "2x3" as a grid of all ranks; nothing for "auto".
std::optional<GridShape> parse_grid(const std::string& text, int ranks) {
    if (text == "auto") return std::nullopt;
    GridShape shape;
    const char* const end = text.data() + text.size();
    const auto rows = std::from_chars(text.data(), end, shape.rows);
    if (rows.ec == std::errc() && rows.ptr != end && *rows.ptr == 'x') {
        const auto cols = std::from_chars(rows.ptr + 1, end, shape.cols);
        if (cols.ec == std::errc() && cols.ptr == end && shape.rows > 0 && shape.cols > 0) {
            if (shape.rows == ranks / shape.cols && ranks % shape.cols == 0) return shape;
            throw input_error("--grid ", text, " is not a grid of the ", ranks,
                              " ranks of this job; rows times columns must be ", ranks);
        }
    }
    throw input_error("--grid '", text, "' is neither auto nor of the form 2x3 (rows x columns)");
}

bool names_file(const std::string& start) {
    return start != "auto" && start != "random" && start != "nndsvd" && start != "nndsvda";
}

/// Options that cannot go together, before anything is read.
void check_options(const NmfCommand& o) {
    if (o.loss == "kl" && o.solver != "mu") {
        throw input_error("--loss kl is minimised by multiplicative updates; add --solver mu");
    }
    if (o.missing && (o.loss != "frobenius" || o.solver != "hals")) {
        throw input_error("--missing goes with --loss frobenius and --solver hals only");
    }
    if (o.missing && o.grid != "auto") {
        throw input_error(
            "--grid does not go with --missing: every row has a problem of its own then, and the "
            "matrix stays in row blocks");
    }
    if (o.missing && (o.start == "nndsvd" || o.start == "nndsvda")) {
        throw input_error(
            "--start nndsvd needs every element of the matrix, and with --missing only some are "
            "known; give --start random, or a factors file");
    }
    if (o.start == "nndsvd" && o.solver == "mu") {
        throw input_error(
            "--solver mu never changes a zero, and --start nndsvd has many; give --start nndsvda");
    }
    if (!o.missing && o.nmf.lambda != 0.0) {
        throw input_error("--lambda goes with --missing only");
    }
}

/// Factors to begin with, from a file.
template <Real R>
std::shared_ptr<Factors<R>> read_start(Run& run, const NmfCommand& o, const MatrixData<R>& a) {
    auto start = load_factors<R>(run, o.start);
    const Factors<R>& f = *start;
    if (f.rows.rows() != a.rows() || f.cols.rows() != a.cols() || f.k() != o.nmf.k) {
        throw input_error("the factors in ", o.start, " are for a ", f.rows.rows(), " x ",
                          f.cols.rows(), " matrix with k = ", f.k(), ", but ", a.file, " is ",
                          a.rows(), " x ", a.cols(), " and --factors is ", o.nmf.k);
    }
    if (!f.singular_values.empty()) {
        throw input_error(o.start, " holds a singular value decomposition, whose vectors have ",
                          "both signs; give --start nndsvd");
    }
    require_nonnegative(f.rows, o.start + " (row_factors)");
    require_nonnegative(f.cols, o.start + " (col_factors)");
    return start;
}

/// The start that was asked for; null for a random one.
template <Real R>
std::shared_ptr<const Factors<R>> make_start(Run& run, const NmfCommand& o, const MatrixData<R>& a,
                                             const NmfOptions& options, Inputs& inputs) {
    if (o.start == "random" || (o.start == "auto" && o.missing)) return nullptr;
    if (names_file(o.start)) {
        auto start = read_start<R>(run, o, a);
        inputs.emplace_back("start", digest_text(digest(run.comm, start->tensors())));
        return start;
    }
    const bool fill = o.start == "nndsvda" || options.solver == NmfSolver::mu;
    return std::make_shared<const Factors<R>>(a.sparse ? nndsvd_start(*a.sparse, options, fill)
                                                       : nndsvd_start(*a.dense, options, fill));
}

template <Real R>
Factors<R> factorise(Run& run, const NmfCommand& o, const MatrixData<R>& a,
                     const NmfOptions& options) {
    Inputs inputs{{"matrix", digest_text(a.digest)}};
    const auto start = make_start<R>(run, o, a, options, inputs);
    const Steering steering = steer(run, o.loop, std::move(inputs));
    if (o.missing) return nmf_missing(*a.sparse, options, steering, start.get());
    return a.sparse ? nmf(*a.sparse, options, steering, start.get())
                    : nmf(*a.dense, options, steering, start.get());
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
        a.cols(), a.entries(), options.k, run.history.rows.size(), o.solver,
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
    check_options(o);
    run.check_output(o.out, {o.matrix, names_file(o.start) ? o.start : ""});
    NmfOptions options = o.nmf;
    options.seed = static_cast<std::uint64_t>(run.common.seed);
    options.threads = run.common.threads;
    options.solver = o.solver == "hals" ? NmfSolver::hals : NmfSolver::mu;
    options.loss = o.loss == "kl" ? NmfLoss::kullback_leibler : NmfLoss::frobenius;
    options.grid = parse_grid(o.grid, run.comm.size());
    const auto input = load_matrix<R>(run, o.matrix);
    const MatrixData<R>& a = *input;
    if (o.missing && !a.sparse) {
        throw input_error("--missing is for sparse matrices, and every element of ", a.file,
                          " is given; leave it out");
    }
    if (!o.missing && !options.grid) {
        options.grid = choose_grid(
            nmf_size(a.rows(), a.cols(), a.layout().shards(), a.entries(), options.k, sizeof(R)),
            run.comm.size());
    }
    a.sparse ? require_nonnegative(*a.sparse, a.file) : require_nonnegative(*a.dense, a.file);
    if (run.common.dry_run) return;

    auto factors = std::make_shared<Factors<R>>(factorise(run, o, a, options));
    factors->ids = a.ids;
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
    options.add("factors", o->nmf.k, "Number of factors k", Accept::between(1, 65536));
    options.add("sweeps", o->nmf.sweeps, "Sweeps over W and H, at most", Accept::at_least(1));
    options.add("solver", o->solver, "hals, or mu (multiplicative updates)",
                Accept::one_of({"hals", "mu"}));
    options.add("loss", o->loss, "frobenius, or kl (Kullback and Leibler; with --solver mu)",
                Accept::one_of({"frobenius", "kl"}));
    options.add("missing", o->missing,
                "Entries that are not stored are unknown, not zero (a recommender's NMF)");
    options.add("lambda", o->nmf.lambda, "With --missing: ridge weight λ", Accept::at_least(0));
    options.add("lambda-exponent", o->nmf.lambda_exponent,
                "With --missing: λ is scaled by (entries of the row or column)^this",
                Accept::at_least(0));
    options.add(
        "start", o->start,
        "nndsvd, nndsvda (with the mean in place of zeros), random, or a factors file; auto: "
        "nndsvd, nndsvda for mu, random with --missing");
    options.add("grid", o->grid, "Ranks as rows x columns, e.g. 2x3; auto: the cheapest");
    options.add("inner-passes", o->nmf.inner.most,
                "HALS: passes over a side's factors before the other side's turn, at most",
                Accept::at_least(1));
    options.add("tolerance", o->nmf.tolerance,
                "Stop when the KKT residual is this share of what it was at the start",
                Accept::at_least(0));
    options.add("least-change", o->nmf.least_change,
                "Stop when a sweep lowers the objective by a smaller share than this",
                Accept::at_least(0));
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
