// What every factorization gives: the factors and what is needed to use them.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <rankfold/dist/block_rows.hpp>
#include <rankfold/dist/tensor_list.hpp>

namespace rankfold {

/// A table of numbers per step (sweep, epoch); rows.size() steps with columns.size() numbers.
struct History {
    std::vector<std::string> columns;
    std::vector<std::vector<double>> rows;
};

/// Where the names of rows and columns are: the `obs` and `var` groups of a matrix file, or of the
/// part `group` of another file. Names are not held in memory; files that are written copy them.
struct IdSource {
    std::string file;   ///< empty: rows and columns have no names but their index
    std::string group;  ///< "/" or a group of a factors or network file
};

/// Factors of an m x n matrix:
///
///     score(i, j) = global_mean + row_bias_i + col_bias_j + column_mean_j
///                 + Σ_f row_factors[i, f] · s_f · col_factors[j, f]
///
/// with s = singular_values where they stand, else 1. rows and cols are distributed over the same
/// communicator; what is absent counts as 0.
template <Real R>
struct Factors {
    BlockRows<R> rows;                        ///< m x k
    BlockRows<R> cols;                        ///< n x k
    std::vector<R> singular_values;           ///< k or empty; the same on all ranks
    std::optional<BlockRows<R>> row_bias;     ///< m x 1
    std::optional<BlockRows<R>> col_bias;     ///< n x 1
    std::optional<BlockRows<R>> column_mean;  ///< n x 1
    double global_mean = 0.0;

    std::string method;  ///< als-explicit, als-implicit, svd, pca, nmf, deepmf
    /// How exactly they solve their problem, by the method's own measures, e.g. {"residual", 1e-6}.
    std::vector<std::pair<std::string, double>> certificate;
    std::string options;  ///< the whole objective as JSON, so that fold-in needs no options
    IdSource ids;
    History history;

    [[nodiscard]] Index k() const noexcept { return rows.cols(); }

    /// The numeric tensors under their paths in a factors file, each preceded by `prefix`.
    [[nodiscard]] TensorList tensors(const std::string& prefix = "");
};

}  // namespace rankfold
