// rankfold predict: a network applied to rows, as a table, a CSV file or a matrix file.
#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include <rankfold/cli/text_output.hpp>
#include <rankfold/core/hash.hpp>
#include <rankfold/eval/align.hpp>
#include <rankfold/eval/metrics.hpp>

#include "scoring.hpp"

namespace rankfold::cli {

namespace {

struct PredictCommand {
    std::vector<std::string> model;  // the network file, and the matrix if it reads one
    std::vector<std::string> rows{"all"};
    Index top = 10;
    std::string out;
};

/// One prediction as it travels to rank 0.
struct Prediction {
    Index row;
    Index col;
    double value;
};

constexpr Index rows_on_screen = 20;
constexpr Index rows_per_message = 16384;  // bounds what rank 0 holds of a large output

/// What is predicted of a row.
enum class Answer {
    classes,  ///< the probability of every class
    top,      ///< the best columns: their probabilities, or the scores of a network for pairs
    entries,  ///< the rating or the probability of each given entry
};

template <Real R>
class Predictor {
public:
    Predictor(Run& run, const PredictCommand& o)
        : run_{run},
          o_{o},
          data_{o.model.size() > 1 ? load_matrix<R>(run, o.model[1]) : nullptr},
          model_{run, o.model.front(), data_, data_},
          ref_{model_.scorer()},
          head_{head_of(model_)} {
        const bool pairs = model_.network()->input == NetworkInput::indices ||
                           model_.network()->input == NetworkInput::towers;
        if (head_ == Loss::classes) {
            answer_ = Answer::classes;
        } else if ((head_ == Loss::squared || pairs) && data_) {
            answer_ = Answer::entries;
            align_entries();
        }
        wanted_ = wanted_rows();
    }

    void predict();

private:
    [[nodiscard]] static Loss head_of(const Model<R>& model);
    [[nodiscard]] const IdSource& row_ids() const { return model_.ids(); }
    [[nodiscard]] const IdSource& col_ids() const {
        const NetworkModel<R>& network = *model_.network();
        return network.factors ? network.factors->ids : network.ids;
    }
    void align_entries();
    [[nodiscard]] std::vector<Index> wanted_rows() const;
    Index answer_tile(Range tile, std::vector<Prediction>& out) const;
    void answer_row(Index row, std::span<const R> scores, std::vector<Prediction>& out) const;
    void count_flops(Index scores) const {
        run_.comm.ledger().add_flops(ref_.flops_per_score() * static_cast<double>(scores));
    }
    [[nodiscard]] std::vector<Prediction> gather(Range rows);
    [[nodiscard]] std::vector<std::string> all_column_names() const;
    [[nodiscard]] std::string csv_header() const;
    [[nodiscard]] std::string text_of(const std::vector<Prediction>& found, bool csv) const;
    void write_csv();
    void write_matrix_file();
    void print();
    void report_accuracy();

