// Files of other programs as matrices.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <rankfold/data/entries.hpp>
#include <rankfold/data/matrix_file.hpp>

namespace rankfold {

/// How a source is written. `automatic` tells by its first bytes and lines.
enum class Format { automatic, csv, tsv, movielens, matrix_market, npy, idx, ncf, table, text };

/// What a value becomes (after the shift): itself, 1, log(1 + value), or, for sparse matrices,
/// value · (1 + ln((1 + rows) / (1 + rows that have the column))), each row scaled to length 1;
/// with
/// --ids the rows of that file are counted.
enum class ValueRule { as_is, binary, log1p, tfidf };

/// Whether the first line of a text names its columns. `automatic`: it does if it has no number
/// where the next line has one.
enum class Heading { automatic, yes, no };

/// How sources are to be read.
struct ImportOptions {
    std::vector<std::string> sources{};
    Format format = Format::automatic;
    Heading heading = Heading::automatic;
    std::vector<std::string> labels{};  ///< files with one label a row: IDX or text
    std::string label_column{};         ///< of a table or text: "first", "last", or a number from 1
    std::vector<Index> drop_columns{};  ///< of a table: numbers from 1
    std::optional<std::string> missing{};  ///< of a table: this field is no entry
    double shift = 0.0;                    ///< added to every value
    ValueRule value = ValueRule::as_is;
    Duplicates duplicates = Duplicates::error;
    Index least_documents = 2;  ///< of a text: words in fewer documents are left out
    std::string ids{};          ///< matrix file whose names (and classes) are taken over
    bool extend_ids = false;    ///< names it does not have are put behind, not left out
    std::string fold_file{};    ///< of triplets: a file with one integer a line, kept as X/fold
    std::string row_ids{};      ///< text files with one name a line
    std::string col_ids{};
};

/// What came out of the sources, for the user: nothing is dropped without being counted here.
struct ImportCounts {
    std::vector<std::string> formats;  ///< one a source, as recognised
    Index lines = 0;                   ///< of data
    Index comments = 0;                ///< lines at the top that begin with # (or %)
    Index headings = 0;                ///< lines that name columns
    Index duplicates = 0;              ///< entries that were merged into another
    Index missing = 0;                 ///< fields of a table that are no entry
    Index unknown_rows = 0;            ///< distinct row ids not among the given ones
    Index unknown_cols = 0;
    Index left_out = 0;  ///< entries left out because of these
};

/// A matrix made of sources, ready for write_matrix.
template <Real R>
struct Imported {
    MatrixData<R> matrix;
    MatrixExtras extras;
    bool as_bytes = false;  ///< dense, and all sources hold bytes
    ImportCounts counts;
};

/// Reads the sources, each rank its part, and joins them: triplets by their ids, sources whose rows
/// stand in order (tables, arrays, MatrixMarket) one below the other.
///
/// Rows and columns of triplets are sorted by id: integers by value, other ids by their bytes. The
/// result does not depend on the number of ranks.
/// @collective over comm
/// @throws Error (Fault::input), agreed: file, line and what is wrong
template <Real R>
[[nodiscard]] Imported<R> import_matrix(const Communicator& comm, const ImportOptions& options);

/// Opens the sources and looks at their first lines, without reading them.
/// @collective over comm @throws Error (Fault::input), agreed: what import_matrix would say first
void check_sources(const Communicator& comm, const ImportOptions& options);

/// The values of these enumerations by their names on the command line ("matrix-market", "as-is").
/// @throws Error (Fault::input) for an unknown name
[[nodiscard]] Format format_named(const std::string& name);
[[nodiscard]] ValueRule value_rule_named(const std::string& name);
[[nodiscard]] Duplicates duplicates_named(const std::string& name);
[[nodiscard]] Heading heading_named(const std::string& name);
[[nodiscard]] std::string format_name(Format format);

}  // namespace rankfold
