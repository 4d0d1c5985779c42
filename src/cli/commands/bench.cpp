// rankfold bench: the speed of one part on this machine, held against its own dense products.
#include <algorithm>
#include <thread>

#include <fmt/format.h>

#include <rankfold/bench/als_bench.hpp>
#include <rankfold/bench/hybrid_bench.hpp>
#include <rankfold/bench/mlp_bench.hpp>
#include <rankfold/bench/nmf_bench.hpp>
#include <rankfold/bench/svd_bench.hpp>
#include <rankfold/bench/topk_bench.hpp>
#include <rankfold/cli/report.hpp>
#include <rankfold/cli/run.hpp>
#include <rankfold/data/import.hpp>
#include <rankfold/data/text_reader.hpp>
#include <rankfold/scalapack/full_svd.hpp>

namespace rankfold::cli {

namespace {

struct BenchCommand {
    std::string part;
    std::string solver;
    std::optional<std::string> problem;
    std::optional<Index> rows;
    std::optional<Index> cols;
    std::optional<Index> nnz;
    AlsOptions als;
    SvdBenchOptions svd;
    std::optional<Index> factors;
    Index inner_passes = 1;
    Index sweeps = 10;
    std::vector<Index> layers{784, 1024, 1024, 10};
    std::optional<Index> batch;
    Index micro_batches = 0;
    Index steps = 20;
    std::string gradient_sum = "owner";
    std::string reproducible = "on";
    Index repeats = 5;
    Index top = 100;
    std::string source;
    std::string json;
};

/// Ranks times threads against the processors that this node has.
bool oversubscribed(const Communicator& comm, Index threads) {
    return comm.size() * threads > static_cast<Index>(std::thread::hardware_concurrency());
}

nlohmann::ordered_json bench_json(const BenchResult& r, bool too_many) {
    auto problem = nlohmann::ordered_json::object();
    for (const auto& [name, value] : r.problem) problem[name] = value;
    nlohmann::ordered_json json{{"bench", r.bench},
                                {"problem", problem},
                                {"seconds",
                                 {{"median", r.median()},
                                  {"min", std::ranges::min(r.seconds)},
                                  {"max", std::ranges::max(r.seconds)}}},
                                {"gflops", r.gflops()},
                                {"sgemm_gflops", r.gemm_gflops},
                                {"share_of_sgemm", nullptr}};
    if (!too_many && r.flops > 0.0) json["share_of_sgemm"] = r.gflops() / r.gemm_gflops;
    for (const auto& [name, value] : r.extra) json[name] = value;
    return json;
}

/// Seconds of the slowest rank in the phases that move the matrix and its vectors. @collective
double moving_seconds(const Communicator& comm) {
    double seconds = 0.0;
    for (const auto& phase : comm.ledger().phases()) {
        if (phase.name == "svd deal out" || phase.name == "svd bring back") {
            seconds += phase.seconds;
        }
    }
    return comm.all_reduce(seconds, Reduce::max);
}

/// All singular values and vectors of a matrix of uniform random numbers. Flops are those of the
/// reduction and of the way back, 8/3 n³ + 4 n³ for a square matrix.
template <Real R>
BenchResult measure_full_svd(Run& run, const BenchCommand& o) {
    const Communicator& comm = run.comm;
    const Index m = o.rows.value_or(2000);
    const Index n = o.cols.value_or(2000);
    const BlockRows<R> a =
        generate_dense<R>(comm, {.rows = m,
                                 .cols = n,
                                 .uniform = true,
                                 .seed = static_cast<std::uint64_t>(run.common.seed)});
    const double longer = static_cast<double>(std::max(m, n));
    const double r = static_cast<double>(std::min(m, n));
    BenchResult result{
        .bench = "svd-full",
        .problem = {{"rows", static_cast<double>(m)},
                    {"cols", static_cast<double>(n)},
                    {"ranks", static_cast<double>(comm.size())}},
        .seconds = {},
        .flops = 4.0 * (longer * r * r - r * r * r / 3.0) + 2.0 * (longer + r) * r * r,
        .gemm_gflops = all_ranks_gemm_gflops<R>(comm)};
    double moving = 0.0;
    double total = 0.0;
    for (Index repeat = -1; repeat < o.repeats; ++repeat) {  // the first warms up
        comm.barrier();
        const double before = moving_seconds(comm);
        const double start = monotonic_seconds();
        const FullSvd<R> found = full_svd(a, {});
        const double seconds = comm.all_reduce(monotonic_seconds() - start, Reduce::max);
        if (repeat < 0) continue;
        result.seconds.push_back(seconds);
        total += seconds;
        moving += moving_seconds(comm) - before;
    }
    result.gemm_gflops = std::max(result.gemm_gflops, all_ranks_gemm_gflops<R>(comm));
    result.extra = {{"share_of_redistribution", moving / total}};
    return result;
}

template <Real R>
BenchResult measure_topk(Run& run, const BenchCommand& o) {
    return bench_topk<R>(run.comm, {.rows = o.rows.value_or(138493),
                                    .cols = o.cols.value_or(26744),
                                    .k = o.factors.value_or(64),
                                    .top = o.top,
                                    .repeats = o.repeats,
                                    .threads = run.common.threads,
                                    .seed = static_cast<std::uint64_t>(run.common.seed)});
}

/// Times import_matrix() on a text of triplets: from the file to the matrix in memory.
template <Real R>
BenchResult measure_import(Run& run, const BenchCommand& o) {
    if (o.source.empty()) throw input_error("bench import: --source FILE is missing; see --help");
    BenchResult result{.bench = "import", .problem = {}, .seconds = {}};
    double lines = 0.0;
    for (Index repeat = 0; repeat < o.repeats; ++repeat) {
        run.comm.barrier();
        const double start = monotonic_seconds();
        const auto imported = import_matrix<R>(run.comm, {.sources = {o.source}});
        result.seconds.push_back(run.comm.all_reduce(monotonic_seconds() - start, Reduce::max));
        lines = static_cast<double>(imported.counts.lines);
    }
    const auto bytes = static_cast<double>(ByteFile(run.comm, o.source).size());
    result.problem = {{"lines", lines}, {"bytes", bytes}, {"ranks", double(run.comm.size())}};
    result.extra = {{"lines_per_second", lines / result.median()},
                    {"bytes_per_second", bytes / result.median()}};
    return result;
}

/// A round of the joint model beside an ALS sweep and an epoch of its network.
template <Real R>
BenchResult measure_hybrid(Run& run, const BenchCommand& o) {
    JointOptions joint;
    joint.als = o.als;
    joint.als.k = o.factors.value_or(joint.als.k);
    joint.als.threads = run.common.threads;
    joint.als.seed = static_cast<std::uint64_t>(run.common.seed);
    joint.batch = o.batch.value_or(joint.batch);
    joint.micro_batches = o.micro_batches;
    return bench_hybrid<R>(run.comm,
                           {.rows = o.rows.value_or(60000),
                            .cols = o.cols.value_or(12000),
                            .nnz = o.nnz.value_or(4000000),
                            .seed = joint.als.seed},
                           joint, o.repeats);
}

template <Real R>
BenchResult measure(Run& run, const BenchCommand& o) {
    const auto seed = static_cast<std::uint64_t>(run.common.seed);
    const std::string problem = o.problem.value_or(o.part == "nmf" ? "dense" : "sparse");
    if (o.part == "svd" && problem == "full") return measure_full_svd<R>(run, o);
    if (o.part == "svd") {
        SvdBenchOptions svd = o.svd;
        svd.problem = problem;
        svd.rows = o.rows.value_or(svd.problem == "dense" ? 20000 : svd.rows);
        svd.cols = o.cols.value_or(svd.problem == "dense" ? 5000 : svd.cols);
        svd.nnz = o.nnz.value_or(svd.nnz);
        svd.svd.k = o.factors.value_or(svd.svd.k);
        svd.svd.threads = run.common.threads;
        svd.svd.seed = seed;
        svd.repeats = o.repeats;
        return bench_svd<R>(run.comm, svd);
    }
    if (o.part == "topk") return measure_topk<R>(run, o);
    if (o.part == "import") return measure_import<R>(run, o);
    if (o.part == "hybrid") return measure_hybrid<R>(run, o);
    if (o.part == "als") {
        AlsOptions als = o.als;
        als.k = o.factors.value_or(als.k);
        als.threads = run.common.threads;
        if (o.solver == "cg") als.solver.solver = Solver::cg;
        if (o.solver == "subspace") als.solver.solver = Solver::subspace;
        return bench_als<R>(run.comm,
                            {.rows = o.rows.value_or(138493),
                             .cols = o.cols.value_or(26744),
                             .nnz = o.nnz.value_or(19000000),
                             .seed = seed},
                            als, o.repeats);
    }
    if (o.part == "nmf") {
        if (problem == "full") throw input_error("--problem full is for svd; give sparse or dense");
        const bool sparse = problem == "sparse";
        NmfOptions nmf{.k = o.factors.value_or(sparse ? 64 : 32),
                       .solver = o.solver == "bpp"  ? NmfSolver::bpp
                                 : o.solver == "mu" ? NmfSolver::mu
                                                    : NmfSolver::hals};
        nmf.inner.most = o.inner_passes;
        nmf.seed = seed;
        nmf.threads = run.common.threads;
        return bench_nmf<R>(run.comm, {.sparse = sparse,
                                       .rows = o.rows.value_or(sparse ? 138493 : 20000),
                                       .cols = o.cols.value_or(sparse ? 26744 : 5000),
                                       .nnz = o.nnz.value_or(10000000),
                                       .sweeps = o.sweeps,
                                       .repeats = o.repeats,
                                       .nmf = nmf});
    }
    return bench_mlp<R>(run.comm, {.layers = o.layers,
                                   .batch = o.batch.value_or(1024),
                                   .micro_batches = o.micro_batches,
                                   .steps = o.steps,
                                   .repeats = o.repeats,
                                   .threads = run.common.threads,
                                   .seed = seed,
                                   .owner_updates = o.gradient_sum == "owner",
                                   .reproducible = o.reproducible == "on"});
}

void run_bench(Run& run, const BenchCommand& o) {
    if (!o.json.empty()) run.check_output(o.json, {});
    if (run.common.dry_run) return;
    const BenchResult r =
        run.common.precision == "float" ? measure<float>(run, o) : measure<double>(run, o);
    const bool too_many = oversubscribed(run.comm, run.common.threads);
    run.result = bench_json(r, too_many);
    if (r.flops == 0.0) {  // no products: what counts is in the figures below
        run.say(fmt::format("{}: median {:.4g} s of {} repeats", r.bench, r.median(),
                            r.seconds.size()));
        run.say(run.result.dump());
        if (!o.json.empty()) write_json(run.comm, o.json, run.result);
        return;
    }
    run.say(
        fmt::format("{}: median {:.4g} s ({:.4g} … {:.4g}) of {} repeats; {:.1f} GF/s, {} of "
                    "the {:.1f} GF/s that {} ranks' gemm gives in this run",
                    r.bench, r.median(), std::ranges::min(r.seconds), std::ranges::max(r.seconds),
                    r.seconds.size(), r.gflops(),
                    too_many ? std::string("(oversubscribed: no share)")
                             : fmt::format("{:.1f} %", 100.0 * r.gflops() / r.gemm_gflops),
                    r.gemm_gflops, run.comm.size()));
    run.say(run.result.dump());
    if (!o.json.empty()) write_json(run.comm, o.json, run.result);
}

}  // namespace

Action declare_bench(Options& options) {
    auto o = std::make_shared<BenchCommand>();
    options.positional("part", o->part,
                       "als (a sweep), svd, nmf (some sweeps), mlp (a training step), hybrid (a "
                       "joint round beside "
                       "its parts), topk or import");
    options.add("repeats", o->repeats, "Measurements; the median counts", Accept::between(1, 1000));
    options.add("json", o->json, "Write the figures to this file too");
    options.add("problem", o->problem,
                "svd (sparse), nmf (dense): the kind of matrix; full: svd --full",
                Accept::one_of({"sparse", "dense", "full"}));
    options.add("rows", o->rows, "als, svd, nmf, hybrid: rows of the generated matrix",
                Accept::at_least(1));
    options.add("cols", o->cols, "als, svd, nmf, hybrid: columns", Accept::at_least(1));
    options.add("nnz", o->nnz, "als, svd, nmf, hybrid: entries of a sparse matrix",
                Accept::at_least(1));
    options.add(
        "factors", o->factors,
        "als, svd, nmf, hybrid: number of factors; 64 without, 32 for nmf on a dense matrix",
        Accept::between(1, 65536));
    options.add("tolerance", o->svd.svd.tolerance, "svd: of the residuals", Accept::above(0));
    options.add("block", o->svd.svd.block, "svd: columns of a block; 0 for what suits the matrix",
                Accept::between(0, 4096));
    options.add("solver", o->solver, "als: cholesky, cg or subspace; nmf: hals, mu or bpp",
                Accept::one_of({"", "cholesky", "cg", "subspace", "hals", "mu", "bpp"}));
    options.add("inner-passes", o->inner_passes, "nmf: passes of HALS at most",
                Accept::at_least(1));
    options.add("sweeps", o->sweeps, "nmf: sweeps in one measurement", Accept::at_least(1));
    options.add("implicit", o->als.implicit, "als, hybrid: implicit feedback");
    options.add("top", o->top, "topk: columns wanted for each row", Accept::at_least(1));
    options.add("source", o->source, "import: text of triplets to read");
    options.add("layers", o->layers, "mlp: widths from input to output", Accept::at_least(1));
    options.add("batch", o->batch, "mlp, hybrid: global batch; default: 1024", Accept::at_least(1));
    options.add("micro-batches", o->micro_batches,
                "mlp, hybrid: blocks of a batch; 0 for the default", Accept::at_least(0));
    options.add("steps", o->steps, "mlp: steps in one measurement", Accept::at_least(1));
    options.add("gradient-sum", o->gradient_sum, "mlp: who sums and updates",
                Accept::one_of({"owner", "allreduce"}));
    options.add("reproducible", o->reproducible, "mlp: the same bits on any number of ranks",
                Accept::one_of({"on", "off"}));
    options.examples(
        "mpirun -n 2 rankfold bench als\n"
        "mpirun -n 2 rankfold bench nmf --problem sparse --json nmf.json\n"
        "mpirun -n 2 rankfold bench mlp --layers 784,1024,1024,10 --batch 1024");
    return [o](Run& run) {
        const std::vector<std::string> parts{"als",    "svd",  "nmf",   "mlp",
                                             "hybrid", "topk", "import"};
        if (std::ranges::find(parts, o->part) == parts.end()) {
            throw input_error("there is no benchmark ", o->part, did_you_mean(o->part, parts),
                              "; there are als, svd, nmf, mlp, hybrid, topk and import");
        }
        run_bench(run, *o);
    };
}

}  // namespace rankfold::cli
