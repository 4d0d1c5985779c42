#include "nmf_settings.hpp"

#include <charconv>

#include <rankfold/cli/loop.hpp>

#include "early_stop.hpp"
#include "scoring.hpp"

namespace rankfold::cli {

namespace {

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

/// Options that cannot go together, before anything is read.
void check_options(const NmfSettings& o) {
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
std::shared_ptr<Factors<R>> read_start(Run& run, const std::string& file, const MatrixData<R>& a,
                                       Index k) {
    auto start = load_factors<R>(run, file);
    const Factors<R>& f = *start;
    if (f.rows.rows() != a.rows() || f.cols.rows() != a.cols() || f.k() != k) {
        throw input_error("the factors in ", file, " are for a ", f.rows.rows(), " x ",
                          f.cols.rows(), " matrix with k = ", f.k(), ", but ", a.file, " is ",
                          a.rows(), " x ", a.cols(), " and --factors is ", k);
    }
    if (!f.singular_values.empty()) {
        throw input_error(file, " holds a singular value decomposition, whose vectors have ",
                          "both signs; give --start nndsvd");
    }
    require_nonnegative(f.rows, file + " (row_factors)");
    require_nonnegative(f.cols, file + " (col_factors)");
    return start;
}

}  // namespace

void NmfSettings::declare(Options& options) {
    options.add("factors", nmf.k, "Number of factors k", Accept::between(1, 65536));
    options.add("sweeps", nmf.sweeps, "Sweeps over W and H, at most", Accept::at_least(1));
    options.add("solver", solver,
                "hals, mu (multiplicative updates), or bpp (each side exactly, by block principal "
                "pivoting after HALS)",
                Accept::one_of({"hals", "mu", "bpp"}));
    options.add("loss", loss, "frobenius, or kl (Kullback and Leibler; with --solver mu)",
                Accept::one_of({"frobenius", "kl"}));
    options.add("missing", missing,
                "Entries that are not stored are unknown, not zero (a recommender's NMF)");
    options.add("lambda", nmf.lambda, "With --missing: ridge weight λ", Accept::at_least(0));
    options.add("lambda-exponent", nmf.lambda_exponent,
                "With --missing: λ is scaled by (entries of the row or column)^this",
                Accept::at_least(0));
    options.add(
        "start", start,
        "nndsvd, nndsvda (with the mean in place of zeros), random, or a factors file; auto: "
        "nndsvd, nndsvda for mu, random with --missing");
    options.add("grid", grid, "Ranks as rows x columns, e.g. 2x3; auto: the cheapest");
    options.add("inner-passes", nmf.inner.most,
                "HALS: passes over a side's factors before the other side's turn, at most",
                Accept::at_least(1));
    options.add("tolerance", nmf.tolerance,
                "Stop when the KKT residual is this share of what it was at the start",
                Accept::at_least(0));
    options.add("least-change", nmf.least_change,
                "Stop when a sweep lowers the objective by a smaller share than this",
                Accept::at_least(0));
    options.add("max-time", max_time,
                "Stop after the sweep in which this much time is over (90s, 10min, 2h); the result "
                "then depends on the machine");
}

NmfOptions NmfSettings::resolved(const CommonOptions& common, int ranks) const {
    check_options(*this);
    NmfOptions options = nmf;
    options.seed = static_cast<std::uint64_t>(common.seed);
    options.threads = common.threads;
    options.solver = solver == "bpp"  ? NmfSolver::bpp
                     : solver == "mu" ? NmfSolver::mu
                                      : NmfSolver::hals;
    options.loss = loss == "kl" ? NmfLoss::kullback_leibler : NmfLoss::frobenius;
    options.grid = parse_grid(grid, ranks);
    if (!max_time.empty()) options.most_seconds = parse_time("max-time", max_time);
    return options;
}

bool NmfSettings::starts_from_file() const {
    return start != "auto" && start != "random" && start != "nndsvd" && start != "nndsvda";
}

template <Real R>
void check_problem(const MatrixData<R>& a, const NmfSettings& settings) {
    if (settings.missing && !a.sparse) {
        throw input_error("--missing is for sparse matrices, and every element of ", a.file,
                          " is given; leave it out");
    }
    const auto unfit = a.sparse ? first_unfit(*a.sparse) : first_unfit(*a.dense);
    if (!unfit) return;
    const auto name_of = [&](const char* axis, Index position) {
        if (a.ids.file.empty()) return std::string();
        const auto names = names_on_root(a.comm(), a.ids, axis, {position});
        return names.empty() ? std::string() : names.front();
    };
    const std::string row = name_of("obs", unfit->row);
    throw unfit_error(a.file, *unfit, row, name_of("var", unfit->column));
}

template <Real R>
std::shared_ptr<const Factors<R>> make_start(
    Run& run, const NmfSettings& settings, const MatrixData<R>& a, const NmfOptions& options,
    std::vector<std::pair<std::string, std::string>>& inputs) {
    if (settings.start == "random" || (settings.start == "auto" && settings.missing)) {
        return nullptr;
    }
    if (settings.starts_from_file()) {
        auto start = read_start<R>(run, settings.start, a, options.k);
        inputs.emplace_back("start", digest_text(digest(run.comm, start->tensors())));
        return start;
    }
    const bool fill = settings.start == "nndsvda" || options.solver == NmfSolver::mu;
    return std::make_shared<const Factors<R>>(a.sparse ? nndsvd_start(*a.sparse, options, fill)
                                                       : nndsvd_start(*a.dense, options, fill));
}

template <Real R>
Factors<R> fit_nmf(const MatrixData<R>& a, const NmfSettings& settings, const NmfOptions& options,
                   const Steering& steering, const Factors<R>* start) {
    Factors<R> factors = settings.missing ? nmf_missing(*a.sparse, options, steering, start)
                         : a.sparse       ? nmf(*a.sparse, options, steering, start)
                                          : nmf(*a.dense, options, steering, start);
    factors.ids = a.ids;
    return factors;
}

#define RANKFOLD_INSTANTIATE(R)                                                              \
    template void check_problem(const MatrixData<R>&, const NmfSettings&);                   \
    template std::shared_ptr<const Factors<R>> make_start(                                   \
        Run&, const NmfSettings&, const MatrixData<R>&, const NmfOptions&,                   \
        std::vector<std::pair<std::string, std::string>>&);                                  \
    template Factors<R> fit_nmf(const MatrixData<R>&, const NmfSettings&, const NmfOptions&, \
                                const Steering&, const Factors<R>*);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold::cli
