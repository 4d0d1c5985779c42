// A state as a list of named tensors: files, checkpoints and digests all walk it.
#pragma once

#include <map>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include <rankfold/dist/block_rows.hpp>

namespace rankfold {

/// The element types that tensors may have, as views of this rank's part.
using TensorData = std::variant<std::span<float>, std::span<double>, std::span<std::int32_t>,
                                std::span<std::int64_t>, std::span<std::uint8_t>>;

/// One tensor of a state: its path in a file, its global shape, and this rank's rows of it.
struct Tensor {
    std::string path;          ///< e.g. "row_factors" or "layers/hidden1/weight"
    std::vector<Index> shape;  ///< global; one or two dimensions
    Range local;               ///< the part of the first dimension that `data` holds
    TensorData data;           ///< local.size() x shape[1], row-major
    bool replicated = false;   ///< every rank holds the whole (local covers all); rank 0 writes it
};

/// A state: tensors with views into somebody else's memory, and named numbers.
///
/// The views are mutable so that a checkpoint can be read into the state it was taken from; whoever
/// only reads takes a const TensorList. Scalars are the same on all ranks.
struct TensorList {
    std::vector<Tensor> tensors;
    std::map<std::string, double> scalars;

    /// Adds a distributed dense matrix (m x n; m alone when n == 1 and `vector` is set).
    template <class T>
    void add(std::string path, BlockRows<T>& matrix, bool vector = false);
    /// Adds a tensor that every rank holds whole.
    template <class T>
    void add_replicated(std::string path, std::vector<Index> shape, std::span<T> data);
    /// Adds a vector of which this rank holds elements [first, first + data.size()).
    template <class T>
    void add_part(std::string path, Index total, Index first, std::span<T> data);
};

/// What this rank's part of a tensor adds to the digest of a state; 0 on other ranks than 0 if it
/// is replicated.
[[nodiscard]] std::uint64_t local_digest(const Communicator& comm, const Tensor& tensor);

/// The digest of a state: Σ mod 2^64 over all elements of all tensors of digest_term(bits, path,
/// global linear index). Equal states have equal digests on any number of ranks; scalars do not
/// count. @collective over comm
[[nodiscard]] std::uint64_t digest(const Communicator& comm, const TensorList& state);

/// A digest as 16 hexadecimal digits.
[[nodiscard]] std::string digest_text(std::uint64_t digest);

/// True on all ranks if every floating point element of every tensor is finite. @collective
[[nodiscard]] bool all_finite(const Communicator& comm, const TensorList& state);

}  // namespace rankfold
