// rankfold recommend: the best unseen columns of rows, as a table, a CSV file or a matrix file.
#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include <rankfold/cli/text_output.hpp>
#include <rankfold/eval/top_k.hpp>

#include "early_stop.hpp"
#include "scoring.hpp"

namespace rankfold::cli {

namespace {

struct RecommendCommand {
    std::string model;
    std::string train;
    std::string out;
    std::vector<std::string> rows{"all"};
    std::vector<std::string> similar_to;
    std::string among = "columns";
    Index top = 10;
};

/// What is listed: the best columns of a scorer's rows, and how both are called.
template <Real R>
struct Listing {
    ScorerRef<R> scorer;
    BlockRowCsr<R> seen;  ///< left out; in the scorer's layout
    IdSource ids;
    std::string row_axis = "obs";
    std::string col_axis = "var";
};

/// One recommendation as it travels to rank 0.
struct Pick {
    Index row;
    Index place;
    Index col;
    double score;
};

constexpr Index rows_on_screen = 20;
constexpr Index rows_per_message = 65536;   // bounds what is held of a large output
constexpr Index names_to_search = 1000000;  // more are not read for the sake of a suggestion

/// Where the wanted rows are; all of them for "all". @collective
template <Real R>
std::vector<Index> wanted_rows(const Communicator& comm, const std::vector<std::string>& wanted,
                               const std::string& model, const Listing<R>& list) {
    std::vector<Index> rows;
    const Index count = list.scorer.rows();
    if (wanted == std::vector<std::string>{"all"}) {
        rows.resize(static_cast<std::size_t>(count));
        std::iota(rows.begin(), rows.end(), Index{0});
        return rows;
    }
    for (const auto& name : wanted) {
        rows.push_back(find_name(comm, list.ids, list.row_axis, name));
        if (rows.back() >= 0 && rows.back() < count) continue;
        std::string hint;
        if (count <= names_to_search) {
            std::vector<Index> all(static_cast<std::size_t>(count));
            std::iota(all.begin(), all.end(), Index{0});
            hint = did_you_mean(name, names_on_root(comm, list.ids, list.row_axis, all));
            comm.broadcast(hint);
        }
        throw input_error("no ", list.row_axis == "obs" ? "row" : "column", " of ", model,
                          " is called ", name, hint);
    }
    return rows;
}

/// The picks of the rows in `range` on rank 0, in the order of (row, place). @collective
template <Real R>
std::vector<Pick> gather_picks(const Communicator& comm, const TopColumns<R>& top, Range range) {
    std::vector<Pick> mine;
    for (Index t = 0; t < top.cols.rows(); ++t) {
        if (!range.contains(top.rows[static_cast<std::size_t>(t)])) continue;
        for (Index place = 0; place < top.cols.cols() && top.cols(t, place) >= 0; ++place) {
            mine.push_back({top.rows[static_cast<std::size_t>(t)], place + 1, top.cols(t, place),
                            static_cast<double>(top.scores(t, place))});
        }
    }
    std::vector<Index> to_root(static_cast<std::size_t>(comm.size()), 0);
    to_root.front() = static_cast<Index>(mine.size());
    return comm.all_to_all(std::span<const Pick>(mine), to_root);
}

/// Names of rows and columns of some picks, on rank 0 (which alone has picks).
class PickNames {
public:
    template <Real R>
    PickNames(const Communicator& comm, const Listing<R>& list)
        : comm_{comm}, ids_{list.ids}, row_axis_{list.row_axis} {
        std::vector<Index> all(static_cast<std::size_t>(list.scorer.cols()));
        std::iota(all.begin(), all.end(), Index{0});
        cols_ = names_on_root(comm, ids_, list.col_axis, all);
    }
    /// One name a pick. @collective
    [[nodiscard]] std::vector<std::string> rows(const std::vector<Pick>& picks) const {
        std::vector<Index> positions;
        for (const Pick& pick : picks) positions.push_back(pick.row);
        return names_on_root(comm_, ids_, row_axis_, positions);
    }
    [[nodiscard]] const std::string& col(const Pick& pick) const {
        return cols_[static_cast<std::size_t>(pick.col)];
    }

private:
    const Communicator& comm_;
    IdSource ids_;
    std::string row_axis_;
    std::vector<std::string> cols_;
};

/// Finds the best columns of this rank's rows, some of them at a time, and their common digest.
template <Real R>
class Search {
public:
    /// @param rows  this rank's, increasing. @collective
    Search(Run& run, const Listing<R>& list, Index top, std::vector<Index> rows)
        : run_{run},
          list_{list},
          top_{top},
          rows_{std::move(rows)},
          before_{run.comm.exclusive_scan(std::ssize(rows_))},
          total_{run.comm.all_reduce(std::ssize(rows_), Reduce::sum)} {}

