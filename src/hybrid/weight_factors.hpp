// The methods by which one weight matrix becomes a product of two.
#pragma once

#include <rankfold/hybrid/compress.hpp>
#include <rankfold/linalg/lapack.hpp>

namespace rankfold {

/// W ≈ U Vᵀ.
struct Pair {
    DenseMatrix<double> u;  // out x inner
    DenseMatrix<double> v;  // in x inner
};

/// One matrix to be factorised, with what a method wants to know of it.
struct WeightMatrix {
    DenseMatrix<double> w;             ///< out x in
    DenseMatrix<double> moments{};     ///< in x in, or none
    DenseMatrix<double> importance{};  ///< out x in, or none
    std::vector<double> visits{};      ///< c, of every row of a table, or none
    SmallSvd svd{};  ///< of W; for the activation-aware SVD of W C^½, of a table diag(c)^½ W
};

/// Fills `svd` as the method wants it: its values tell what each direction is worth.
void decompose(WeightMatrix& matrix, CompressMethod method);

/// @collective over comm for als
[[nodiscard]] Pair factorize(const Communicator& comm, const WeightMatrix& matrix, Index inner,
                             const CompressOptions& options);

/// ‖W − U Vᵀ‖_F / ‖W‖_F
[[nodiscard]] double relative_error(MatrixView<const double> w, MatrixView<const double> u,
                                    MatrixView<const double> v);

}  // namespace rankfold
