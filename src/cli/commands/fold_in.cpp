// rankfold fold-in: factors of new rows beside the given columns, without training anew.
#include <fmt/format.h>

#include <rankfold/cli/run.hpp>
#include <rankfold/data/tensor_file.hpp>
#include <rankfold/eval/align.hpp>
#include <rankfold/factor/fold_in.hpp>
#include <rankfold/factor/nmf.hpp>
#include <rankfold/factor/svd.hpp>
#include <rankfold/hybrid/deep_mf.hpp>
#include <rankfold/hybrid/prior.hpp>

#include "als_settings.hpp"
#include "early_stop.hpp"
#include "scoring.hpp"
#include "side_features.hpp"

namespace rankfold::cli {

namespace {

struct FoldInCommand {
    std::string model;
    std::string rows;
    std::string features;
    std::string axis = "rows";
    std::string out;

    [[nodiscard]] bool columns() const { return axis == "columns"; }
};

/// The new rows over the model's columns.
template <Real R>
struct NewRows {
    std::optional<BlockRowCsr<R>> sparse{};
    const BlockRows<R>* dense = nullptr;
    std::shared_ptr<const MatrixData<R>> held{};  ///< what `dense` stands in
    Index left_out = 0;  ///< entries in columns that the model does not know
    IdSource ids{};      ///< their names: of ids_axis
    std::string ids_axis = "obs";
    std::string digest{};
    std::optional<BlockRows<R>> features{};  ///< laid out like them
};

template <Real R>
NewRows<R> over_columns(Run& run, const FoldInCommand& o, const Factors<R>& model) {
    const auto a = load_matrix<R>(run, o.rows);
    const Index n = model.cols.rows();
    const auto map = match_names(run.comm, a->ids, model.ids, "var", a->cols(), n);
    NewRows<R> rows{.ids = a->ids, .digest = digest_text(a->digest)};
    report_empty_lines(run, *a);
    if (a->dense) {
        if (a->cols() != n || !map.empty()) {
            throw input_error(o.rows, " is dense and must have the columns of ", o.model,
                              ", in their order");
        }
        rows.dense = &*a->dense;
        rows.held = a;
    } else {
        Aligned<R> aligned = align(*a->sparse, a->layout(), n, {}, map);
        rows.left_out = run.comm.all_reduce(std::ssize(aligned.strangers), Reduce::sum);
        rows.sparse = std::move(aligned.matrix);
    }
    return rows;
}

/// The new columns of a matrix, as rows over the rows of the model.
template <Real R>
NewRows<R> over_rows(Run& run, const FoldInCommand& o, const Factors<R>& model) {
    const auto a = load_matrix<R>(run, o.rows);
    if (!a->sparse)
        throw input_error("--axis columns takes a sparse matrix, and ", o.rows, " is dense");
    const Index m = model.rows.rows();
    const auto map = match_names(run.comm, a->ids, model.ids, "obs", a->rows(), m);
    const Aligned<R> aligned = align(*a->sparse, model.rows.layout(), a->cols(), map, {});
    NewRows<R> rows{.left_out = run.comm.all_reduce(std::ssize(aligned.strangers), Reduce::sum),
                    .ids = a->ids,
                    .ids_axis = "var",
                    .digest = digest_text(a->digest)};
    rows.sparse = transpose(aligned.matrix);
    return rows;
}

/// New rows of which nothing is known but features: without an entry.
template <Real R>
NewRows<R> of_features(Run& run, const FoldInCommand& o, Index n) {
    const auto f = load_matrix<R>(run, o.features);
    NewRows<R> rows{.ids = f->ids, .digest = digest_text(f->digest)};
    rows.features = feature_rows(*f);
    CsrMatrix<R> none;
    none.cols = n;
    none.row_ptr.assign(static_cast<std::size_t>(rows.features->local().rows()) + 1, 0);
    rows.sparse = BlockRowCsr<R>(run.comm, rows.features->layout(), std::move(none));
    return rows;
}

/// New rows for nonnegative factors, by the loss that these were fitted to.
template <Real R>
Factors<R> fold_in_nonnegative(Run& run, const FoldInCommand& o, const NewRows<R>& rows,
                               const Factors<R>& model) {
    const auto recorded = nlohmann::json::parse(model.options, nullptr, false);
    const auto number = [&](const char* name, double fallback) {
        if (!recorded.is_object() || !recorded.contains(name)) return fallback;
        if (recorded[name].is_number()) return recorded[name].template get<double>();
        throw input_error(o.model, ": its attribute options has a ", name, " that is no number");
    };
    NmfFoldIn how;
    how.loss = model.method == "nmf-kl" ? NmfLoss::kullback_leibler : NmfLoss::frobenius;
    how.missing = model.method == "nmf-missing";
    how.lambda = number("lambda", how.lambda);
    how.lambda_exponent = number("lambda-exponent", how.lambda_exponent);
    how.threads = run.common.threads;
    Factors<R> folded;
    folded.rows = rows.dense != nullptr ? fold_in_nmf(*rows.dense, model.cols, how)
                                        : fold_in_nmf(*rows.sparse, model.cols, how);
    folded.cols = model.cols.clone();
    folded.method = model.method;
    folded.options = model.options;
    return folded;
}

/// New rows by a forward pass of the tower that made the model's rows.
template <Real R>
Factors<R> fold_in_towers(Run& run, const FoldInCommand& o, const NewRows<R>& rows,
                          const Factors<R>& model) {
    const auto network = load_network<R>(run, o.model);
    if (rows.dense != nullptr) {
        throw input_error(o.rows, " is dense, but the towers of ", o.model, " read sparse rows");
    }
    std::optional<BlockRowCsr<R>> features;
    TowerInputs<R> inputs;
    if (widths_in(network->network.graph(), "row").entries > 0) {
        if (o.rows.empty()) throw input_error("the towers of ", o.model, " read the new rows");
        inputs.entries = &*rows.sparse;
    }
    if (rows.features) {
        features = sparsify(*rows.features, Zeros::left_out);
        inputs.features = &*features;
    }
    Factors<R> folded;
    folded.rows = fold_in_deep_mf(run.comm, network->network, inputs, rows.sparse->layout(),
                                  run.common.threads);
    folded.cols = model.cols.clone();
    folded.method = model.method;
    folded.options = model.options;
    folded.global_mean = model.global_mean;
    return folded;
}

/// μ of the model, and what its prior network makes of the new rows' features.
template <Real R>
double read_prior_rows(Run& run, const FoldInCommand& o, const NewRows<R>& rows,
                       const Factors<R>& model, std::optional<BlockRows<R>>& prior) {
    auto network = read_prior<R>(run.comm, o.model, o.columns() ? col_prior_group : row_prior_group,
                                 model.k());
    if (!network) {
        throw input_error("'", o.model, "' has no prior network of ",
                          o.columns() ? "columns; fit it with `hybrid --col-features"
                                      : "rows; fit it with `hybrid --row-features",
                          " FILE --prior-weight`");
    }
    if (network->graph().inputs.front().width != rows.features->cols()) {
        throw input_error(o.features, " has ", rows.features->cols(), " features a row, but ",
                          o.model, " was fitted with ", network->graph().inputs.front().width,
                          "; import them with the columns of those (--col-ids)");
    }
    prior.emplace(run.comm, rows.features->layout(), model.k());
    apply_to_rows(*network, *rows.features, *prior);
    const double weight = recorded_option(model.options, "prior-weight", 0.0);
    if (weight <= 0.0) {
        throw input_error(o.model, " does not say its prior-weight (attribute options)");
    }
    return weight;
}

/// Each method gives new rows what its own training would with the columns held fixed.
template <Real R>
Factors<R> fold_in(Run& run, const FoldInCommand& o, const NewRows<R>& rows,
                   const Factors<R>& model) {
    if (model.method == "deepmf" && !o.columns()) return fold_in_towers(run, o, rows, model);
    const bool squares = model.method.starts_with("als-");
    if (!squares && (o.columns() || !o.features.empty())) {
        throw input_error(
            "--axis columns and --features are for factors of als and hybrid, --features also "
            "for those of deepmf, and ",
            o.model, " holds those of ", model.method);
    }
    if (model.method.starts_with("nmf")) return fold_in_nonnegative(run, o, rows, model);
    if (model.method == "svd" || model.method == "pca") {
        return rows.dense != nullptr ? fold_in_svd(*rows.dense, model, run.common.threads)
                                     : fold_in_svd(*rows.sparse, model, run.common.threads);
    }
    if (!squares) {
        throw input_error(
            "fold-in knows how to give new rows factors of als, nmf, svd, pca and deepmf; those "
            "of ",
            o.model, " are of ", model.method);
    }
    const AlsOptions options = recorded_settings(model.options, o.model).resolved(run.common);
    std::optional<BlockRows<R>> prior;
    const double weight = rows.features ? read_prior_rows(run, o, rows, model, prior) : 0.0;
    Factors<R> folded;
    // names are told of rows; those of columns stand elsewhere
    with_names(run.comm, o.columns() ? IdSource{} : rows.ids, [&] {
        if (rows.dense != nullptr && !options.implicit && !prior) {
            folded = fold_in_als(*rows.dense, model, options);
        } else {
            folded = fold_in_als(rows.dense != nullptr ? sparsify(*rows.dense) : *rows.sparse,
                                 model, options, {prior ? &*prior : nullptr, weight});
        }
    });
    return folded;
}

/// The factors of A for those of Aᵀ.
template <Real R>
void turn(Factors<R>& factors) {
    std::swap(factors.rows, factors.cols);
    std::swap(factors.row_bias, factors.col_bias);
}

/// What a fold-in reads of a model, turned.
template <Real R>
Factors<R> turned_copy(const Factors<R>& model) {
    Factors<R> copy;
    copy.rows = model.cols.clone();
    copy.cols = model.rows.clone();
    if (model.row_bias) copy.col_bias = model.row_bias->clone();
    if (model.col_bias) copy.row_bias = model.col_bias->clone();
    copy.global_mean = model.global_mean;
    copy.method = model.method;
    copy.options = model.options;
    return copy;
}

template <Real R>
NewRows<R> load_rows(Run& run, const FoldInCommand& o, const Factors<R>& model) {
    if (o.rows.empty()) {
        return of_features<R>(run, o, o.columns() ? model.rows.rows() : model.cols.rows());
    }
    NewRows<R> rows = o.columns() ? over_rows(run, o, model) : over_columns(run, o, model);
    if (o.features.empty()) return rows;
    rows.features = dense_rows(
        load_features<R>(run, o.features, rows.ids, rows.ids_axis,
                         rows.dense != nullptr ? rows.dense->layout() : rows.sparse->layout()));
    return rows;
}

template <Real R>
void run_fold_in(Run& run, const FoldInCommand& o) {
    std::vector<std::string> inputs{o.model};
    for (const auto& file : {o.rows, o.features}) {
        if (!file.empty()) inputs.push_back(file);
    }
    run.check_output(o.out, inputs);
    if (inputs.size() == 1) {
        throw input_error("give a matrix of new rows, or their --features, or both");
    }
    const auto model = load_factors<R>(run, o.model);
    const NewRows<R> rows = load_rows(run, o, *model);
    if (run.common.dry_run) return;
    auto folded = std::make_shared<Factors<R>>();
    if (o.columns()) {
        const Factors<R> turned = turned_copy(*model);
        *folded = fold_in(run, o, rows, turned);
        turn(*folded);
    } else {
        *folded = fold_in(run, o, rows, *model);
    }
    folded->ids = o.columns() ? model->ids : rows.ids;
    write_factors(
        o.out, *folded,
        {.command = "fold-in", .options = run.options.dump(), .input_digest = rows.digest},
        o.columns() ? ColumnIds{rows.ids, rows.ids_axis} : ColumnIds{model->ids});
    run.digest = digest_text(digest(run.comm, folded->tensors()));
    const Index count = o.columns() ? folded->cols.rows() : folded->rows.rows();
    run.result[o.axis] = count;
    run.result["method"] = folded->method;
    run.result["entries_left_out"] = rows.left_out;
    if (rows.left_out > 0) {
        run.say(fmt::format("{} entries are in {} that {} does not know: left out", rows.left_out,
                            o.columns() ? "rows" : "columns", o.model));
    }
    run.say(fmt::format("{} new {} of {} beside {} {}, k = {}: wrote {}", count, o.axis,
                        folded->method, o.columns() ? folded->rows.rows() : folded->cols.rows(),
                        o.columns() ? "rows" : "columns", folded->k(), o.out));
    run.handover.leave(o.out, folded);
}

}  // namespace

Action declare_fold_in(Options& options) {
    auto o = std::make_shared<FoldInCommand>();
    options.positional("model", o->model, "Factors file, or a network file with factors in it");
    options.optional_positional("new-rows", o->rows,
                                "Matrix file with the new rows; columns are matched by name");
    options.add(
        "features", o->features,
        "Matrix file with features of the new rows, of a model of `hybrid "
        "--prior-weight`: its prior network tells the factors of rows without entries, "
        "and pulls those of others; without new-rows, of all rows in the file. Of deepmf: what "
        "its towers read");
    options.add("axis", o->axis,
                "What is new: rows, or columns over the model's rows (als, hybrid)",
                Accept::one_of({"rows", "columns"}));
    options.add("out", o->out, "Factors file to write: the new rows, the model's columns");
    options.examples(
        "rankfold fold-in factors.h5 new-users.h5 --out new-factors.h5\n"
        "rankfold fold-in joint.h5 --axis columns --features new-films.h5 --out new-factors.h5\n"
        "mpirun -n 2 rankfold fold-in factors.h5 clicks.test-in.h5 --out folded.h5");
    return [o](Run& run) {
        run.common.precision == "float" ? run_fold_in<float>(run, *o)
                                        : run_fold_in<double>(run, *o);
    };
}

}  // namespace rankfold::cli
