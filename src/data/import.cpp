#include <rankfold/data/import.hpp>

#include <algorithm>
#include <numeric>

#include <rankfold/data/hdf5_attributes.hpp>
#include <rankfold/data/names.hpp>

#include "import_parts.hpp"

namespace rankfold {

namespace {

constexpr std::int64_t most_numbered_classes = 65536;

/// Names that were given from outside.
struct Given {
    std::optional<Names> rows;  // rank 0 has them, the others know that there are some
    std::optional<Names> cols;
    std::vector<std::string> classes;  // the same on all ranks
};

void broadcast_texts(const Communicator& comm, std::vector<std::string>& texts) {
    std::string joined;
    for (const auto& text : texts) joined += std::to_string(text.size()) + ":" + text;
    comm.broadcast(joined);
    if (comm.is_root()) return;
    texts.clear();
    for (std::size_t begin = 0; begin < joined.size();) {
        const std::size_t colon = joined.find(':', begin);
        std::int64_t length = 0;
        static_cast<void>(
            parse_number(std::string_view(joined).substr(begin, colon - begin), length));
        texts.push_back(joined.substr(colon + 1, static_cast<std::size_t>(length)));
        begin = colon + 1 + static_cast<std::size_t>(length);
    }
}

/// The lines of a file of names, on rank 0.
Names read_name_file(const Communicator& comm, const std::string& path) {
    const ByteFile file(comm, path);
    const std::string text = file.range(comm.is_root() ? Range{0, file.size()} : Range{0, 0});
    IdTable table;
    bool distinct = true;
    for_each_line(text, [&](std::string_view line, Index) {
        const auto name = trimmed(line);
        const Index before = table.size();
        if (!name.empty()) distinct = table.code(name) == before && distinct;
    });
    comm.agree([&] {
        if (!distinct) throw input_error("'", path, "' has a name twice; names must differ");
        if (comm.is_root() && table.size() == 0) throw input_error("'", path, "' has no names");
    });
    Names names;
    names.numbers = table.numbers();
    names.text = table.texts();
    return names;
}

Given read_given(const Communicator& comm, const ImportOptions& options) {
    Given given;
    if (!options.ids.empty()) {
        comm.agree([&] {
            given.rows.emplace();
            given.cols.emplace();
            if (!comm.is_root()) return;
            const Hdf5File file = Hdf5File::open(options.ids);
            auto rows = read_axis(file, "/", "obs");
            auto cols = read_axis(file, "/", "var");
            if (!rows || !cols) {
                throw input_error("'", options.ids, "' has no names (obs and var) to take over");
            }
            given.rows = std::move(rows);
            given.cols = std::move(cols);
            if (file.has_dataset("uns/label_names")) {
                given.classes = read_strings(file.dataset("uns/label_names"));
            }
        });
        broadcast_texts(comm, given.classes);
    }
    if (!options.row_ids.empty()) given.rows = read_name_file(comm, options.row_ids);
    if (!options.col_ids.empty()) given.cols = read_name_file(comm, options.col_ids);
    return given;
}

template <Real R>
void read_source(const Communicator& comm, const std::string& path, const ImportOptions& options,
                 Collected<R>& collected) {
    const ByteFile file(comm, path);
    const SourcePlan plan = plan_source(file, options);
    collected.counts.formats.push_back(format_name(plan.format));
    collected.counts.comments += plan.comments;
    collected.counts.headings += plan.heading.empty() ? 0 : 1;
    switch (plan.format) {
        case Format::automatic:
        case Format::csv:
        case Format::tsv:
        case Format::movielens:
            read_triplets(file, plan, options, collected);
            break;
        case Format::ncf:
            if (plan.first[0].starts_with('(')) {
                read_negatives(file, plan, options, collected);
            } else {
                read_triplets(file, plan, options, collected);
            }
            break;
        case Format::matrix_market:
            read_matrix_market(file, options, collected);
            break;
        case Format::npy:
        case Format::idx:
            read_array(file, plan.format, options, collected);
            break;
        case Format::table:
            read_table(file, plan, options, collected);
            break;
        case Format::text:
            read_documents(file, plan, options, collected);
            break;
    }
}

/// Sources of one kind can be joined; options that a kind has no use for are mistakes.
template <Real R>
void check_kinds(const Collected<R>& collected, const ImportOptions& options) {
    const int kinds = (collected.triplets.empty() ? 0 : 1) + (collected.entries.empty() ? 0 : 1) +
                      (collected.dense.empty() ? 0 : 1) + (collected.documents.empty() ? 0 : 1);
    if (kinds > 1) {
        throw input_error(
            "the sources are of different kinds (triplets, sparse and dense matrices, texts); "
            "import them apart");
    }
    if (!collected.triplets.empty()) {
        if (!options.labels.empty()) {
            throw input_error("--labels needs sources whose rows stand in order, not triplets");
        }
    } else if (options.extend_ids && collected.documents.empty()) {
        throw input_error("--extend-ids is for triplets: rows in order have no ids");
    }
}

/// Triplets as entries of the joined matrix. Sets the names and counts what is left out.
template <Real R>
void number_triplets(const Communicator& comm, const ImportOptions& options, const Given& given,
                     Collected<R>& collected, Imported<R>& result) {
    auto rows = number_ids(comm, collected.row_ids, given.rows, options.extend_ids);
    auto cols = number_ids(comm, collected.col_ids, given.cols, options.extend_ids);
    collected.row_ids = {};
    collected.col_ids = {};
    Index left_out = 0;
    for (TripletPart& part : collected.triplets) {
        std::vector<Entry> entries;
        entries.reserve(part.rows.size());
        for (std::size_t e = 0; e < part.rows.size(); ++e) {
            const Index row = rows.position[static_cast<std::size_t>(part.rows[e])];
            const Index col = cols.position[static_cast<std::size_t>(part.cols[e])];
            if (row < 0 || col < 0) {
                ++left_out;
                continue;
            }
            entries.push_back({row, static_cast<ColIndex>(col),
                               part.folds.empty() ? 0 : narrow<std::int32_t>(part.folds[e]),
                               part.values[e], part.times.empty() ? 0 : part.times[e]});
        }
        part = {};
        collected.entries.push_back(std::move(entries));
    }
    collected.rows = rows.count;
    collected.cols = cols.count;
    collected.counts.left_out = comm.all_reduce(left_out, Reduce::sum);
    collected.counts.unknown_rows = rows.unknown;
    collected.counts.unknown_cols = cols.unknown;
    result.extras.row_names = std::move(rows.names);
    result.extras.col_names = std::move(cols.names);
}

/// Names of rows in order are taken over if there are as many.
template <Real R>
void name_positions(const Communicator& comm, const ImportOptions& options, const Given& given,
                    const Collected<R>& collected, Imported<R>& result) {
    const auto take = [&](const Names& names, Index count, const char* what) {
        comm.agree([&] {
            if (comm.is_root() && count_of(names) != count) {
                throw input_error("there are ", count_of(names), " given names for ", count, " ",
                                  what);
            }
        });
        return names;
    };
    if (given.rows && !options.row_ids.empty()) {
        result.extras.row_names = take(*given.rows, collected.rows, "rows");
    }
    if (given.cols) {
        result.extras.col_names = take(*given.cols, collected.cols, "columns");
    } else if (!collected.col_names.empty()) {
        result.extras.col_names = Names{.text = collected.col_names, .numbers = {}};
    }
}

template <Real R>
void join_entries(const Communicator& comm, const ImportOptions& options, bool timed,
                  Collected<R>& collected, Imported<R>& result) {
    EntryCollector collector(comm, collected.rows, collected.cols);
    for (auto& entries : collected.entries) {
        collector.add(std::move(entries));
        entries = {};
    }
    const Names none;
    auto assembled = collector.finish<R>(options.duplicates,
                                         result.extras.row_names ? *result.extras.row_names : none,
                                         result.extras.col_names ? *result.extras.col_names : none);
    collected.counts.duplicates = assembled.duplicates;
    result.matrix.sparse = std::move(assembled.matrix);
    if (timed) result.extras.per_entry.emplace_back("X/time", std::move(assembled.times));
    if (!options.fold_file.empty()) {
        result.extras.per_entry.emplace_back("X/fold", std::move(assembled.folds));
    }
}

/// Puts rows that follow each other over the ranks where the layout of `to` wants them.
template <class T>
void deposit(const Communicator& comm, Index first, Index rows, std::span<const T> values,
             BlockRows<T>& to) {
    const Index width = to.cols();
    const Index begin = first + comm.exclusive_scan(rows);
    const auto blocks = comm.all_gather(Range{begin, begin + rows});
    const auto overlap = [](Range a, Range b) {
        return Range{std::max(a.begin, b.begin),
                     std::max({a.begin, b.begin, std::min(a.end, b.end)})};
    };
    const auto rank = static_cast<std::size_t>(comm.rank());
    std::vector<Index> send_counts;
    std::vector<Index> recv_counts;
    Index target = -1;
    for (int q = 0; q < comm.size(); ++q) {
        send_counts.push_back(width * overlap(blocks[rank], to.layout().rank_rows(q)).size());
        const Range part =
            overlap(blocks[static_cast<std::size_t>(q)], to.layout().rank_rows(comm.rank()));
        recv_counts.push_back(width * part.size());
        if (target < 0 && part.size() > 0) target = part.begin - to.first_row();
    }
    const Index total = std::accumulate(recv_counts.begin(), recv_counts.end(), Index{0});
    comm.all_to_all(
        values, send_counts,
        to.local().data().subspan(static_cast<std::size_t>(std::max<Index>(0, target) * width),
                                  static_cast<std::size_t>(total)),
        recv_counts);
}

template <Real R>
void join_dense(const Communicator& comm, Collected<R>& collected, Imported<R>& result) {
    const Index m = collected.rows;
    const Index n = collected.cols;
    BlockRows<R> joined(comm, ShardLayout::even(m, shard_count(m * n), comm.size()), n);
    for (auto& part : collected.dense) {
        deposit<R>(comm, part.first, part.rows, part.values, joined);
        part.values = {};
    }
    result.matrix.dense = std::move(joined);
    result.as_bytes = collected.bytes;
}

/// The class of every local code. Integers from 0 on keep their value, so that files which are
/// imported apart agree even where one lacks a class; other labels are numbered in order.
template <Real R>
std::vector<Index> number_classes(const Communicator& comm, const Given& given,
                                  Collected<R>& collected, std::vector<std::string>& names) {
    IdTable& classes = collected.classes;
    if (!given.classes.empty()) {
        const auto numbering =
            number_ids(comm, classes,
                       Names{.text = comm.is_root() ? given.classes : std::vector<std::string>{},
                             .numbers = {}},
                       false);
        if (numbering.unknown > 0) {
            throw input_error("there are ", numbering.unknown,
                              " classes of labels that the file "
                              "given as --ids does not have");
        }
        names = given.classes;
        return numbering.position;
    }
    std::int64_t least = 0;
    std::int64_t most = 0;
    for (const std::int64_t label : classes.numbers()) {
        least = std::min(least, label);
        most = std::max(most, label);
    }
    least = comm.all_reduce(least, Reduce::min);
    most = comm.all_reduce(most, Reduce::max);
    if (comm.all_agree(classes.numeric()) && least == 0 && most < most_numbered_classes) {
        for (std::int64_t c = 0; c <= most; ++c) names.push_back(std::to_string(c));
        return classes.numbers();
    }
    auto numbering = number_ids(comm, classes, std::nullopt, false);
    for (Index c = 0; c < count_of(numbering.names); ++c) {
        names.push_back(name_text(numbering.names, c));
    }
    broadcast_texts(comm, names);
    return std::move(numbering.position);
}

template <Real R>
void join_labels(const Communicator& comm, const ImportOptions& options, const Given& given,
                 Collected<R>& collected, MatrixData<R>& matrix) {
    Index labelled = 0;
    for (const auto& path : options.labels) {
        const ByteFile file(comm, path);
        LabelPart part;
        read_labels(file, labelled, collected.classes, part);
        labelled += comm.all_reduce(static_cast<Index>(part.codes.size()), Reduce::sum);
        collected.labels.push_back(std::move(part));
    }
    if (collected.labels.empty()) return;
    if (!options.labels.empty() && labelled != matrix.rows()) {
        throw input_error("there are ", labelled, " labels for ", matrix.rows(),
                          " rows; every row "
                          "needs one");
    }
    const auto class_of = number_classes(comm, given, collected, matrix.class_names);
    BlockRows<Index> labels(comm, matrix.layout(), 1);
    for (const LabelPart& part : collected.labels) {
        std::vector<Index> values;
        for (const ColIndex code : part.codes) {
            values.push_back(class_of[static_cast<std::size_t>(code)]);
        }
        deposit<Index>(comm, part.first, static_cast<Index>(values.size()), values, labels);
    }
    matrix.labels = std::move(labels);
}

/// Reads the fold of every line of the only source.
template <Real R>
void read_folds(const Communicator& comm, const std::string& path, Collected<R>& collected) {
    if (collected.triplets.size() != 1) {
        throw input_error(
            "--fold-file numbers the lines of one source of triplets; import others "
            "apart");
    }
    const ByteFile file(comm, path);
    const std::string text = file.range(file.my_lines(0));
    std::vector<Index> folds;
    BadLines bad;
    for_each_line(text, [&](std::string_view line, Index number) {
        Index fold = 0;
        if (!parse_number(trimmed(line), fold) || fold < 1 || fold > 1000000) {
            bad.add(number, line, "this is not the number of a fold, from 1 on");
        }
        folds.push_back(fold);
    });
    bad.check(comm, path, text, 0);
    TripletPart& part = collected.triplets.front();
    const Index found = comm.all_reduce(std::ssize(folds), Reduce::sum);
    const Index lines = comm.all_reduce(std::ssize(part.rows), Reduce::sum);
    if (found != lines) {
        throw input_error("'", path, "' has ", found, " lines for ", lines, " lines of data");
    }
    auto begins = comm.all_gather(comm.exclusive_scan(std::ssize(part.rows)));
    begins.push_back(lines);
    BlockRows<Index> placed(comm, ShardLayout(std::move(begins), comm.size()), 1);
    deposit<Index>(comm, 0, std::ssize(folds), folds, placed);
    part.folds.assign(placed.local().data().begin(), placed.local().data().end());
}

/// True if all triplets have times, false if none; the same on all ranks.
template <Real R>
bool have_times(const Communicator& comm, const Collected<R>& collected) {
    std::int32_t with = 0;
    std::int32_t without = 0;
    for (const TripletPart& part : collected.triplets) {
        if (!part.rows.empty()) (part.times.empty() ? without : with) = 1;
    }
    with = comm.all_reduce(with, Reduce::max);
    without = comm.all_reduce(without, Reduce::max);
    if (with != 0 && without != 0) {
        throw input_error(
            "some sources have a time column and some have none; import them apart, "
            "or give all of them one");
    }
    return with != 0;
}

/// --value tfidf: the rarity of columns is that of the file whose names are taken over, if any.
template <Real R>
void weigh(const Communicator& comm, const ImportOptions& options, BlockRowCsr<R>& a) {
    if (options.ids.empty()) {
        weigh_by_rarity<R>(a, nullptr);
        return;
    }
    const MatrixData<R> learnt = read_matrix<R>(comm, options.ids);
    if (!learnt.sparse) throw input_error("--value tfidf needs --ids of a sparse matrix");
    weigh_by_rarity<R>(a, &*learnt.sparse);
}

}  // namespace

void check_sources(const Communicator& comm, const ImportOptions& options) {
    static_cast<void>(read_given(comm, options));
    for (const auto& source : options.sources) {
        static_cast<void>(plan_source(ByteFile(comm, source), options));
    }
    for (const auto& labels : options.labels) static_cast<void>(ByteFile(comm, labels).size());
}

template <Real R>
Imported<R> import_matrix(const Communicator& comm, const ImportOptions& options) {
    auto phase = comm.ledger().phase("import");
    if (options.sources.empty()) throw input_error("there is no source to import");
    const Given given = read_given(comm, options);
    if (options.extend_ids && !given.rows && !given.cols) {
        throw input_error("--extend-ids needs --ids, --row-ids or --col-ids to extend");
    }
    Collected<R> collected;
    for (const auto& source : options.sources) read_source(comm, source, options, collected);
    check_kinds(collected, options);
    if (!options.fold_file.empty()) read_folds(comm, options.fold_file, collected);

    Imported<R> result;
    const bool timed = have_times(comm, collected);
    if (!collected.documents.empty()) {
        number_words(comm, options, given.cols, collected, result.extras.col_names);
        Given rows_alone;
        rows_alone.rows = given.rows;
        name_positions(comm, options, rows_alone, collected, result);
    } else if (collected.triplets.empty()) {
        name_positions(comm, options, given, collected, result);
    } else {
        number_triplets(comm, options, given, collected, result);
    }
    if (collected.dense.empty()) {
        ImportOptions joined = options;
        if (!collected.documents.empty()) joined.duplicates = Duplicates::sum;
        join_entries(comm, joined, timed, collected, result);
        if (options.value == ValueRule::tfidf) weigh<R>(comm, options, *result.matrix.sparse);
    } else if (options.value == ValueRule::tfidf) {
        throw input_error("--value tfidf is for sparse matrices and texts");
    } else {
        join_dense(comm, collected, result);
    }
    join_labels(comm, options, given, collected, result.matrix);
    result.counts = std::move(collected.counts);
    return result;
}

template Imported<float> import_matrix(const Communicator&, const ImportOptions&);
template Imported<double> import_matrix(const Communicator&, const ImportOptions&);

}  // namespace rankfold
