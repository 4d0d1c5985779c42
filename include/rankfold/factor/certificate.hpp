// How good a truncated singular value decomposition is, measured on the matrix itself.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <rankfold/factor/linear_operator.hpp>

namespace rankfold {

/// What was measured about A ≈ U diag(s) Vᵀ. Residuals are relative to s[0] (absolute if it is 0).
struct Certificate {
    double left_residual = 0.0;    ///< max over i of ‖A v_i − s_i u_i‖ / s_0
    double right_residual = 0.0;   ///< max over i of ‖Aᵀ u_i − s_i v_i‖ / s_0
    double u_orthogonality = 0.0;  ///< ‖UᵀU − I‖_F
    double v_orthogonality = 0.0;  ///< ‖VᵀV − I‖_F
    double norm = 0.0;             ///< ‖A‖_F
    double error = 0.0;            ///< ‖A − U diag(s) Vᵀ‖_F
    double spectral_bound = 0.0;  ///< ‖A − U diag(s) Vᵀ‖₂ is below this but for a chance of 1e-8

    /// The greater of both residuals.
    [[nodiscard]] double residual() const { return std::max(left_residual, right_residual); }
    /// ‖A − U diag(s) Vᵀ‖_F / ‖A‖_F; 0 for a zero matrix.
    [[nodiscard]] double relative_error() const { return norm > 0.0 ? error / norm : 0.0; }
    /// All of it under the names that reports and files use.
    [[nodiscard]] std::vector<std::pair<std::string, double>> entries() const;
};

/// Measures U (m x k), s (k, decreasing) and V (n x k) on A, by products that are made for this.
///
/// The error in the Frobenius norm is exact: element by element for a dense A of which little is
/// left, else ‖A‖² − 2 Σ s_i u_i·(A v_i) + ‖U diag(s) Vᵀ‖², whose rounding leaves about 1e-4 ‖A‖ in
/// float and 1e-8 ‖A‖ in double. The bound in the 2-norm is (10 √(2/π) max over 8 of ‖EEᵀE ω‖)^⅓
/// with normal vectors ω and E = A − U diag(s) Vᵀ.
///
/// @param[out] transposed_u  if not null: AᵀU, n x k, which was made on the way
/// @collective over a.comm()
/// @cost two products with k + 8 columns and one with 8
/// @see Halko, Martinsson, Tropp, SIAM Review 53 (2011), lemma 4.1 and its power scheme
template <Real R>
[[nodiscard]] Certificate certify(const OperatorRef<R>& a, const BlockRows<R>& u,
                                  std::span<const double> s, const BlockRows<R>& v,
                                  std::uint64_t seed, Index threads,
                                  BlockRows<R>* transposed_u = nullptr);

}  // namespace rankfold
