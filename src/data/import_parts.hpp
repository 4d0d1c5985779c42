// What the readers of single sources give to the import, and share.
#pragma once

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include <rankfold/data/id_table.hpp>
#include <rankfold/data/import.hpp>
#include <rankfold/data/text_reader.hpp>

namespace rankfold {

/// What the first lines of a source say about it; the same on all ranks.
struct SourcePlan {
    Format format = Format::automatic;
    Delimiter delimiter;
    Index skip_bytes = 0;  ///< before the first line of data
    Index skip_lines = 0;
    Index comments = 0;
    std::vector<std::string> heading;  ///< the fields of the line that names the columns, if any
    std::vector<std::string> first;    ///< the fields of the first line of data
};

/// Looks at the first lines. @collective @throws Error (Fault::input), agreed
[[nodiscard]] SourcePlan plan_source(const ByteFile& file, const ImportOptions& options);

/// The role of each field of a table's lines.
struct TableColumns {
    static constexpr Index dropped = -1;
    static constexpr Index label = -2;
    std::vector<Index> role;  ///< column of the matrix, or one of these
    Index cols = 0;
};
[[nodiscard]] TableColumns table_columns(const ImportOptions& options, Index fields,
                                         const std::string& path);

/// Triplets as this rank read them: local codes of their ids.
struct TripletPart {
    std::vector<ColIndex> rows;
    std::vector<ColIndex> cols;
    std::vector<double> values;
    std::vector<std::int64_t> times;  ///< as long as the others if the source has times
    std::vector<Index> folds;         ///< likewise if a file of folds was given
};

/// Rows that stand in order in a source: consecutive over the ranks, from `first` on.
template <Real R>
struct DensePart {
    Index first = 0;  ///< of rank 0's rows, in the joined matrix
    Index rows = 0;   ///< this rank's
    std::vector<R> values;
};

/// Labels of rows in order, consecutive over the ranks.
struct LabelPart {
    Index first = 0;
    std::vector<ColIndex> codes;
};

/// Everything that the sources gave so far.
template <Real R>
struct Collected {
    ImportCounts counts;
    IdTable row_ids;
    IdTable col_ids;
    std::vector<TripletPart> triplets;
    /// Words of text documents, by local codes: of each source, document by document.
    std::vector<std::vector<Entry>> documents;
    std::vector<std::vector<Entry>> entries;  ///< of sources whose rows stand in order
    std::vector<DensePart<R>> dense;
    bool bytes = true;  ///< all dense sources hold bytes
    Index rows = 0;     ///< of sources whose rows stand in order; global
    Index cols = 0;
    std::vector<std::string> col_names;  ///< from a table's first line
    IdTable classes;
    std::vector<LabelPart> labels;

    /// Takes note of the columns of a source with rows in order.
    void expect_cols(Index found, const std::string& path) {
        if (cols == 0) cols = found;
        if (cols != found) {
            throw input_error("'", path, "' has ", found,
                              " columns where the sources before it have ", cols,
                              "; sources that are joined must agree");
        }
    }
};

/// Applies --shift and --value. False if the result is not a number.
[[nodiscard]] inline bool transform(double& value, const ImportOptions& options) {
    value += options.shift;
    if (options.value == ValueRule::binary) value = 1.0;
    if (options.value == ValueRule::log1p) value = value > -1.0 ? std::log1p(value) : NAN;
    return std::isfinite(value);
}

// One reader a kind of source; all collective over file.comm().
template <Real R>
void read_triplets(const ByteFile& file, const SourcePlan& plan, const ImportOptions& options,
                   Collected<R>& collected);
template <Real R>
void read_negatives(const ByteFile& file, const SourcePlan& plan, const ImportOptions& options,
                    Collected<R>& collected);
template <Real R>
void read_matrix_market(const ByteFile& file, const ImportOptions& options,
                        Collected<R>& collected);
/// A text with one document a line; of its fields between tabs all but the label are words.
template <Real R>
void read_documents(const ByteFile& file, const SourcePlan& plan, const ImportOptions& options,
                    Collected<R>& collected);
/// The words of all documents as entries, counted later by adding duplicates up. Sets their names.
template <Real R>
void number_words(const Communicator& comm, const ImportOptions& options,
                  const std::optional<Names>& known, Collected<R>& collected,
                  std::optional<Names>& names);
/// ValueRule::tfidf, with the columns' rarity as in `learnt`, or in the matrix itself if it is
/// null.
template <Real R>
void weigh_by_rarity(BlockRowCsr<R>& a, const BlockRowCsr<R>* learnt);
template <Real R>
void read_table(const ByteFile& file, const SourcePlan& plan, const ImportOptions& options,
                Collected<R>& collected);
/// NumPy's .npy or an IDX file.
template <Real R>
void read_array(const ByteFile& file, Format format, const ImportOptions& options,
                Collected<R>& collected);
/// A file of labels, IDX or text, one a row.
void read_labels(const ByteFile& file, Index first, IdTable& classes, LabelPart& labels);

}  // namespace rankfold
