// rankfold fold-in: factors of new rows beside the given columns, without training anew.
#include <fmt/format.h>

#include <rankfold/cli/run.hpp>
#include <rankfold/data/tensor_file.hpp>
#include <rankfold/eval/align.hpp>
#include <rankfold/factor/fold_in.hpp>
#include <rankfold/factor/nmf.hpp>
#include <rankfold/factor/svd.hpp>
#include <rankfold/hybrid/deep_mf.hpp>

#include "als_settings.hpp"
#include "early_stop.hpp"
#include "scoring.hpp"
#include "side_features.hpp"

namespace rankfold::cli {

namespace {

struct FoldInCommand {
    std::string model;
    std::string rows;
    std::string row_features;
    std::string out;
};

/// The new rows over the model's columns.
template <Real R>
struct NewRows {
    std::optional<BlockRowCsr<R>> sparse;
    const BlockRows<R>* dense = nullptr;
    Index left_out = 0;  ///< entries in columns that the model does not know
};

template <Real R>
NewRows<R> over_columns(const FoldInCommand& o, const MatrixData<R>& a, const Factors<R>& model) {
    const Index n = model.cols.rows();
    const auto map = match_names(a.comm(), a.ids, model.ids, "var", a.cols(), n);
    NewRows<R> rows;
    if (a.dense) {
        if (a.cols() != n || !map.empty()) {
            throw input_error(o.rows, " is dense and must have the columns of ", o.model,
                              ", in their order");
        }
        rows.dense = &*a.dense;
        return rows;
    }
    Aligned<R> aligned = align(*a.sparse, a.layout(), n, {}, map);
    rows.left_out = a.comm().all_reduce(std::ssize(aligned.strangers), Reduce::sum);
    rows.sparse = std::move(aligned.matrix);
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
Factors<R> fold_in_towers(Run& run, const FoldInCommand& o, const MatrixData<R>& a,
                          const NewRows<R>& rows, const Factors<R>& model) {
    const auto network = load_network<R>(run, o.model);
    if (rows.dense != nullptr) {
        throw input_error(o.rows, " is dense, but the towers of ", o.model, " read sparse rows");
    }
    std::optional<BlockRowCsr<R>> features;
    TowerInputs<R> inputs;
    if (widths_in(network->network.graph(), "row").entries > 0) inputs.entries = &*rows.sparse;
    if (!o.row_features.empty()) {
        features = load_features<R>(run, o.row_features, a.ids, "obs", rows.sparse->layout());
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

/// Each method gives new rows what its own training would with the columns held fixed.
template <Real R>
Factors<R> fold_in(Run& run, const FoldInCommand& o, const MatrixData<R>& a, const NewRows<R>& rows,
                   const Factors<R>& model) {
    if (model.method == "deepmf") return fold_in_towers(run, o, a, rows, model);
    if (!o.row_features.empty()) {
        throw input_error("--row-features are for the towers of deepmf; the factors of ", o.model,
                          " are of ", model.method);
    }
    if (model.method.starts_with("nmf")) return fold_in_nonnegative(run, o, rows, model);
    if (model.method == "svd" || model.method == "pca") {
        return rows.dense != nullptr ? fold_in_svd(*rows.dense, model, run.common.threads)
                                     : fold_in_svd(*rows.sparse, model, run.common.threads);
    }
    if (!model.method.starts_with("als-")) {
        throw input_error(
            "fold-in knows how to give new rows factors of als, nmf, svd, pca and deepmf; those "
            "of ",
            o.model, " are of ", model.method);
    }
    const AlsOptions options = recorded_settings(model.options, o.model).resolved(run.common);
    Factors<R> folded;
    with_names(run.comm, a.ids, [&] {
        if (rows.dense != nullptr && !options.implicit) {
            folded = fold_in_als(*rows.dense, model, options);
        } else if (rows.dense != nullptr) {
            folded = fold_in_als(sparsify(*rows.dense), model, options);
        } else {
            folded = fold_in_als(*rows.sparse, model, options);
        }
    });
    return folded;
}

template <Real R>
void run_fold_in(Run& run, const FoldInCommand& o) {
    std::vector<std::string> inputs{o.model, o.rows};
    if (!o.row_features.empty()) inputs.push_back(o.row_features);
    run.check_output(o.out, inputs);
    const auto model = load_factors<R>(run, o.model);
    const auto a = load_matrix<R>(run, o.rows);
    const NewRows<R> rows = over_columns(o, *a, *model);
    if (run.common.dry_run) return;
    report_empty_lines(run, *a);
    auto folded = std::make_shared<Factors<R>>(fold_in(run, o, *a, rows, *model));
    folded->ids = a->ids;
    write_factors(o.out, *folded,
                  {.command = "fold-in",
                   .options = run.options.dump(),
                   .input_digest = digest_text(a->digest)},
                  model->ids);
    run.digest = digest_text(digest(run.comm, folded->tensors()));
    run.result["rows"] = folded->rows.rows();
    run.result["method"] = folded->method;
    run.result["entries_left_out"] = rows.left_out;
    if (rows.left_out > 0) {
        run.say(fmt::format("{} entries are in columns that {} does not know: left out",
                            rows.left_out, o.model));
    }
    run.say(fmt::format("{} new rows of {} beside {} columns, k = {}: wrote {}",
                        folded->rows.rows(), folded->method, folded->cols.rows(), folded->k(),
                        o.out));
    run.handover.leave(o.out, folded);
}

}  // namespace

Action declare_fold_in(Options& options) {
    auto o = std::make_shared<FoldInCommand>();
    options.positional("model", o->model, "Factors file, or network file of deepmf");
    options.positional("new-rows", o->rows,
                       "Matrix file with the new rows; columns are matched by name");
    options.add("out", o->out, "Factors file to write: the new rows, the model's columns");
    options.add("row-features", o->row_features,
                "deepmf: matrix file with side features of the new rows, over the columns of those "
                "that it was trained with");
    options.examples(
        "rankfold fold-in factors.h5 new-users.h5 --out new-factors.h5\n"
        "mpirun -n 2 rankfold fold-in factors.h5 clicks.test-in.h5 --out folded.h5\n"
        "rankfold recommend new-factors.h5 --train new-users.h5 --top 10");
    return [o](Run& run) {
        run.common.precision == "float" ? run_fold_in<float>(run, *o)
                                        : run_fold_in<double>(run, *o);
    };
}

}  // namespace rankfold::cli
