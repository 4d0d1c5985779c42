// rankfold import: files of other programs as a matrix file.
#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <rankfold/cli/run.hpp>
#include <rankfold/data/import.hpp>

namespace rankfold::cli {

namespace {

struct ImportCommand {
    ImportOptions what;
    std::string out;
    std::string format = "auto";
    std::string heading = "auto";
    std::string value = "as-is";
    std::string duplicates = "error";
};

/// Everything that is read.
std::vector<std::string> inputs_of(const ImportOptions& what) {
    std::vector<std::string> inputs = what.sources;
    inputs.insert(inputs.end(), what.labels.begin(), what.labels.end());
    for (const auto* file : {&what.ids, &what.fold_file, &what.row_ids, &what.col_ids}) {
        if (!file->empty()) inputs.push_back(*file);
    }
    return inputs;
}

/// What was read and what was not taken, in the report and for the reader.
template <Real R>
void tell(Run& run, const Imported<R>& imported) {
    const auto& a = imported.matrix;
    const ImportCounts& counts = imported.counts;
    const auto [least, most] = value_range(a);
    const double density = static_cast<double>(a.entries()) / static_cast<double>(a.rows()) /
                           static_cast<double>(a.cols());
    run.result["formats"] = counts.formats;
    run.result["layout"] = a.sparse ? "sparse" : "dense";
    run.result["rows"] = a.rows();
    run.result["cols"] = a.cols();
    run.result["entries"] = a.entries();
    run.result["least_value"] = least;
    run.result["greatest_value"] = most;
    run.result["lines"] = counts.lines;
    run.result["comments"] = counts.comments;
    run.result["headings"] = counts.headings;
    run.result["duplicates"] = counts.duplicates;
    run.result["missing"] = counts.missing;
    run.result["unknown_rows"] = counts.unknown_rows;
    run.result["unknown_cols"] = counts.unknown_cols;
    run.result["left_out"] = counts.left_out;
    run.say(fmt::format("read as {}: {} x {} {} matrix, {} entries ({:.3g} %), values {:g} to {:g}",
                        fmt::join(counts.formats, ", "), a.rows(), a.cols(),
                        a.sparse ? "sparse" : "dense", a.entries(), 100.0 * density, least, most));
    run.say(fmt::format(
        "{} lines of data, {} comments, {} headings; {} duplicates merged, {} "
        "missing fields",
        counts.lines, counts.comments, counts.headings, counts.duplicates, counts.missing));
    if (counts.unknown_rows + counts.unknown_cols > 0) {
        run.say(
            fmt::format("{} row ids and {} column ids are not among the given ones: {} entries "
                        "left out",
                        counts.unknown_rows, counts.unknown_cols, counts.left_out));
    }
    if (a.labels) {
        run.result["classes"] = a.class_names.size();
        run.say(fmt::format("labels of {} classes", a.class_names.size()));
    }
    for (const auto& [name, numbers] : imported.extras.per_entry) {
        run.say(fmt::format("{} kept as {}", name == "X/time" ? "times" : "folds", name));
    }
}

template <Real R>
void run_import(Run& run, const ImportCommand& o) {
    const auto inputs = inputs_of(o.what);
    run.check_output(o.out, inputs);
    if (run.common.dry_run) {
        check_sources(run.comm, o.what);
        return;
    }
    auto imported = import_matrix<R>(run.comm, o.what);
    write_matrix(o.out, imported.matrix, imported.extras,
                 {.command = "import", .options = run.options.dump(), .input_digest = ""},
                 imported.as_bytes);
    run.digest = digest_text(imported.matrix.digest);
    tell(run, imported);
    run.say("wrote " + o.out);
    run.handover.leave(o.out, std::make_shared<MatrixData<R>>(std::move(imported.matrix)));
}

void declare_options(Options& options, ImportCommand& o) {
    ImportOptions& what = o.what;
    options.positional("sources", what.sources, "Files to read, plain or gzip; several are joined");
    options.add("out", o.out, "Matrix file to write");
    options.add("format", o.format, "How the sources are written; auto tells by their first lines",
                Accept::one_of({"auto", "csv", "tsv", "movielens", "matrix-market", "npy", "idx",
                                "ncf", "table", "text"}));
    options.add("least-documents", what.least_documents,
                "Text: words that occur in fewer documents are left out", Accept::at_least(1));
    options.add("header", o.heading,
                "Whether the first line names the columns; auto: no number where the next has one",
                Accept::one_of({"auto", "yes", "no"}));
    options.add("labels", what.labels, "Files with one label a row: IDX, or text with one a line");
    options.add("label-column", what.label_column,
                "Table, or text with tabs: column of labels: first, last or number");
    options.add("drop-columns", what.drop_columns, "Table: columns to leave out, counted from 1",
                Accept::at_least(1));
    options.add("missing", what.missing, "Table: this field stands for no entry");
    options.add("shift", what.shift, "Number added to every value");
    options.add("value", o.value,
                "What a value becomes: itself, 1, log(1 + value), or term frequency times inverse "
                "document frequency (those of --ids, if given)",
                Accept::one_of({"as-is", "binary", "log1p", "tfidf"}));
    options.add("duplicates", o.duplicates, "Several entries at one place",
                Accept::one_of({"error", "last", "sum", "mean"}));
    options.add("ids", what.ids, "Matrix file whose ids and classes are taken over");
    options.add("extend-ids", what.extend_ids,
                "Put ids that are not among the given behind them, instead of leaving them out");
    options.add(
        "fold-file", what.fold_file,
        "Triplets: text file with the fold of every line, kept as X/fold for split --folds");
    options.add("row-ids", what.row_ids, "Text file with the ids of the rows, one a line");
    options.add("col-ids", what.col_ids, "Text file with the ids of the columns, one a line");
    options.examples(
        "rankfold import train-images.gz --labels train-labels.gz --out train.h5\n"
        "rankfold import docs.txt --format text --label-column first --value tfidf --out docs.h5\n"
        "rankfold import jester.csv.gz --drop-columns 1 --missing 99 --shift 10 --out jester.h5");
}

}  // namespace

Action declare_import(Options& options) {
    auto o = std::make_shared<ImportCommand>();
    declare_options(options, *o);
    return [o](Run& run) {
        o->what.format = format_named(o->format);
        o->what.heading = heading_named(o->heading);
        o->what.value = value_rule_named(o->value);
        o->what.duplicates = duplicates_named(o->duplicates);
        run.common.precision == "float" ? run_import<float>(run, *o) : run_import<double>(run, *o);
    };
}

}  // namespace rankfold::cli
