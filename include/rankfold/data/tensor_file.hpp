// Files of tensors: factors, networks and checkpoints.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include <rankfold/data/provenance.hpp>
#include <rankfold/dist/factors.hpp>
#include <rankfold/dist/tensor_list.hpp>

namespace rankfold {

/// Where the names of columns are: in var, or in obs of a file whose rows they are.
struct ColumnIds {
    IdSource ids{};
    std::string axis = "var";
};

/// What stands in a file of tensors besides its tensors. Groups are paths without leading slash;
/// the root is "".
struct FileNotes {
    /// "factors", "network" or "checkpoint"
    std::string kind{};
    /// Attributes of each group as the text of a JSON object: numbers and strings become attributes
    /// of their type, nested values their JSON text.
    std::map<std::string, std::string> attributes{};
    /// A table under <group>/history, with its column names.
    std::map<std::string, History> histories{};
    /// obs and var groups copied from the source into the group.
    std::map<std::string, IdSource> ids{};
    /// The source of a group's var, where it is another than that of obs.
    std::map<std::string, ColumnIds> col_ids{};
};

/// Writes a file of tensors, each rank its own part.
///
/// The file is written beside its final name in independent slices of at most 1 GiB (collective
/// writes of this HDF5 hide a full disk), flushed, closed, read back and compared by checksum, and
/// renamed; what stood under the name before is replaced only then. Attributes, names and
/// histories (variable-length, which HDF5 1.10 refuses under MPI) are written by rank 0 between.
///
/// @collective over comm
/// @throws Error (Fault::system), agreed: the first reason and its rank; the temporary file is gone
void write_state(const Communicator& comm, const std::string& path, const TensorList& state,
                 const FileNotes& notes, const Provenance& provenance);

/// Reads files written by write_state, validating as it goes.
class StateFile {
public:
    /// Opens and checks the file. @collective over comm
    /// @throws Error (Fault::input), agreed: absent, not HDF5, truncated, not of a known kind
    StateFile(const Communicator& comm, const std::string& path);
    ~StateFile();
    StateFile(const StateFile&) = delete;
    StateFile& operator=(const StateFile&) = delete;

    [[nodiscard]] const std::string& kind() const;
    [[nodiscard]] const std::string& path() const;
    /// The attributes of a group as the text of a JSON object; "{}" if there is no such group.
    [[nodiscard]] std::string attributes(const std::string& group = "") const;
    [[nodiscard]] bool has(const std::string& tensor) const;
    /// Shape of a tensor. @throws Error (Fault::input) if absent
    [[nodiscard]] std::vector<Index> shape(const std::string& tensor) const;
    /// The checksum that was written beside a tensor, digest_text() of its digest alone; or empty.
    [[nodiscard]] std::string checksum(const std::string& tensor) const;
    /// Paths of all numeric tensors (history and names left out), sorted.
    [[nodiscard]] std::vector<std::string> tensors() const;
    [[nodiscard]] History history(const std::string& group = "") const;
    /// Where the names are, if the group has obs or var.
    [[nodiscard]] IdSource ids(const std::string& group = "") const;

    /// Fills every tensor of `state` from the file, each rank its own part (all of a replicated
    /// one), converting the precision. @collective over comm
    /// @throws Error (Fault::input), agreed: absent, other shape, not finite
    void read(TensorList& state) const;

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// Factors from a factors file, or from the group `factors` of a network file; rows and columns in
/// even shards. @collective over comm @throws Error (Fault::input), agreed
template <Real R>
[[nodiscard]] Factors<R> read_factors(const Communicator& comm, const std::string& path);

/// Tensors that a file holds besides its own, and attributes of their groups as JSON texts.
struct MoreTensors {
    TensorList list{};
    std::map<std::string, std::string> attributes{};

    /// Adds them to what is to be written.
    void append_to(TensorList& state, FileNotes& notes) const;
};

/// Writes a factors file. @collective over the factors' communicator
/// @param col_ids  where the names of the columns are, if not in factors.ids
template <Real R>
void write_factors(const std::string& path, Factors<R>& factors, const Provenance& provenance,
                   const std::optional<ColumnIds>& col_ids = std::nullopt,
                   const MoreTensors& more = {});

/// What FileNotes must hold for `factors` to stand under `group` ("" or "factors").
template <Real R>
void note_factors(FileNotes& notes, const std::string& group, const Factors<R>& factors);

/// The kind of a rankfold file ("matrix", "factors", …; "matrix" also for an AnnData file), agreed.
/// @collective over comm @throws Error (Fault::input), agreed: not such a file
[[nodiscard]] std::string file_kind(const Communicator& comm, const std::string& path);

}  // namespace rankfold
