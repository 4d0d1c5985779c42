// Rows with fewer entries than factors, solved in the space of their entries.
#pragma once

#include <limits>
#include <vector>

#include <rankfold/linalg/cholesky_batch.hpp>

namespace rankfold {

/// Solves ridge problems of n observations, n < k, by their n x n dual systems:
///
///     min_x  Σ_e (s_e x·y_e − t_e)² + ρ ‖x‖²,    x = Σ_e s_e z_e y_e,    (S Y Yᵀ S + ρ I) z = t
///
/// The systems are solved a batch at a time, in batches of their own for every size, n rounded up
/// to a step; what a row gets does not depend on the rows around it. One per thread.
///
/// @cost n² k + n³/3 flops a row, where its k x k system costs n k² + k³/3
/// @see Saunders, Gammerman, Vovk, "Ridge regression learning algorithm in dual variables", ICML
///      1998
template <Real R>
class DualSystems {
public:
    explicit DualSystems(Index k);

    /// Whether a row of n entries is solved faster this way: n up to 3/4 k.
    [[nodiscard]] bool pays(Index n) const noexcept { return n <= step_ * std::ssize(sizes_); }

    /// Begins with this fixed side, borrowed until finish().
    void begin(MatrixView<const R> y);

    /// The observations of the row that add() takes next: s and t, to be written by the caller.
    struct Observations {
        std::span<R> s;
        std::span<R> t;
    };
    /// @pre pays(n), n > 0
    [[nodiscard]] Observations next(Index n);

    /// Takes the row whose observations were written last. x holds its solution after finish().
    /// @param cols   the rows y_e, borrowed until finish()
    /// @param ridge  ρ > 0
    /// @param index  of the row, for first_bad()
    void add(std::span<const ColIndex> cols, R ridge, Index index, std::span<R> x,
             const Upcoming<R>& upcoming);

    void finish();

    /// The least index of a row since begin() whose system was not positive definite, or none.
    [[nodiscard]] Index first_bad() const noexcept { return first_bad_; }

private:
    struct Pending {
        std::span<const ColIndex> cols;
        Index index;
        std::span<R> x;
    };
    struct Size {
        CholeskyBatch<R> batch;
        DenseMatrix<R> scales;  // s of every system
        std::vector<Pending> pending;
    };

    [[nodiscard]] Size& size_of(Index n);
    void solve(Size& size);

    Index k_;
    Index step_;
    MatrixView<const R> y_{};
    Index first_bad_ = std::numeric_limits<Index>::max();
    std::vector<Size> sizes_;   // of 1, 2, … steps
    AlignedVector<R> columns_;  // S Y transposed, some factors of it at a time
    DenseMatrix<R> panel_;      // gathered rows
    AlignedVector<R> weights_;  // s z
    AlignedVector<R> solution_;
};

extern template class DualSystems<float>;
extern template class DualSystems<double>;

}  // namespace rankfold
