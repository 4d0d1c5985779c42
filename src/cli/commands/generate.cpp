// rankfold generate: a synthetic matrix file of any size.
#include <cmath>

#include <fmt/format.h>

#include <rankfold/cli/run.hpp>
#include <rankfold/data/matrix_file.hpp>
#include <rankfold/dist/synthetic.hpp>

namespace rankfold::cli {

namespace {

struct GenerateCommand {
    std::string kind;
    std::string out;
    Index rows = 1000;
    Index cols = 1000;
    std::optional<Index> nnz;
    Index factors = 8;
    std::optional<double> noise;
    double row_exponent = SyntheticRatings().row_exponent;
    double col_exponent = SyntheticRatings().col_exponent;
    std::string distribution = "low-rank";
    double decay = 0.8;
    std::vector<double> spectrum;
};

SyntheticRatings ratings_of(const GenerateCommand& o, std::uint64_t seed) {
    return {.rows = o.rows,
            .cols = o.cols,
            .nnz = o.nnz.value_or(std::max<Index>(1, o.rows * o.cols / 20)),
            .factors = o.factors,
            .noise = o.noise.value_or(SyntheticRatings().noise),
            .row_exponent = o.row_exponent,
            .col_exponent = o.col_exponent,
            .seed = seed};
}

/// Singular values as given, else σ₁ = √(m n) times 1, decay, decay², …
SyntheticDense dense_of(const GenerateCommand& o, std::uint64_t seed) {
    SyntheticDense what{.rows = o.rows,
                        .cols = o.cols,
                        .uniform = o.distribution == "uniform",
                        .spectrum = o.spectrum,
                        .noise = o.noise.value_or(0.0),
                        .seed = seed};
    if (!what.spectrum.empty()) return what;
    double value = std::sqrt(static_cast<double>(o.rows) * static_cast<double>(o.cols));
    for (Index f = 0; f < o.factors; ++f, value *= o.decay) what.spectrum.push_back(value);
    return what;
}

template <Real R>
void run_generate(Run& run, const GenerateCommand& o) {
    run.check_output(o.out, {});
    const auto seed = static_cast<std::uint64_t>(run.common.seed);
    if (run.common.dry_run) return;
    auto matrix = std::make_shared<MatrixData<R>>();
    if (o.kind == "ratings") {
        matrix->sparse = generate_ratings<R>(run.comm, ratings_of(o, seed));
    } else {
        matrix->dense = generate_dense<R>(run.comm, dense_of(o, seed));
    }
    write_matrix(o.out, *matrix, {},
                 {.command = "generate", .options = run.options.dump(), .input_digest = ""});
    run.digest = digest_text(matrix->digest);
    run.result["rows"] = matrix->rows();
    run.result["cols"] = matrix->cols();
    run.result["entries"] = matrix->entries();
    run.say(fmt::format("generated a {} {} x {} matrix with {} entries",
                        matrix->sparse ? "sparse" : "dense", matrix->rows(), matrix->cols(),
                        matrix->entries()));
    run.say("wrote " + o.out);
    run.handover.leave(o.out, matrix);
}

}  // namespace

Action declare_generate(Options& options) {
    auto o = std::make_shared<GenerateCommand>();
    options.positional("kind", o->kind, "ratings (sparse, 1 to 5) or dense");
    options.add("out", o->out, "Matrix file to write");
    options.add("rows", o->rows, "Rows", Accept::between(1, 2147483647));
    options.add("cols", o->cols, "Columns", Accept::between(1, 2147483647));
    options.add("nnz", o->nnz, "Ratings: entries; 5 % of all pairs unless given",
                Accept::at_least(1));
    options.add("factors", o->factors, "Factors of the signal", Accept::at_least(1));
    options.add("noise", o->noise,
                "Standard deviation of the noise; 0.5 for ratings, 0 for dense unless given",
                Accept::at_least(0));
    options.add("row-exponent", o->row_exponent, "Ratings: rows' degrees fall like place^-exponent",
                Accept::between(0, 0.99));
    options.add("col-exponent", o->col_exponent, "Ratings: columns' popularity likewise",
                Accept::between(0, 0.99));
    options.add("distribution", o->distribution,
                "Dense: a low-rank matrix of given spectrum, or uniform numbers in [0, 1)",
                Accept::one_of({"low-rank", "uniform"}));
    options.add("decay", o->decay, "Dense: each singular value over the one before it",
                Accept{.least = 0, .most = 1, .exclusive_least = true});
    options.add("spectrum", o->spectrum, "Dense: the singular values themselves",
                Accept::at_least(0));
    options.examples(
        "rankfold generate ratings --rows 6000 --cols 4000 --nnz 1000000 --out ratings.h5\n"
        "rankfold generate dense --rows 1000 --cols 1000 --distribution uniform --out a.h5\n"
        "mpirun -n 4 rankfold generate dense --rows 20000 --cols 500 --factors 20 --decay 0.7 "
        "--noise 0.01 --out b.h5");
    return [o](Run& run) {
        if (o->kind != "ratings" && o->kind != "dense") {
            throw input_error("generate makes ratings or dense matrices, not '", o->kind, "'",
                              did_you_mean(o->kind, {"ratings", "dense"}));
        }
        run.common.precision == "float" ? run_generate<float>(run, *o)
                                        : run_generate<double>(run, *o);
    };
}

}  // namespace rankfold::cli
