// A trained network with all that is needed to use it, and the file that holds it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <rankfold/cli/run.hpp>
#include <rankfold/data/matrix_file.hpp>
#include <rankfold/data/tensor_file.hpp>
#include <rankfold/nn/factor_inputs.hpp>
#include <rankfold/nn/network_scorer.hpp>

namespace rankfold::cli {

/// What a network reads.
enum class NetworkInput {
    matrix,          ///< the rows of a matrix
    factors,         ///< row_features(); for ratings beside them col_features()
    reconstruction,  ///< the rows of X Yᵀ, through a first layer that is factored by Y
    indices,         ///< indices of a row and a column, through embeddings of its own
    towers,          ///< what deepmf's towers read: its outputs are the factors beside it
};

/// Names in files and options: matrix, factors, reconstruction, indices, towers.
[[nodiscard]] std::string input_name(NetworkInput input);
/// @throws Error (Fault::input), on all ranks alike, if there is none of this name
[[nodiscard]] NetworkInput input_of_name(const std::string& name);

/// A network, its head, what it reads, and the factors that it reads from.
template <Real R>
struct NetworkModel {
    Loss head;
    NetworkInput input;
    double scale = 1.0;      ///< of the rows that it reads
    double col_scale = 1.0;  ///< ratings: of the columns' part
    std::vector<std::string> class_names;
    Network<R> network;
    std::shared_ptr<Factors<R>> factors;  ///< unless it reads a matrix
    IdSource ids;                         ///< names of the training matrix's rows and columns
    History history;
    ColumnScale<R> standard{};  ///< if not empty: rows are standardised by it, not scaled

    /// Parameters and factors under their paths in a network file.
    [[nodiscard]] TensorList tensors();
};

/// Writes a network file. @collective over comm
template <Real R>
void write_network(const Communicator& comm, const std::string& path, NetworkModel<R>& model,
                   const Provenance& provenance, const MoreTensors& more = {});

/// Refuses a graph whose layers are not those of the file before any memory is taken for it.
/// @param prefix  of the tensors' paths
/// @throws Error (Fault::input), agreed
void check_shapes(const StateFile& file, const Graph& graph, const std::string& prefix = "");

/// The network of a file, from an earlier stage or read. @collective
/// @throws Error (Fault::input), agreed: not a network file, or one that does not fit together
template <Real R>
[[nodiscard]] std::shared_ptr<NetworkModel<R>> load_network(Run& run, const std::string& path);

/// Brings the factors' external part of a network's first layer into it: see NetworkInput.
/// @collective over the factors' communicator
template <Real R>
void attach_factors(NetworkModel<R>& model);

/// What row i of `data` is in the factors: a row's position for every row of data.layout() on this
/// rank. Matched by names where both have them, else by position.
/// @collective @throws Error (Fault::input), agreed: a row that the factors do not have
template <Real R>
[[nodiscard]] std::vector<Index> rows_in_factors(const MatrixData<R>& data,
                                                 const Factors<R>& factors);

/// True if the scores are those of the factors plus what the network says of a pair: head rating on
/// indices, as `hybrid --form joint` makes them.
template <Real R>
[[nodiscard]] bool is_residual(const NetworkModel<R>& model) {
    return model.input == NetworkInput::indices && model.head == Loss::squared;
}

/// True if the network alone scores pairs of row and column indices, as `hybrid --form neumf` makes
/// them.
template <Real R>
[[nodiscard]] bool scores_pairs(const NetworkModel<R>& model) {
    return model.head == Loss::logistic || model.head == Loss::ranking;
}

/// True if the network's scores are of rows of a matrix that must be given: one that reads a
/// matrix, or that tells the classes of labelled rows. Else they are of the factors' rows.
template <Real R>
[[nodiscard]] bool needs_data(const NetworkModel<R>& model) {
    return model.input == NetworkInput::matrix || model.head == Loss::classes;
}

/// The scorer of a network; `model` and its communicator must outlive it.
/// @param data  the matrix whose rows are scored if needs_data(model); else ignored
/// @collective @throws Error (Fault::input), agreed: `data` is missing or of another width
template <Real R>
[[nodiscard]] NetworkScorer<R> network_scorer(NetworkModel<R>& model, const MatrixData<R>* data);

}  // namespace rankfold::cli
