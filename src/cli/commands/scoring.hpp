// What the commands that score rows share: opening models, and matrices in a model's layout.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include <rankfold/cli/network_file.hpp>
#include <rankfold/data/matrix_file.hpp>
#include <rankfold/eval/align.hpp>
#include <rankfold/eval/baselines.hpp>

namespace rankfold::cli {

/// The matrix of a file, from an earlier stage or read. @collective
template <Real R>
[[nodiscard]] std::shared_ptr<const MatrixData<R>> load_matrix(Run& run, const std::string& path);

/// The names at these positions of an axis ("obs" or "var"), on rank 0. @collective
[[nodiscard]] std::vector<std::string> names_on_root(const Communicator& comm, const IdSource& ids,
                                                     const std::string& axis,
                                                     const std::vector<Index>& positions);

/// All names of an axis, to be written with a matrix: on rank 0; nothing if there are none.
/// @collective
[[nodiscard]] std::optional<Names> axis_names(const Communicator& comm, const IdSource& ids,
                                              const std::string& axis);

/// A model file opened for scoring rows. Pinned: the scorer refers to what it holds.
template <Real R>
class Model {
public:
    /// @param seen      what is known of the rows: read by networks on matrix rows; or null
    /// @param labelled  the rows that a network with a head for classes scores; or null
    /// @collective @throws Error (Fault::input), agreed
    /// @param factors   what a network that reads factors reads instead of its own; or null
    Model(Run& run, const std::string& path, std::shared_ptr<const MatrixData<R>> seen,
          std::shared_ptr<const MatrixData<R>> labelled,
          std::shared_ptr<Factors<R>> factors = nullptr);
    ~Model();
    Model(const Model&) = delete;
    Model& operator=(const Model&) = delete;

    /// "als", "svd", … or "mlp": the key of its results.
    [[nodiscard]] const std::string& name() const;
    [[nodiscard]] const std::string& path() const;
    [[nodiscard]] ScorerRef<R> scorer() const;
    /// The network, if it is one; else null.
    [[nodiscard]] const NetworkModel<R>* network() const;
    /// Names of the scorer's rows and columns.
    [[nodiscard]] const IdSource& ids() const;
    /// What it predicts for unknown rows or columns, if it says.
    [[nodiscard]] std::optional<Offsets> offsets() const;
    /// True if it scores the classes of labelled rows: these are the names of its columns then.
    [[nodiscard]] bool classifies() const;
    [[nodiscard]] const std::vector<std::string>& class_names() const;
    /// True if its scores predict values, so that their errors mean something.
    [[nodiscard]] bool rates() const;

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// A sparse matrix in the rows and columns that `names` are of, matched by names where both have
/// them, else by position. @collective
template <Real R>
[[nodiscard]] Aligned<R> align_by_name(const MatrixData<R>& matrix, const IdSource& names,
                                       const ShardLayout& layout, Index cols);

/// The same in the rows and columns of a model. @collective
template <Real R>
[[nodiscard]] Aligned<R> align_with(const Model<R>& model, const MatrixData<R>& matrix);

}  // namespace rankfold::cli