    Run& run_;
    const PredictCommand& o_;
    std::shared_ptr<const MatrixData<R>> data_;
    Model<R> model_;
    ScorerRef<R> ref_;
    Loss head_;
    Answer answer_ = Answer::top;
    std::optional<Aligned<R>> entries_;  // of the data, in the rows and columns of the factors
    std::vector<Index> wanted_;          // increasing
    std::vector<std::string> col_names_;
    std::uint64_t digest_ = 0;  // of this rank's predictions
    Index count_ = 0;
};

/// @throws Error (Fault::input), on all ranks alike, if the model is no network
template <Real R>
Loss Predictor<R>::head_of(const Model<R>& model) {
    if (model.network() != nullptr) return model.network()->head;
    throw input_error(model.path(),
                      " holds factors, and predict applies networks; use `rankfold recommend`");
}

/// Turns outputs into what they stand for: shares of a row, probabilities, or scores as they are.
template <Real R>
void interpret(Loss head, MatrixView<R> outputs) {
    if (head == Loss::classes || head == Loss::distribution) {
        softmax<R>(outputs);
    } else if (head == Loss::logistic || head == Loss::logistic_columns) {
        const std::vector<R> none(static_cast<std::size_t>(outputs.cols), R{0});
        bias_activation<R>(outputs, none, Activation::sigmoid);
    }
}

template <Real R>
void Predictor<R>::align_entries() {
    if (!data_->sparse) {
        throw input_error(data_->file,
                          " is dense; a network for pairs predicts the entries of a "
                          "sparse matrix, or, without one, the best columns of every row");
    }
    entries_ = align_with(model_, *data_);
    const Index strangers = run_.comm.all_reduce(std::ssize(entries_->strangers), Reduce::sum);
    run_.result["unknown_entries"] = strangers;
    if (strangers > 0) {
        run_.say(
            fmt::format("{} entries in rows or columns that the network does not know are "
                        "left out",
                        strangers));
    }
}

/// The rows to be predicted, increasing; the same on all ranks. @collective
template <Real R>
std::vector<Index> Predictor<R>::wanted_rows() const {
    std::vector<Index> rows;
    if (o_.rows == std::vector<std::string>{"all"}) {
        rows.resize(static_cast<std::size_t>(ref_.rows()));
        std::iota(rows.begin(), rows.end(), Index{0});
        return rows;
    }
    for (const std::string& name : o_.rows) {
        rows.push_back(find_name(run_.comm, row_ids(), "obs", name));
        if (rows.back() < 0 || rows.back() >= ref_.rows()) {
            throw input_error("no row is called ", name, " (",
                              row_ids().file.empty() ? o_.model.back() : row_ids().file, ")");
        }
    }
    std::ranges::sort(rows);
    rows.erase(std::ranges::unique(rows).begin(), rows.end());
    return rows;
}

template <Real R>
void Predictor<R>::answer_row(Index row, std::span<const R> scores,
                              std::vector<Prediction>& out) const {
    std::vector<Index> order(scores.size());
    std::iota(order.begin(), order.end(), Index{0});
    if (answer_ == Answer::top) {
        const auto count = std::min<std::ptrdiff_t>(o_.top, std::ssize(order));
        std::partial_sort(order.begin(), order.begin() + count, order.end(), [&](Index a, Index b) {
            const R x = scores[static_cast<std::size_t>(a)];
            const R y = scores[static_cast<std::size_t>(b)];
            return x > y || (x == y && a < b);
        });
        order.resize(static_cast<std::size_t>(count));
    }
    for (const Index j : order) {
        out.push_back({row, j, static_cast<double>(scores[static_cast<std::size_t>(j)])});
    }
}

/// Adds the answers for the wanted rows of a tile of this rank. Thread-safe.
/// @return the number of scores that were computed
template <Real R>
Index Predictor<R>::answer_tile(Range tile, std::vector<Prediction>& out) const {
    const auto first = std::ranges::lower_bound(wanted_, tile.begin);
    const auto last = std::ranges::lower_bound(wanted_, tile.end);
    if (first == last) return 0;
    if (answer_ == Answer::entries) {
        const Index begin = tile.begin - entries_->matrix.first_row();
        const CsrView<R> where =
            entries_->matrix.local().view().row_block({begin, begin + tile.size()});
        std::vector<R> values(static_cast<std::size_t>(where.nnz()));
        ref_.entries(tile, where, values);
        interpret<R>(head_, {values.data(), 1, std::ssize(values)});
        auto value = values.begin();
        for (Index t = 0; t < where.rows; ++t) {
            for (const ColIndex j : where.row_cols(t)) {
                if (std::binary_search(first, last, tile.begin + t)) {
                    out.push_back({tile.begin + t, j, static_cast<double>(*value)});
                }
                ++value;
            }
        }
        return where.nnz();
    }
    DenseMatrix<R> scores(tile.size(), ref_.cols());
    ref_.scores(tile, scores.view());
    interpret<R>(head_, scores.view());
    for (auto row = first; row != last; ++row) {
        answer_row(*row, std::as_const(scores).row(*row - tile.begin), out);
    }
    return tile.size() * ref_.cols();
}

/// The predictions for the wanted rows in `rows`, on rank 0 in order of the rows. @collective
template <Real R>
std::vector<Prediction> Predictor<R>::gather(Range rows) {
    std::vector<Range> tiles = score_tiles(ref_.layout(), run_.comm.rank(), ref_.cols());
    std::erase_if(tiles, [&](Range t) { return t.end <= rows.begin || t.begin >= rows.end; });
    std::vector<std::vector<Prediction>> parts(tiles.size());
    std::vector<Index> computed(tiles.size());
    {
        const auto phase = run_.comm.ledger().phase("predict");
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(run_.common.threads))
        for (std::size_t t = 0; t < tiles.size(); ++t) {
            const Range tile{std::max(tiles[t].begin, rows.begin),
                             std::min(tiles[t].end, rows.end)};
            computed[t] = answer_tile(tile, parts[t]);
        }
        count_flops(std::accumulate(computed.begin(), computed.end(), Index{0}));
    }
    std::vector<Prediction> mine;
    for (const auto& part : parts) mine.insert(mine.end(), part.begin(), part.end());
    const std::uint64_t path = fnv1a("predictions");
    for (const Prediction& p : mine) {
        digest_ += digest_term(digest_bits(static_cast<R>(p.value)), path,
                               static_cast<std::uint64_t>(p.row * ref_.cols() + p.col));
    }
    count_ += std::ssize(mine);
    std::vector<Index> to_root(static_cast<std::size_t>(run_.comm.size()), 0);
    to_root.front() = std::ssize(mine);
    return run_.comm.all_to_all(std::span<const Prediction>(mine), to_root);
}

/// Names of classes or columns, on rank 0. @collective
template <Real R>
std::vector<std::string> Predictor<R>::all_column_names() const {
    if (answer_ == Answer::classes) return model_.class_names();
    std::vector<Index> all(static_cast<std::size_t>(ref_.cols()));
    std::iota(all.begin(), all.end(), Index{0});
    return names_on_root(run_.comm, col_ids(), "var", all);
}

template <Real R>
std::string Predictor<R>::csv_header() const {
    if (answer_ == Answer::entries) return "row,column,prediction\n";
    if (answer_ == Answer::top) return "row,place,column,score\n";
    std::string header = "row,class";
    for (const std::string& name : model_.class_names())
        header += fmt::format(",{}", csv_field(name));
    return header + "\n";
}

/// Lines for these predictions, on rank 0. @collective
template <Real R>
std::string Predictor<R>::text_of(const std::vector<Prediction>& found, bool csv) const {
    std::vector<Index> positions;
    for (const Prediction& p : found) positions.push_back(p.row);
    const auto rows = names_on_root(run_.comm, row_ids(), "obs", positions);
    const auto name = [&](Index j) { return col_names_[static_cast<std::size_t>(j)]; };
    const auto value = [](double x) { return static_cast<R>(x); };
    std::string text;
    for (std::size_t i = 0; i < found.size();) {
        std::size_t end = i;
        while (end < found.size() && found[end].row == found[i].row) ++end;
        const std::span<const Prediction> row(found.data() + i, end - i);
        const std::string who = csv ? csv_field(rows[i]) : rows[i];
        if (answer_ == Answer::classes) {
            const auto& best = *std::ranges::max_element(row, {}, &Prediction::value);
            text += csv ? fmt::format("{},{}", who, csv_field(name(best.col)))
                        : fmt::format("{:<20} {:<20} {:.4f}", who, name(best.col), best.value);
            for (const Prediction& p : row) {
                if (csv) text += fmt::format(",{}", value(p.value));
            }
            text += "\n";
        } else {
            if (!csv) text += who + "\n";
            for (std::size_t e = 0; e < row.size(); ++e) {
                const std::string place =
                    answer_ == Answer::entries ? "" : fmt::format("{}", e + 1);
                if (!csv) {
                    text += fmt::format("  {:>3}  {:<40} {:.4g}\n", place, name(row[e].col),
                                        row[e].value);
                } else {
                    text += fmt::format("{},{}{}{},{}\n", who, place, place.empty() ? "" : ",",
                                        csv_field(name(row[e].col)), value(row[e].value));
                }
            }
        }
        i = end;
    }
    return text;
}

template <Real R>
void Predictor<R>::write_csv() {
    TextFile file(run_.comm, o_.out);
    file.write(csv_header());
    for (Index begin = 0; begin < ref_.rows(); begin += rows_per_message) {
        file.write(text_of(gather({begin, std::min(begin + rows_per_message, ref_.rows())}), true));
    }
    file.finish();
}

/// All rows: a dense matrix of probabilities or scores, or the given entries with their ratings.
template <Real R>
void Predictor<R>::write_matrix_file() {
    MatrixData<R> matrix;
    MatrixExtras extras;
    matrix.ids = row_ids();
    const auto tiles = score_tiles(ref_.layout(), run_.comm.rank(), ref_.cols());
    const auto first = ref_.layout().rank_rows(run_.comm.rank()).begin;
    const auto each_tile = [&](auto work) {
        const auto phase = run_.comm.ledger().phase("predict");
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(run_.common.threads))
        for (std::size_t t = 0; t < tiles.size(); ++t) work(tiles[t]);
        const Index rows = ref_.layout().rank_rows(run_.comm.rank()).size();
        count_flops(entries_ ? entries_->matrix.local().nnz() : rows * ref_.cols());
    };
    if (answer_ == Answer::entries) {
        CsrMatrix<R>& local = entries_->matrix.local();
        each_tile([&](Range tile) {
            const CsrView<R> where = local.view().row_block({tile.begin - first, tile.end - first});
            const std::span<R> values = std::span<R>(local.values)
                                            .subspan(static_cast<std::size_t>(where.row_ptr[0]),
                                                     static_cast<std::size_t>(where.nnz()));
            ref_.entries(tile, where, values);
            interpret<R>(head_, {values.data(), 1, where.nnz()});
        });
        matrix.sparse = std::move(entries_->matrix);
    } else {
        matrix.dense = BlockRows<R>(run_.comm, ref_.layout(), ref_.cols());
        each_tile([&](Range tile) {
            const auto out =
                matrix.dense->local().view().row_block({tile.begin - first, tile.end - first});
            ref_.scores(tile, out);
            interpret<R>(head_, out);
        });
        if (run_.comm.is_root()) extras.col_names = Names{.text = col_names_, .numbers = {}};
    }
    const auto phase = run_.comm.ledger().phase("write");
    write_matrix(o_.out, matrix, extras,
                 {.command = "predict", .options = run_.options.dump(), .input_digest = ""});
    run_.digest = digest_text(matrix.digest);
    count_ =
        matrix.sparse ? matrix.sparse->local().nnz() : std::ssize(matrix.dense->local().data());
}

