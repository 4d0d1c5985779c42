// Nonnegative matrix factorization: sparse, dense and incomplete matrices on a grid of ranks.
#pragma once

#include <cstdint>
#include <optional>

#include <rankfold/comm/process_grid.hpp>
#include <rankfold/dist/factors.hpp>
#include <rankfold/dist/grid_matrix.hpp>
#include <rankfold/dist/steering.hpp>
#include <rankfold/linalg/nmf_kernels.hpp>

namespace rankfold {

enum class NmfSolver {
    hals,  ///< hierarchical alternating least squares (Cichocki, Phan, 2009)
    mu,    ///< multiplicative updates (Lee, Seung, 2001)
    bpp,   ///< each side exactly: a HALS update, then block principal pivoting (Kim, Park, 2011)
};

enum class NmfLoss {
    frobenius,         ///< Σ over all pairs of (a − w·h)²; what is not stored is zero
    kullback_leibler,  ///< Σ over all pairs of a log(a / w·h) − a + w·h; by NmfSolver::mu
};

struct NmfOptions {
    Index k = 16;        ///< number of factors
    Index sweeps = 100;  ///< at most; one sweep = a pass over W, then over H
    NmfSolver solver = NmfSolver::hals;
    NmfLoss loss = NmfLoss::frobenius;
    InnerPasses inner{.most = 1, .settle = 0.1};  ///< of HALS over one side's factors
    double tolerance = 0.0;                       ///< stop at this relative KKT residual
    double least_change = 0.0;     ///< stop when a sweep lowers the objective by less, relatively
    double most_seconds = 0.0;     ///< stop after the sweep in which so much time is over; 0: never
    double lambda = 0.0;           ///< given entries only: ridge weight
    double lambda_exponent = 1.0;  ///< ν: λ is scaled by (entries of the row)^ν
    std::optional<GridShape> grid{};  ///< none: the cheapest by nmf_sweep_cost()
    std::uint64_t seed = 1;
    Index threads = 1;  ///< per rank; any number gives the same bits
};

/// Factorises a matrix without negative elements, A ≈ W Hᵀ with W (m x k), H (n x k) >= 0.
///
/// Each half of a sweep holds one factor fixed and forms, for the other, the product V = A H and
/// the Gram matrix HᵀH; HALS then minimises over the factors one after the other, so that the
/// objective never rises. A is held in two-dimensional blocks (see GridMatrix): a sweep moves
/// factor panels only, and its result does not depend on the grid.
///
/// After each sweep `steering` sees the objective (by the Gram trick
/// ‖A‖² − 2⟨AH, W⟩ + ⟨WᵀW, HᵀH⟩), the relative error ‖A − WHᵀ‖ / ‖A‖, and the KKT residual: the
/// norm of the projected gradient, relative to that of the start. With Kullback and Leibler's loss
/// the columns' part of it is that before their update.
///
/// The result is scaled so that the columns w_f and h_f have equal norms, in decreasing order of
/// these; a component that is zero on one side is zero on both. Its certificate holds the
/// objective, computed from the residual itself, the relative error and the KKT residual.
///
/// @param start  W and H to begin with, not negative; null: |normal| · √(mean of A / k)
/// @collective over a.comm(); `options` are the same on all ranks
/// @cost see nmf_sweep_cost()
/// @throws Error (Fault::input), agreed: a negative or non-finite element (its row and column);
///         Error (Fault::check), agreed: the objective is not finite
/// @see Kannan, Ballard, Park, "MPI-FAUN", TKDE 2018; Gillis, Glineur, Neural Computation 2012
template <Real R>
[[nodiscard]] Factors<R> nmf(const BlockRows<R>& a, const NmfOptions& options,
                             const Steering& steering, const Factors<R>* start = nullptr);
template <Real R>
[[nodiscard]] Factors<R> nmf(const BlockRowCsr<R>& a, const NmfOptions& options,
                             const Steering& steering, const Factors<R>* start = nullptr);

/// The same for a matrix of which only the stored entries Ω are known, by HALS:
///
///     Σ_Ω (a − w·h)² + λ Σ n_i^ν ‖w_i‖² + λ Σ n_j^ν ‖h_j‖²,  W, H >= 0
///
/// Every row has a problem of its own, as in als(), so A lies in row blocks and all of the fixed
/// factor comes to every rank. A row or column without entries gets zero factors.
/// @cost per sweep: 8 nnz k · passes flops; (p − 1)/p (m + n) k words received per rank
template <Real R>
[[nodiscard]] Factors<R> nmf_missing(const BlockRowCsr<R>& a, const NmfOptions& options,
                                     const Steering& steering, const Factors<R>* start = nullptr);

/// A start from the truncated singular value decomposition A ≈ U diag(s) Vᵀ: of every pair of
/// singular vectors the positive or the negative parts, whichever weigh more,
///
///     w_f = √(s_f ‖u±‖ ‖v±‖) u± / ‖u±‖,   h_f likewise with v±,
///
/// and the first pair as it is but for its sign. Components beyond min(m, n) start at random.
///
/// @param fill  true: the mean of A takes the place of zeros (NNDSVDa), for updates by
///              multiplication, which leave a zero where it is
/// @return W and H alone
/// @collective over a.comm()
/// @see Boutsidis, Gallopoulos, Pattern Recognition 2008
template <Real R>
[[nodiscard]] Factors<R> nndsvd_start(const BlockRows<R>& a, const NmfOptions& options, bool fill);
template <Real R>
[[nodiscard]] Factors<R> nndsvd_start(const BlockRowCsr<R>& a, const NmfOptions& options,
                                      bool fill);

/// Puts the components in decreasing order of ‖w_f‖ ‖h_f‖. A component that is zero on one side
/// becomes zero on both. @collective
/// @param equal_norms  also makes ‖w_f‖ = ‖h_f‖, which leaves W Hᵀ as it is
template <Real R>
void scale_components(Factors<R>& factors, bool equal_norms);

/// How rows that were not there are folded into a nonnegative factorization.
struct NmfFoldIn {
    NmfLoss loss = NmfLoss::frobenius;
    bool missing = false;          ///< only given entries count
    double lambda = 0.0;           ///< given entries only
    double lambda_exponent = 1.0;  ///< ν
    Index passes = 500;            ///< over the factors of a row, at most
    Index threads = 1;
};

/// The factors that the rows of a matrix get with H held fixed: every row's own problem, solved by
/// repeated passes until they hardly move it.
///
/// @param rows  as many columns as `cols` has rows
/// @return      rows x k, in the layout of `rows`
/// @collective over rows.comm(), which is also that of `cols`
/// @throws Error (Fault::input), agreed: a negative or non-finite element
template <Real R>
[[nodiscard]] BlockRows<R> fold_in_nmf(const BlockRowCsr<R>& rows, const BlockRows<R>& cols,
                                       const NmfFoldIn& options);
template <Real R>
[[nodiscard]] BlockRows<R> fold_in_nmf(const BlockRows<R>& rows, const BlockRows<R>& cols,
                                       const NmfFoldIn& options);

/// An element that no nonnegative factorization takes: negative or not finite.
struct UnfitElement {
    Index row, column;
    double value;
};

/// The first one in the order of rows and columns, known to all ranks. @collective
template <Real R>
[[nodiscard]] std::optional<UnfitElement> first_unfit(const BlockRows<R>& a);
template <Real R>
[[nodiscard]] std::optional<UnfitElement> first_unfit(const BlockRowCsr<R>& a);

/// What is to be said about it. @param row, column  their names, or nothing
[[nodiscard]] Error unfit_error(const std::string& what, const UnfitElement& element,
                                const std::string& row = "", const std::string& column = "");

/// Refuses negative and non-finite elements. @collective
/// @throws Error (Fault::input), agreed: the first one's row, column and value
template <class Matrix>
void require_nonnegative(const Matrix& a, const std::string& what) {
    if (const auto found = first_unfit(a)) throw unfit_error(what, *found);
}

/// The random start: |normal| · √(mean / k), keyed by global row and factor.
/// @param mean  of the matrix, or of its given entries
template <Real R>
void draw_nonnegative(MatrixView<R> factor, Index first_row, Side side, double mean,
                      std::uint64_t seed);

}  // namespace rankfold
