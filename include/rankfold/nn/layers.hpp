// The linear parts of layers: forward, the gradients of their parameters, and of their input.
#pragma once

#include <variant>

#include <rankfold/nn/arena.hpp>
#include <rankfold/nn/graph.hpp>

namespace rankfold {

/// What a linear map keeps of one micro-batch between forward and backward.
template <Real R>
struct MapSpace {
    DenseMatrix<R> inner;    ///< factored: x V (rows x inner)
    DenseMatrix<R> d_inner;  ///< factored: d U (rows x inner), or dᵀ x (out x in) if collapsed
};

// Both maps below have the same functions; x is the micro-batch's input (rows x in), z its linear
// part (rows x out), d the loss's gradient with respect to z. All are const and thread-safe, issue
// GEMMs for one micro-batch or one tile of it, and accept a micro-batch of no rows.

/// z = x Wᵀ.
template <Real R>
class DenseMap {
public:
    DenseMap(Index in, Index out) : in_{in}, out_{out} {}

    void bind(MatrixView<R> weight) { weight_ = weight; }
    void prepare(Index /*rows*/) {}
    void reserve(Index /*rows*/, bool /*training*/, MapSpace<R>& /*space*/) const {}

    void forward(MatrixView<const R> x, MatrixView<R> z, MapSpace<R>& space) const;
    void begin_gradient(MatrixView<const R> /*x*/, MatrixView<const R> /*d*/,
                        MapSpace<R>& /*space*/) const {}
    /// Rows `tile` of the gradient of a part. @pre part == Part::weight
    void gradient(Part part, Range tile, MatrixView<const R> x, MatrixView<const R> d,
                  const MapSpace<R>& space, MatrixView<R> out) const;
    /// dx ← d W + beta dx.
    void input_gradient(MatrixView<const R> d, const MapSpace<R>& space, R beta,
                        MatrixView<R> dx) const;

    [[nodiscard]] double forward_flops(Index rows) const;
    [[nodiscard]] double gradient_flops(Index rows) const { return forward_flops(rows); }
    [[nodiscard]] double input_gradient_flops(Index rows) const { return forward_flops(rows); }

private:
    Index in_;
    Index out_;
    MatrixView<const R> weight_;  // out x in
};

/// z = x V Uᵀ, that is W = U Vᵀ.
///
/// There are two ways to compute it, chosen by prepare() for the lesser work: through the inner
/// dimension, (x V) Uᵀ; or collapsed, x Wᵀ with W formed once a step, whose backward pass goes
/// through dW = dᵀ x. The second makes a first layer on X Yᵀ cheap (V = Yᵀ, inner = n): neither the
/// m x n matrix nor a micro-batch's rows of it are formed.
template <Real R>
class FactoredMap {
public:
    FactoredMap(Index in, Index out, Index inner, bool train_u, bool train_v)
        : in_{in}, out_{out}, inner_{inner}, train_u_{train_u}, train_v_{train_v} {}

    void bind(MatrixView<const R> u, MatrixView<const R> v) {
        u_ = u;
        v_ = v;
    }
    /// Chooses the way for micro-batches of `rows` rows, and forms W if it is the collapsed one.
    void prepare(Index rows);
    void reserve(Index rows, bool training, MapSpace<R>& space) const;

    void forward(MatrixView<const R> x, MatrixView<R> z, MapSpace<R>& space) const;
    void begin_gradient(MatrixView<const R> x, MatrixView<const R> d, MapSpace<R>& space) const;
    void gradient(Part part, Range tile, MatrixView<const R> x, MatrixView<const R> d,
                  const MapSpace<R>& space, MatrixView<R> out) const;
    void input_gradient(MatrixView<const R> d, const MapSpace<R>& space, R beta,
                        MatrixView<R> dx) const;

    [[nodiscard]] bool collapsed() const noexcept { return collapsed_; }
    [[nodiscard]] double forward_flops(Index rows) const;
    [[nodiscard]] double gradient_flops(Index rows) const;
    [[nodiscard]] double input_gradient_flops(Index rows) const;

private:
    Index in_;
    Index out_;
    Index inner_;
    bool train_u_;
    bool train_v_;
    bool collapsed_ = false;
    MatrixView<const R> u_;   // out x inner
    MatrixView<const R> v_;   // in x inner
    DenseMatrix<R> product_;  // out x in, if collapsed
};

template <Real R>
using LinearMap = std::variant<DenseMap<R>, FactoredMap<R>>;

extern template class DenseMap<float>;
extern template class DenseMap<double>;
extern template class FactoredMap<float>;
extern template class FactoredMap<double>;

}  // namespace rankfold
