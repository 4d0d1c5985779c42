// rankfold recommend: the best unseen columns of rows, as a table, a CSV file or a matrix file.
#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include <rankfold/cli/text_output.hpp>
#include <rankfold/eval/top_k.hpp>

#include "scoring.hpp"

namespace rankfold::cli {

namespace {

struct RecommendCommand {
    std::string model;
    std::string train;
    std::string out;
    std::vector<std::string> rows{"all"};
    Index top = 10;
};

/// One recommendation as it travels to rank 0.
struct Pick {
    Index row;
    Index place;
    Index col;
    double score;
};

constexpr Index rows_on_screen = 20;
constexpr Index rows_per_message = 65536;   // bounds what rank 0 holds of a large output
constexpr Index names_to_search = 1000000;  // more are not read for the sake of a suggestion

/// Where the wanted rows are; all of them for "all". @collective
template <Real R>
std::vector<Index> wanted_rows(const Communicator& comm, const RecommendCommand& o,
                               const Model<R>& model) {
    std::vector<Index> rows;
    const Index count = model.scorer().rows();
    if (o.rows == std::vector<std::string>{"all"}) {
        rows.resize(static_cast<std::size_t>(count));
        std::iota(rows.begin(), rows.end(), Index{0});
        return rows;
    }
    for (const auto& name : o.rows) {
        rows.push_back(find_name(comm, model.ids(), "obs", name));
        if (rows.back() >= 0 && rows.back() < count) continue;
        std::string hint;
        if (count <= names_to_search) {
            std::vector<Index> all(static_cast<std::size_t>(count));
            std::iota(all.begin(), all.end(), Index{0});
            hint = did_you_mean(name, names_on_root(comm, model.ids(), "obs", all));
            comm.broadcast(hint);
        }
        throw input_error("no row of ", o.model, " is called ", name, hint);
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
    PickNames(const Communicator& comm, const IdSource& ids, Index cols) : comm_{comm}, ids_{ids} {
        std::vector<Index> all(static_cast<std::size_t>(cols));
        std::iota(all.begin(), all.end(), Index{0});
        cols_ = names_on_root(comm, ids, "var", all);
    }
    /// One name a pick. @collective
    [[nodiscard]] std::vector<std::string> rows(const std::vector<Pick>& picks) const {
        std::vector<Index> positions;
        for (const Pick& pick : picks) positions.push_back(pick.row);
        return names_on_root(comm_, ids_, "obs", positions);
    }
    [[nodiscard]] const std::string& col(const Pick& pick) const {
        return cols_[static_cast<std::size_t>(pick.col)];
    }

private:
    const Communicator& comm_;
    IdSource ids_;
    std::vector<std::string> cols_;
};

template <Real R>
void write_csv(Run& run, const RecommendCommand& o, const Model<R>& model,
               const TopColumns<R>& top) {
    const auto phase = run.comm.ledger().phase("write");
    const PickNames names(run.comm, model.ids(), model.scorer().cols());
    TextFile file(run.comm, o.out);
    file.write("row,place,column,score\n");
    const Index rows = model.scorer().rows();
    for (Index begin = 0; begin < rows; begin += rows_per_message) {
        const auto picks = gather_picks(run.comm, top, {begin, begin + rows_per_message});
        const auto row_names = names.rows(picks);
        std::string text;
        for (std::size_t t = 0; t < picks.size(); ++t) {
            text += fmt::format("{},{},{},{}\n", csv_field(row_names[t]), picks[t].place,
                                csv_field(names.col(picks[t])), static_cast<R>(picks[t].score));
        }
        file.write(text);
    }
    file.finish();
}

/// A sparse matrix in the model's rows and columns: the scores, with their places as X/place.
template <Real R>
void write_picks(Run& run, const RecommendCommand& o, const Model<R>& model,
                 const TopColumns<R>& top) {
    const auto phase = run.comm.ledger().phase("write");
    const ScorerRef<R> scorer = model.scorer();
    const Range mine = scorer.layout().rank_rows(run.comm.rank());
    CsrMatrix<R> local;
    local.cols = scorer.cols();
    std::vector<std::int64_t> places;
    std::size_t line = 0;
    for (Index i = mine.begin; i < mine.end; ++i) {
        if (line < top.rows.size() && top.rows[line] == i) {
            std::vector<std::pair<Index, Index>> by_col;  // column, place
            for (Index p = 0; p < top.cols.cols(); ++p) {
                const Index col = top.cols(static_cast<Index>(line), p);
                if (col >= 0) by_col.emplace_back(col, p);
            }
            std::ranges::sort(by_col);
            for (const auto& [col, place] : by_col) {
                local.col_idx.push_back(static_cast<ColIndex>(col));
                local.values.push_back(top.scores(static_cast<Index>(line), place));
                places.push_back(place + 1);
            }
            ++line;
        }
        local.row_ptr.push_back(local.nnz());
    }
    MatrixData<R> matrix;
    matrix.sparse = BlockRowCsr<R>(run.comm, scorer.layout(), std::move(local));
    matrix.ids = model.ids();
    MatrixExtras extras;
    extras.per_entry.emplace_back("X/place", std::move(places));
    write_matrix(o.out, matrix, extras,
                 {.command = "recommend", .options = run.options.dump(), .input_digest = ""});
}

/// Prints the rows in the order in which they were asked for.
template <Real R>
void print_picks(Run& run, const Model<R>& model, const TopColumns<R>& top,
                 const std::vector<Index>& order) {
    const PickNames names(run.comm, model.ids(), model.scorer().cols());
    const auto picks = gather_picks(run.comm, top, {0, model.scorer().rows()});
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

/// The digest over columns and scores, in the order of (row, place).
template <Real R>
std::string digest_of(const Communicator& comm, TopColumns<R>& top) {
    const Index k = top.cols.cols();
    const Index count = static_cast<Index>(top.rows.size());
    const Index total = comm.all_reduce(count, Reduce::sum);
    const Index before = comm.exclusive_scan(count);
    TensorList list;
    list.add_part("cols", total * k, before * k, top.cols.data());
    list.add_part("scores", total * k, before * k, top.scores.data());
    return digest_text(digest(comm, list));
}

template <Real R>
void run_recommend(Run& run, const RecommendCommand& o) {
    if (o.train.empty()) {
        throw input_error(
            "recommend: --train FILE is missing, whose entries are left out "
            "as seen; see --help");
    }
    if (!o.out.empty()) run.check_output(o.out, {o.model, o.train});
    const auto train = load_matrix<R>(run, o.train);
    if (!train->sparse) throw input_error(o.train, " is dense: it has no unseen entries");
    const Model<R> model(run, o.model, train, nullptr);
    const std::vector<Index> order = wanted_rows(run.comm, o, model);
    if (run.common.dry_run) return;

    const BlockRowCsr<R> seen = align_with(model, *train).matrix;
    const ScorerRef<R> scorer = model.scorer();
    std::vector<Index> mine = order;
    if (o.out.empty() && std::ssize(mine) > rows_on_screen) mine.resize(rows_on_screen);
    const std::vector<Index> shown = mine;
    const Range own = scorer.layout().rank_rows(run.comm.rank());
    std::erase_if(mine, [&](Index i) { return !own.contains(i); });
    std::ranges::sort(mine);
    mine.erase(std::ranges::unique(mine).begin(), mine.end());
    TopColumns<R> top;
    {
        const auto phase = run.comm.ledger().phase("top columns");
        top = top_columns<R>(scorer, &seen, mine, o.top, run.comm.rank(), run.common.threads);
        run.comm.ledger().add_flops(scorer.flops_per_score() *
                                    static_cast<double>(std::ssize(mine) * scorer.cols()));
    }
    run.digest = digest_of(run.comm, top);
    run.result["rows"] = std::ssize(shown);
    run.result["top"] = o.top;
    if (o.out.empty()) {
        print_picks(run, model, top, shown);
        if (shown.size() < order.size()) {
            run.say(fmt::format("… and {} rows more; --out FILE.csv takes all",
                                order.size() - shown.size()));
        }
        return;
    }
    o.out.ends_with(".h5") ? write_picks(run, o, model, top) : write_csv(run, o, model, top);
    run.say(fmt::format("wrote the best {} columns of {} rows to {}", o.top, shown.size(), o.out));
}

}  // namespace

Action declare_recommend(Options& options) {
    auto o = std::make_shared<RecommendCommand>();
    options.positional("model", o->model, "Factors or network file");
    options.add("train", o->train, "Matrix whose entries are left out as seen");
    options.add("rows", o->rows, "Names of rows, or all");
    options.add("top", o->top, "Columns a row", Accept::between(1, 100000));
    options.add("out", o->out,
                "File to write: FILE.csv (row,place,column,score) or a matrix FILE.h5; else a "
                "table of few rows is printed");
    options.examples(
        "rankfold recommend factors.h5 --train packages.h5 --rows git,vlc --top 5\n"
        "mpirun -n 4 rankfold recommend factors.h5 --train ratings.h5 --out best.csv\n"
        "rankfold recommend network.h5 --train clicks.h5 --top 50 --out best.h5");
    return [o](Run& run) {
        run.common.precision == "float" ? run_recommend<float>(run, *o)
                                        : run_recommend<double>(run, *o);
    };
}

}  // namespace rankfold::cli