    /// Those of the rows in `range`. @collective
    TopColumns<R> find(Range range) {
        const auto begin = std::ranges::lower_bound(rows_, range.begin) - rows_.begin();
        const auto end = std::ranges::lower_bound(rows_, range.end) - rows_.begin();
        const auto part = std::span<const Index>(rows_).subspan(
            static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
        TopColumns<R> top;
        {
            const auto phase = run_.comm.ledger().phase("top columns");
            top = top_columns<R>(list_.scorer, &list_.seen, part, top_, run_.comm.rank(),
                                 run_.common.threads);
            run_.comm.ledger().add_flops(
                list_.scorer.flops_per_score() *
                static_cast<double>(std::ssize(part) * list_.scorer.cols()));
        }
        TensorList numbers;
        numbers.add_part("cols", total_ * top_, (before_ + begin) * top_, top.cols.data());
        numbers.add_part("scores", total_ * top_, (before_ + begin) * top_, top.scores.data());
        digest_ += digest(run_.comm, numbers);
        return top;
    }

    /// Over columns and scores of all that was found, in the order of (row, place).
    [[nodiscard]] std::string digest_of_all() const { return digest_text(digest_); }

private:
    Run& run_;
    const Listing<R>& list_;
    Index top_;
    std::vector<Index> rows_;
    Index before_;
    Index total_;
    std::uint64_t digest_ = 0;
};

template <Real R>
void write_csv(Run& run, const RecommendCommand& o, const Listing<R>& list, Search<R>& search) {
    const PickNames names(run.comm, list);
    TextFile file(run.comm, o.out);
    file.write("row,place,column,score\n");
    const Index rows = list.scorer.rows();
    for (Index begin = 0; begin < rows; begin += rows_per_message) {
        const Range range{begin, std::min(rows, begin + rows_per_message)};
        const TopColumns<R> top = search.find(range);
        const auto phase = run.comm.ledger().phase("write");
        const auto picks = gather_picks(run.comm, top, range);
        const auto row_names = names.rows(picks);
        std::string text;
        for (std::size_t t = 0; t < picks.size(); ++t) {
            fmt::format_to(std::back_inserter(text), "{},{},{},{}\n", csv_field(row_names[t]),
                           picks[t].place, csv_field(names.col(picks[t])),
                           static_cast<R>(picks[t].score));
        }
        file.write(text);
    }
    file.finish();
}

/// Appends a row's columns in increasing order, with their scores and places.
template <Real R>
void append_row(const TopColumns<R>& top, Index line, CsrMatrix<R>& local,
                std::vector<std::int64_t>& places) {
    std::vector<std::pair<Index, Index>> by_col;  // column, place
    for (Index p = 0; p < top.cols.cols(); ++p) {
        if (top.cols(line, p) >= 0) by_col.emplace_back(top.cols(line, p), p);
    }
    std::ranges::sort(by_col);
    for (const auto& [col, place] : by_col) {
        local.col_idx.push_back(static_cast<ColIndex>(col));
        local.values.push_back(top.scores(line, place));
        places.push_back(place + 1);
    }
}

/// A sparse matrix in the model's rows and columns: the scores, with their places as X/place. Each
/// rank holds its own part of it.
template <Real R>
void write_picks(Run& run, const RecommendCommand& o, const Listing<R>& list, Search<R>& search) {
    const Range mine = list.scorer.layout().rank_rows(run.comm.rank());
    CsrMatrix<R> local;
    local.cols = list.scorer.cols();
    std::vector<std::int64_t> places;
    const Index rows = list.scorer.rows();
    for (Index begin = 0; begin < rows; begin += rows_per_message) {
        const Range range{begin, std::min(rows, begin + rows_per_message)};
        const TopColumns<R> top = search.find(range);
        std::size_t line = 0;
        for (Index i = std::max(begin, mine.begin); i < std::min(range.end, mine.end); ++i) {
            if (line < top.rows.size() && top.rows[line] == i) {
                append_row(top, static_cast<Index>(line++), local, places);
            }
            local.row_ptr.push_back(local.nnz());
        }
    }
    MatrixData<R> matrix;
    matrix.sparse = BlockRowCsr<R>(run.comm, list.scorer.layout(), std::move(local));
    matrix.ids = list.ids;
    MatrixExtras extras;
    if (list.row_axis != "obs") extras.row_names = axis_names(run.comm, list.ids, list.row_axis);
    if (list.col_axis != "var") extras.col_names = axis_names(run.comm, list.ids, list.col_axis);
    extras.per_entry.emplace_back("X/place", std::move(places));
    write_matrix(o.out, matrix, extras,
                 {.command = "recommend", .options = run.options.dump(), .input_digest = ""});
}

/// Prints the rows in the order in which they were asked for.
template <Real R>
void print_picks(Run& run, const Listing<R>& list, const TopColumns<R>& top,
                 const std::vector<Index>& order) {
    const PickNames names(run.comm, list);
    const auto picks = gather_picks(run.comm, top, {0, list.scorer.rows()});
    const auto rows = names.rows(picks);
    if (!run.comm.is_root()) return;
    for (const Index row : order) {
        const auto first = std::ranges::find(picks, row, &Pick::row);
        if (first == picks.end()) {
            run.say(fmt::format("row {}: every column has been seen", row));
            continue;
        }
        run.say(rows[static_cast<std::size_t>(first - picks.begin())]);
        for (auto pick = first; pick != picks.end() && pick->row == row; ++pick) {
            run.say(
                fmt::format("  {:>3}  {:<40} {:.4g}", pick->place, names.col(*pick), pick->score));
        }
    }
}

/// Lists the wanted rows of what the model, or similarity, scores.
template <Real R>
void show_list(Run& run, const RecommendCommand& o, const Listing<R>& list,
               const std::vector<Index>& order) {
    std::vector<Index> shown = order;
    if (o.out.empty() && std::ssize(shown) > rows_on_screen) shown.resize(rows_on_screen);
    std::vector<Index> mine = shown;
    const Range own = list.scorer.layout().rank_rows(run.comm.rank());
    std::erase_if(mine, [&](Index i) { return !own.contains(i); });
    std::ranges::sort(mine);
    mine.erase(std::ranges::unique(mine).begin(), mine.end());
    Search<R> search(run, list, o.top, std::move(mine));
    if (o.out.empty()) {
        print_picks(run, list, search.find({0, list.scorer.rows()}), shown);
        if (shown.size() < order.size()) {
            run.say(fmt::format("… and {} rows more; --out FILE.csv takes all",
                                order.size() - shown.size()));
        }
    } else {
        o.out.ends_with(".h5") ? write_picks(run, o, list, search)
                               : write_csv(run, o, list, search);
        run.say(
            fmt::format("wrote the best {} columns of {} rows to {}", o.top, shown.size(), o.out));
    }
    run.digest = search.digest_of_all();
    run.result["rows"] = std::ssize(shown);
    run.result["top"] = o.top;
}

/// The rows of `x` times s, each of length 1 (rows of zeros stay).
template <Real R>
BlockRows<R> unit_rows(const BlockRows<R>& x, std::span<const R> s) {
    BlockRows<R> unit = x.clone();
    for (Index i = 0; i < unit.local().rows(); ++i) {
        double square = 0.0;
        for (Index f = 0; f < unit.cols(); ++f) {
            R& value = unit.local()(i, f);
            if (!s.empty()) value *= s[static_cast<std::size_t>(f)];
            square += static_cast<double>(value) * static_cast<double>(value);
        }
        if (square == 0.0) continue;
        for (R& value : unit.local().row(i)) {
            value = static_cast<R>(static_cast<double>(value) / std::sqrt(square));
        }
    }
    return unit;
}

/// The nearest columns (or rows) of columns (or rows): by the cosine of their factors.
template <Real R>
void run_similar(Run& run, const RecommendCommand& o) {
    const auto factors = load_factors<R>(run, o.model);
    const bool columns = o.among == "columns";
    Factors<R> near;
    near.rows = unit_rows<R>(columns ? factors->cols : factors->rows, factors->singular_values);
    near.cols = near.rows.clone();
    const FactorScorer<R> scorer(near);
    CsrMatrix<R> itself;
    itself.cols = near.rows.rows();
    for (Index i = 0; i < near.rows.local().rows(); ++i) {
        itself.col_idx.push_back(static_cast<ColIndex>(near.rows.first_row() + i));
        itself.values.push_back(R{1});
        itself.row_ptr.push_back(itself.nnz());
    }
    const std::string axis = columns ? "var" : "obs";
    const Listing<R> list{.scorer = scorer,
                          .seen = BlockRowCsr<R>(run.comm, near.rows.layout(), std::move(itself)),
                          .ids = factors->ids,
                          .row_axis = axis,
                          .col_axis = axis};
    const auto order = wanted_rows(run.comm, o.similar_to, o.model, list);
    if (!run.common.dry_run) show_list(run, o, list, order);
}

template <Real R>
void run_recommend(Run& run, const RecommendCommand& o) {
    if (!o.out.empty()) run.check_output(o.out, {o.model, o.train});
    if (!o.similar_to.empty()) {
        run_similar<R>(run, o);
        return;
    }
    if (o.train.empty()) {
        throw input_error(
            "recommend: --train FILE is missing, whose entries are left out as seen (or give "
            "--similar-to NAME); see --help");
    }
    const auto train = load_matrix<R>(run, o.train);
    if (!train->sparse) throw input_error(o.train, " is dense: it has no unseen entries");
    const Model<R> model(run, o.model, train, nullptr);
    const Listing<R> list{
        .scorer = model.scorer(), .seen = align_with(model, *train).matrix, .ids = model.ids()};
    const auto order = wanted_rows(run.comm, o.rows, o.model, list);
    if (!run.common.dry_run) show_list(run, o, list, order);
}

}  // namespace

Action declare_recommend(Options& options) {
    auto o = std::make_shared<RecommendCommand>();
    options.positional("model", o->model, "Factors or network file");
    options.add("train", o->train, "Matrix whose entries are left out as seen");
    options.add("rows", o->rows, "Names of rows, or all");
    options.add("similar-to", o->similar_to,
                "Instead: the columns nearest to these columns, by the cosine of their factors; "
                "names, or all");
    options.add("among", o->among, "With --similar-to: names and nearest are columns, or rows",
                Accept::one_of({"columns", "rows"}));
    options.add("top", o->top, "Columns a row", Accept::between(1, 100000));
    options.add("out", o->out,
                "File to write: FILE.csv (row,place,column,score) or a matrix FILE.h5; else a "
                "table of few rows is printed");
    options.examples(
        "rankfold recommend factors.h5 --train packages.h5 --rows git,vlc --top 5\n"
        "mpirun -n 4 rankfold recommend factors.h5 --train ratings.h5 --out best.csv\n"
        "rankfold recommend factors.h5 --similar-to libc6,python3 --top 5");
    return [o](Run& run) {
        run.common.precision == "float" ? run_recommend<float>(run, *o)
                                        : run_recommend<double>(run, *o);
    };
}

}  // namespace rankfold::cli
