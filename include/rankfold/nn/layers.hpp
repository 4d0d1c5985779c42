// The linear parts of layers: forward, the gradients of their parameters, and of their input.
#pragma once

#include <variant>

#include <rankfold/nn/arena.hpp>
#include <rankfold/nn/graph.hpp>
#include <rankfold/nn/products.hpp>

namespace rankfold {

/// What a linear map keeps of a batch between forward and backward.
template <Real R>
struct MapSpace {
    DenseMatrix<R> inner;                    ///< factored: x V (rows x inner)
    DenseMatrix<R> d_inner;                  ///< factored: d U (rows x inner)
    std::vector<DenseMatrix<R>> d_products;  ///< collapsed: dᵀ x (out x in) of every block
};

/// The gradients of a parameter that are asked for: one a node of blocks (see block_products()).
template <Real R>
struct GradientRequest {
    std::span<const Index> ends;   ///< of the blocks among the rows
    std::span<const Range> nodes;  ///< of blocks
    std::span<R* const> out;       ///< the whole parameter, for each node
    bool add = false;              ///< to what stands there; for nodes of one block only
};

// Both maps below have the same functions; x is the batch's input (rows x in), z its output (rows x
// out), d the loss's gradient with respect to the linear part. All but bind() and prepare() are
// const and thread-safe on different spaces, and accept a batch of no rows.

/// Linear part x Wᵀ.
template <Real R>
class DenseMap {
public:
    DenseMap(Index in, Index out) : in_{in}, out_{out} {}

    void bind(MatrixView<R> weight) { weight_ = weight; }
    void prepare(Index /*rows*/) {}
    void reserve(Index /*rows*/, Index /*blocks*/, MapSpace<R>& /*space*/) const {}

    void forward(MatrixView<const R> x, const Epilogue<R>& epilogue, MatrixView<R> z,
                 MapSpace<R>& space, ProductSpace<R>& products) const;
    void begin_gradient(MatrixView<const R> /*x*/, MatrixView<const R> /*d*/,
                        std::span<const Index> /*ends*/, MapSpace<R>& /*space*/,
                        ProductSpace<R>& /*products*/) const {}
    /// @pre part == Part::weight
    void gradient(Part part, MatrixView<const R> x, MatrixView<const R> d,
                  const GradientRequest<R>& request, MapSpace<R>& space,
                  ProductSpace<R>& products) const;
    /// dx ← epilogue(d W).
    void input_gradient(MatrixView<const R> d, const Epilogue<R>& epilogue, MatrixView<R> dx,
                        MapSpace<R>& space, ProductSpace<R>& products) const;

    [[nodiscard]] double forward_flops(Index rows) const;
    [[nodiscard]] double gradient_flops(Index rows) const { return forward_flops(rows); }
    [[nodiscard]] double input_gradient_flops(Index rows) const { return forward_flops(rows); }

private:
    Index in_;
    Index out_;
    MatrixView<const R> weight_;  // out x in
};

/// Linear part x V Uᵀ, that is W = U Vᵀ.
///
/// There are two ways to compute it, chosen by prepare() for the lesser work: through the inner
/// dimension, (x V) Uᵀ; or collapsed, x Wᵀ with W formed once a step, whose backward pass goes
/// through dW = dᵀ x. The second makes a first layer on X Yᵀ cheap (V = Yᵀ, inner = n): neither the
/// m x n matrix nor a batch's rows of it are formed.
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
    /// @param blocks  of a batch in training; 0 for inference
    void reserve(Index rows, Index blocks, MapSpace<R>& space) const;

    void forward(MatrixView<const R> x, const Epilogue<R>& epilogue, MatrixView<R> z,
                 MapSpace<R>& space, ProductSpace<R>& products) const;
    void begin_gradient(MatrixView<const R> x, MatrixView<const R> d, std::span<const Index> ends,
                        MapSpace<R>& space, ProductSpace<R>& products) const;
    void gradient(Part part, MatrixView<const R> x, MatrixView<const R> d,
                  const GradientRequest<R>& request, MapSpace<R>& space,
                  ProductSpace<R>& products) const;
    void input_gradient(MatrixView<const R> d, const Epilogue<R>& epilogue, MatrixView<R> dx,
                        MapSpace<R>& space, ProductSpace<R>& products) const;

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
