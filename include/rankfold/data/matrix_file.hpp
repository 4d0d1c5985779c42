// Matrix files: AnnData's HDF5 layout, sparse or dense, read and written in parallel.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <rankfold/data/provenance.hpp>
#include <rankfold/dist/block_rows.hpp>
#include <rankfold/dist/factors.hpp>

namespace rankfold {

/// A matrix as it comes from a file: sparse or dense, with labels and names where it has them.
///
/// Exactly one of `sparse` and `dense` is set. Row blocks are cost-balanced shards (see
/// ShardLayout), so the layout depends on the data alone.
template <Real R>
struct MatrixData {
    std::optional<BlockRowCsr<R>> sparse;
    std::optional<BlockRows<R>> dense;
    std::optional<BlockRows<Index>> labels;  ///< obs/label, m x 1, in the layout of the rows
    std::vector<std::string> class_names;    ///< of the labels; the same on all ranks
    IdSource ids;                            ///< where the names of rows and columns are
    std::string file;                        ///< where it was read from
    std::uint64_t digest = 0;                ///< of X as stored

    [[nodiscard]] Index rows() const { return sparse ? sparse->rows() : dense->rows(); }
    [[nodiscard]] Index cols() const { return sparse ? sparse->cols() : dense->cols(); }
    /// Stored entries; all m x n of a dense matrix.
    [[nodiscard]] Index entries() const { return sparse ? sparse->nnz() : rows() * cols(); }
    [[nodiscard]] const ShardLayout& layout() const {
        return sparse ? sparse->layout() : dense->layout();
    }
    [[nodiscard]] const Communicator& comm() const {
        return sparse ? sparse->comm() : dense->comm();
    }
};

/// Reads a matrix file, each rank its own rows, and validates all of it: layout, monotone indptr,
/// indices in range and increasing in each row, finite values, no reference to other files.
///
/// Values stored in another precision (or as bytes) are converted to R. AnnData's csr_matrix,
/// csc_matrix (transposed on the way) and dense arrays are read; rows whose columns are in disorder
/// are sorted, labels may be integers or a categorical column.
/// @collective over comm
/// @throws Error (Fault::input), agreed: what is wrong, in which file and dataset, at which row
template <Real R>
[[nodiscard]] MatrixData<R> read_matrix(const Communicator& comm, const std::string& path);

/// The least and the greatest given value. @collective over the matrix's communicator
template <Real R>
[[nodiscard]] std::pair<double, double> value_range(const MatrixData<R>& matrix);

/// A dataset with one integer an entry that stands beside X, e.g. "X/time": this rank's part, in
/// the order of its entries; nothing if the file has none (or the matrix is dense).
/// @collective over the matrix's communicator
/// @throws Error (Fault::input), agreed: of another length, or not integers
template <Real R>
[[nodiscard]] std::optional<std::vector<std::int64_t>> read_per_entry(const MatrixData<R>& matrix,
                                                                      const std::string& dataset);

/// Names to be written with a matrix that is being made: of all rows or of all columns. Only rank
/// 0's copy counts. Integer names are kept as numbers beside their text.
struct Names {
    std::vector<std::string> text{};
    std::vector<std::int64_t> numbers{};  ///< instead of text, when names are integers
};

/// What may stand beside X in a matrix file that is being written.
struct MatrixExtras {
    std::optional<Names> row_names;  ///< else copied from the matrix's ids, else 0 … m − 1
    std::optional<Names> col_names;
    /// Further datasets with one element an entry, e.g. "X/time" or "X/fold": this rank's part, in
    /// the order of its entries.
    std::vector<std::pair<std::string, std::vector<std::int64_t>>> per_entry;
};

/// Writes a matrix file beside its final name, verifies it and renames it (see write_state).
/// Values are stored as R; a dense matrix as bytes if `as_bytes` (all values 0 … 255, integers).
/// @collective over the matrix's communicator; sets matrix.file, matrix.ids and matrix.digest
/// @throws Error (Fault::system), agreed: no file stands under the final name then
template <Real R>
void write_matrix(const std::string& path, MatrixData<R>& matrix, const MatrixExtras& extras,
                  const Provenance& provenance, bool as_bytes = false);

/// For two files that describe the same kind of rows (or columns): the position in `to` of every
/// name of `from`, −1 for a name that `to` does not have. Files without names match by position.
///
/// @param axis     "obs" for rows, "var" for columns
/// @param count    elements of `from`
/// @param to_axis  of `to`, if it is the other one: features of columns are rows of their own file
/// @return empty if the names are the same in the same order (the usual case: nothing to map);
///         else one element per name of `from`, the same on all ranks
/// @collective over comm
[[nodiscard]] std::vector<Index> match_names(const Communicator& comm, const IdSource& from,
                                             const IdSource& to, const std::string& axis,
                                             Index count, Index to_count,
                                             const std::string& to_axis = {});

/// The names at these positions of an axis, on rank 0 (empty on the others); positions as decimal
/// text where the source has no names. Not collective: rank 0 alone reads.
[[nodiscard]] std::vector<std::string> read_names(const Communicator& comm, const IdSource& ids,
                                                  const std::string& axis,
                                                  const std::vector<Index>& positions);

/// The position of a name, or −1. Rank 0 reads; the same on all ranks. @collective over comm
[[nodiscard]] Index find_name(const Communicator& comm, const IdSource& ids,
                              const std::string& axis, const std::string& name);

}  // namespace rankfold
