// rankfold split: a matrix file in; training, validation and test parts out.
#include <charconv>

#include <fmt/format.h>

#include <rankfold/cli/run.hpp>
#include <rankfold/core/hash.hpp>
#include <rankfold/eval/align.hpp>
#include <rankfold/eval/split.hpp>

#include "scoring.hpp"

namespace rankfold::cli {

namespace {

struct SplitCommand {
    std::string matrix;
    std::string prefix;
    SplitRule rule;
};

/// A part that is ready to be written.
template <Real R>
struct ReadyPart {
    std::string name;
    std::shared_ptr<MatrixData<R>> matrix;
    MatrixExtras extras;
};

/// How many ways to choose the test part were asked for.
int ways_to_test(const SplitRule& rule) {
    return (rule.holdout > 0.0 ? 1 : 0) + (rule.leave_one_out ? 1 : 0) +
           (rule.leave_last_out ? 1 : 0) + (rule.folds > 0 ? 1 : 0) +
           (rule.holdout_rows > 0.0 ? 1 : 0);
}

std::vector<std::string> part_names(const SplitRule& rule) {
    std::vector<std::string> names{"train"};
    const bool rows = rule.holdout_rows > 0.0;
    if (rows) names.emplace_back("test-in");
    if (ways_to_test(rule) > 0) names.emplace_back("test");
    if (rows && rule.validation > 0.0) names.emplace_back("validation-in");
    if (rule.validation > 0.0) names.emplace_back("validation");
    if (rule.negatives > 0) names.emplace_back("negatives");
    return names;
}

/// "fold2." for the second fold, nothing without folds.
std::string fold_prefix(const SplitRule& rule) {
    return rule.folds > 0 ? fmt::format("fold{}.", rule.fold) : "";
}

std::string part_path(const SplitCommand& o, const std::string& part) {
    return o.prefix + "." + part + ".h5";
}

/// The numbers of the entries by which a rule cuts: times, or folds. @collective
template <Real R>
std::vector<std::int64_t> entry_numbers(const SplitCommand& o, const MatrixData<R>& whole) {
    if (o.rule.leave_last_out) {
        auto times = read_per_entry(whole, "X/time");
        if (!times) {
            throw input_error("--leave-last-out needs times, and ", o.matrix,
                              " has none (X/time); import it from a source with a time column");
        }
        return std::move(*times);
    }
    if (o.rule.folds == 0) return {};
    auto given = read_per_entry(whole, "X/fold");
    if (!given) return fold_numbers(*whole.sparse, o.rule.folds, o.rule.seed);
    std::int64_t range[2] = {1, -1};  // least and minus the greatest
    for (const std::int64_t f : *given) {
        range[0] = std::min(range[0], f);
        range[1] = std::min(range[1], -f);
    }
    whole.comm().all_reduce(std::span<std::int64_t>(range), Reduce::min);
    if (range[0] < 1 || -range[1] != o.rule.folds) {
        throw input_error(o.matrix, " has folds ", range[0], " to ", -range[1],
                          " (X/fold), which --folds ", o.rule.folds, " does not fit");
    }
    return std::move(*given);
}

/// Which of the parts of a split is called so.
template <Real R>
const BlockRowCsr<R>& part_named(const SplitParts<R>& parts, const std::string& name) {
    return name == "train"           ? parts.train
           : name == "test"          ? parts.test
           : name == "test-in"       ? *parts.test_in
           : name == "validation"    ? *parts.validation
           : name == "validation-in" ? *parts.validation_in
                                     : *parts.negatives;
}

template <Real R>
std::vector<ReadyPart<R>> split_sparse(Run& run, const SplitCommand& o, const MatrixData<R>& whole,
                                       std::span<const std::int64_t> numbers) {
    const SplitParts<R> parts = split_entries(*whole.sparse, o.rule, numbers);
    std::vector<ReadyPart<R>> ready;
    for (const std::string& name : part_names(o.rule)) {
        const BlockRowCsr<R>& part = part_named(parts, name);
        if (part.nnz() == 0) {
            throw input_error("the ", fold_prefix(o.rule), name, " part of ", o.matrix,
                              " would have no entry: of its ", whole.entries(),
                              " none falls to it; change the shares");
        }
        auto matrix = std::make_shared<MatrixData<R>>();
        matrix->sparse = rebalance(part);  // the layout that it has when it is read from its file
        matrix->ids = whole.ids;
        if (whole.labels) matrix->labels = redistribute(*whole.labels, matrix->sparse->layout());
        matrix->class_names = whole.class_names;
        ready.push_back({fold_prefix(o.rule) + name, std::move(matrix), {}});
    }
    run.result["rows_without_test"] = parts.rows_without_test;
    if ((o.rule.leave_one_out || o.rule.leave_last_out) && parts.rows_without_test > 0) {
        run.say(fmt::format("{} rows have fewer than 2 entries and no test entry",
                            parts.rows_without_test));
    }
    if (o.rule.negatives > 0) {
        run.result["rows_short_of_negatives"] = parts.rows_short_of_negatives;
        if (parts.rows_short_of_negatives > 0) {
            run.say(fmt::format("{} rows have fewer than {} columns without an entry; they got all",
                                parts.rows_short_of_negatives, o.rule.negatives));
        }
    }
    return ready;
}

/// The names of the chosen rows: as numbers if all are whole numbers.
Names chosen_names(const Communicator& comm, const IdSource& ids, const std::vector<Index>& rows) {
    Names names;
    names.text = names_on_root(comm, ids, "obs", rows);
    std::vector<std::int64_t> numbers;
    for (const auto& text : names.text) {
        std::int64_t number = 0;
        const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
        if (failure != std::errc{} || std::to_string(number) != text) return names;
        numbers.push_back(number);
    }
    return {{}, std::move(numbers)};
}

template <Real R>
std::vector<ReadyPart<R>> split_dense(const SplitCommand& o, const MatrixData<R>& whole) {
    const Communicator& comm = whole.comm();
    const RowParts parts = split_rows(whole.layout().rank_rows(comm.rank()), o.rule);
    std::vector<ReadyPart<R>> ready;
    for (const std::string& name : part_names(o.rule)) {
        const std::vector<Index>& rows = name == "train"  ? parts.train
                                         : name == "test" ? parts.test
                                                          : parts.validation;
        auto matrix = std::make_shared<MatrixData<R>>();
        matrix->dense = select_rows<R>(*whole.dense, rows);
        if (whole.labels) {
            matrix->labels =
                redistribute(select_rows<Index>(*whole.labels, rows), matrix->dense->layout());
        }
        matrix->class_names = whole.class_names;
        matrix->ids = whole.ids;
        const auto all_rows = comm.all_gather(std::span<const Index>(rows));
        MatrixExtras extras;
        extras.row_names = chosen_names(comm, whole.ids, all_rows);
        ready.push_back({name, std::move(matrix), std::move(extras)});
    }
    return ready;
}

template <Real R>
void write_part(Run& run, const SplitCommand& o, const ReadyPart<R>& part,
                const MatrixData<R>& whole) {
    const std::string path = part_path(o, part.name);
    write_matrix(path, *part.matrix, part.extras,
                 {.command = "split",
                  .options = run.options.dump(),
                  .input_digest = digest_text(whole.digest)});
    run.result[part.name] = {{"rows", part.matrix->rows()}, {"entries", part.matrix->entries()}};
    run.say(fmt::format("{:<10} {:>12} entries, {} x {}   {}", part.name, part.matrix->entries(),
                        part.matrix->rows(), part.matrix->cols(), path));
    // the parts' digests in the order of writing make that of the split
    run.digest = digest_text(fnv1a(run.digest + digest_text(part.matrix->digest)));
    run.handover.leave(path, part.matrix);
}

/// Refuses rules that say nothing or contradict themselves.
void check_rule(const SplitRule& rule, bool sparse, const std::string& file) {
    if (ways_to_test(rule) > 1) {
        throw input_error(
            "--holdout, --leave-one-out, --leave-last-out, --folds and --holdout-rows are ways to "
            "choose the test part; give one of them");
    }
    if (ways_to_test(rule) == 0 && rule.validation == 0.0) {
        throw input_error(
            "nothing to split off: give --holdout 0.1, --leave-one-out, --leave-last-out, --folds "
            "5, --holdout-rows 0.1 or --validation 0.1");
    }
    if (rule.folds == 1) throw input_error("--folds 1 leaves nothing to train on; give 2 or more");
    if (!sparse && (ways_to_test(rule) > (rule.holdout > 0.0 ? 1 : 0) || rule.negatives > 0)) {
        throw input_error(file,
                          " is a dense matrix, of which --holdout and --validation take whole "
                          "rows; the other ways and --negatives are for sparse ones");
    }
}

template <Real R>
void run_split(Run& run, SplitCommand o) {
    o.rule.seed = static_cast<std::uint64_t>(run.common.seed);
    if (o.prefix.empty()) {
        o.prefix = o.matrix.ends_with(".h5") ? o.matrix.substr(0, o.matrix.size() - 3) : o.matrix;
    }
    const Index rounds = std::max<Index>(1, o.rule.folds);
    for (o.rule.fold = 1; o.rule.fold <= rounds; ++o.rule.fold) {
        for (const auto& name : part_names(o.rule)) {
            run.check_output(part_path(o, fold_prefix(o.rule) + name), {o.matrix});
        }
    }
    const auto whole = load_matrix<R>(run, o.matrix);
    check_rule(o.rule, whole->sparse.has_value(), o.matrix);
    const auto numbers = whole->sparse ? entry_numbers(o, *whole) : std::vector<std::int64_t>();
    if (run.common.dry_run) return;
    for (o.rule.fold = 1; o.rule.fold <= rounds; ++o.rule.fold) {
        const auto parts =
            whole->sparse ? split_sparse<R>(run, o, *whole, numbers) : split_dense<R>(o, *whole);
        for (const auto& part : parts) write_part(run, o, part, *whole);
    }
}

}  // namespace

Action declare_split(Options& options) {
    auto o = std::make_shared<SplitCommand>();
    options.positional("matrix", o->matrix, "Matrix file (HDF5)");
    options.add("prefix", o->prefix,
                "The parts are PREFIX.train.h5, PREFIX.test.h5, …; the matrix's name unless given");
    options.add("holdout", o->rule.holdout,
                "Share of the entries that become the test part (of a dense matrix: rows)",
                Accept::between(0, 0.99));
    options.add("leave-one-out", o->rule.leave_one_out,
                "One entry of every row that has two becomes the test part");
    options.add("leave-last-out", o->rule.leave_last_out,
                "The same, but the last entry by time (of equal times the greatest column)");
    options.add("folds", o->rule.folds,
                "Cut into so many folds: PREFIX.fold1.train.h5, PREFIX.fold1.test.h5, …; by X/fold "
                "if the matrix has it",
                Accept::between(0, 1000));
    options.add("holdout-rows", o->rule.holdout_rows,
                "Share of the rows that are left out of the training part: PREFIX.test-in.h5 has "
                "80 % of their entries, PREFIX.test.h5 the rest",
                Accept::between(0, 0.99));
    options.add("validation", o->rule.validation,
                "Share of what is left that becomes the validation part; with --leave-one-out and "
                "--leave-last-out any share means one more entry of every row that has three",
                Accept::between(0, 0.99));
    options.add("negatives", o->rule.negatives,
                "Also PREFIX.negatives.h5: this many columns a row that are in no part",
                Accept::at_least(0));
    options.examples(
        "rankfold split ratings.h5 --holdout 0.1 --validation 0.1 --prefix ratings\n"
        "rankfold split clicks.h5 --leave-one-out --negatives 99 --prefix clicks\n"
        "mpirun -n 2 rankfold split ratings.h5 --folds 5 --prefix ratings");
    return [o](Run& run) {
        run.common.precision == "float" ? run_split<float>(run, *o) : run_split<double>(run, *o);
    };
}

}  // namespace rankfold::cli