template <Real R>
void Predictor<R>::print() {
    const std::size_t all = wanted_.size();
    if (std::ssize(wanted_) > rows_on_screen) wanted_.resize(rows_on_screen);
    if (wanted_.empty()) return;
    std::string text = text_of(gather({wanted_.front(), wanted_.back() + 1}), false);
    if (!text.empty()) text.pop_back();
    run_.say(text);
    if (all > wanted_.size()) {
        run_.say(fmt::format("… and {} rows more; --out FILE takes all", all - wanted_.size()));
    }
}

template <Real R>
void Predictor<R>::report_accuracy() {
    if (answer_ != Answer::classes || !data_->labels) return;
    const auto labels = redistribute(*data_->labels, ref_.layout());
    const auto quality = classification_quality(confusion<R>(ref_, labels, run_.common.threads));
    run_.result["accuracy"] = quality.accuracy.value;
    run_.result["accuracy_se"] = quality.accuracy.standard_error;
    run_.say(fmt::format("accuracy {:.4f} ±{:.4f} over {} labelled rows", quality.accuracy.value,
                         quality.accuracy.standard_error, quality.samples));
}

template <Real R>
void Predictor<R>::predict() {
    const bool to_matrix = o_.out.ends_with(".h5");
    if (to_matrix && std::ssize(wanted_) < ref_.rows()) {
        throw input_error("--rows goes with a CSV file or the screen; a matrix file (", o_.out,
                          ") holds all rows");
    }
    if (run_.common.dry_run) return;
    col_names_ = all_column_names();
    if (o_.out.empty()) {
        print();
    } else {
        to_matrix ? write_matrix_file() : write_csv();
    }
    if (!to_matrix) run_.digest = digest_text(run_.comm.all_reduce(digest_, Reduce::sum));
    const Index total = run_.comm.all_reduce(count_, Reduce::sum);
    run_.result["rows"] = std::ssize(wanted_);
    run_.result["predictions"] = total;
    report_accuracy();
    if (!o_.out.empty()) {
        run_.say(
            fmt::format("wrote {} predictions for {} rows to {}", total, wanted_.size(), o_.out));
    }
}

}  // namespace

Action declare_predict(Options& options) {
    auto o = std::make_shared<PredictCommand>();
    options.positional("model", o->model,
                       "Network file, then the matrix that it is applied to (not needed for a "
                       "network that predicts columns or ratings from factors or embeddings)");
    options.add("rows", o->rows, "Names of rows, or all");
    options.add("top", o->top, "Columns a row, where all columns are predicted",
                Accept::between(1, 100000));
    options.add("out", o->out,
                "File to write: FILE.csv, or a matrix FILE.h5 of all predictions; else those of a "
                "few rows are printed");
    options.examples(
        "rankfold predict network.h5 images-test.h5 --rows 1,5,7\n"
        "mpirun -n 4 rankfold predict network.h5 images-test.h5 --out classes.csv\n"
        "rankfold predict ratings-net.h5 test.h5 --out predicted.h5");
    return [o](Run& run) {
        if (o->model.size() > 2) {
            throw input_error("rankfold predict takes one network and at most one matrix");
        }
        if (!o->out.empty()) run.check_output(o->out, o->model);
        run.common.precision == "float" ? Predictor<float>(run, *o).predict()
                                        : Predictor<double>(run, *o).predict();
    };
}

}  // namespace rankfold::cli
