#include <rankfold/nn/layers.hpp>

#include <rankfold/linalg/blas.hpp>

namespace rankfold {

namespace {

/// c ← aᵀ b for a tile of a's columns; zero when there are no rows.
template <Real R>
void transposed_product(MatrixView<const R> a, MatrixView<const R> b, MatrixView<R> c) {
    if (a.rows == 0) {
        for (Index i = 0; i < c.rows; ++i) std::ranges::fill(c.row(i), R{0});
    } else {
        gemm<R>(Transpose::yes, Transpose::no, R{1}, a, b, R{0}, c);
    }
}

double product(Index a, Index b, Index c) {
    return static_cast<double>(a) * static_cast<double>(b) * static_cast<double>(c);
}

}  // namespace

template <Real R>
void DenseMap<R>::forward(MatrixView<const R> x, MatrixView<R> z, MapSpace<R>& /*space*/) const {
    gemm<R>(Transpose::no, Transpose::yes, R{1}, x, weight_, R{0}, z);
}

template <Real R>
void DenseMap<R>::gradient(Part part, Range tile, MatrixView<const R> x, MatrixView<const R> d,
                           const MapSpace<R>& /*space*/, MatrixView<R> out) const {
    RANKFOLD_EXPECT(part == Part::weight);
    transposed_product<R>(d.col_block(tile), x, out);
}

template <Real R>
void DenseMap<R>::input_gradient(MatrixView<const R> d, const MapSpace<R>& /*space*/, R beta,
                                 MatrixView<R> dx) const {
    gemm<R>(Transpose::no, Transpose::no, R{1}, d, weight_, beta, dx);
}

template <Real R>
double DenseMap<R>::forward_flops(Index rows) const {
    return 2.0 * product(rows, in_, out_);
}

template <Real R>
void FactoredMap<R>::prepare(Index rows) {
    const int trained = (train_u_ ? 1 : 0) + (train_v_ ? 1 : 0);
    const double through =
        product(rows, inner_, in_ + out_) * (1.0 + trained) + product(rows, inner_, out_);
    const double collapsed =
        3.0 * product(rows, in_, out_) + (1.0 + trained) * product(in_, inner_, out_);
    collapsed_ = collapsed < through;
    if (!collapsed_) return;
    if (product_.rows() != out_) product_ = DenseMatrix<R>(out_, in_);
    gemm<R>(Transpose::no, Transpose::yes, R{1}, u_, v_, R{0}, product_.view());
}

template <Real R>
void FactoredMap<R>::reserve(Index rows, bool training, MapSpace<R>& space) const {
    if (!collapsed_) space.inner = DenseMatrix<R>(rows, inner_);
    if (!training) return;
    space.d_inner = collapsed_ ? DenseMatrix<R>(out_, in_) : DenseMatrix<R>(rows, inner_);
}

template <Real R>
void FactoredMap<R>::forward(MatrixView<const R> x, MatrixView<R> z, MapSpace<R>& space) const {
    if (collapsed_) {
        gemm<R>(Transpose::no, Transpose::yes, R{1}, x, product_.view(), R{0}, z);
        return;
    }
    const auto inner = space.inner.view().row_block({0, x.rows});
    gemm<R>(Transpose::no, Transpose::no, R{1}, x, v_, R{0}, inner);
    gemm<R>(Transpose::no, Transpose::yes, R{1}, inner, u_, R{0}, z);
}

template <Real R>
void FactoredMap<R>::begin_gradient(MatrixView<const R> x, MatrixView<const R> d,
                                    MapSpace<R>& space) const {
    if (collapsed_) {
        transposed_product<R>(d, x, space.d_inner.view());
    } else {
        gemm<R>(Transpose::no, Transpose::no, R{1}, d, u_, R{0},
                space.d_inner.view().row_block({0, d.rows}));
    }
}

template <Real R>
void FactoredMap<R>::gradient(Part part, Range tile, MatrixView<const R> x, MatrixView<const R> d,
                              const MapSpace<R>& space, MatrixView<R> out) const {
    RANKFOLD_EXPECT(part == Part::u || part == Part::v);
    const auto d_inner = space.d_inner.view();
    if (part == Part::u) {
        if (collapsed_) {
            gemm<R>(Transpose::no, Transpose::no, R{1}, d_inner.row_block(tile), v_, R{0}, out);
        } else {
            transposed_product<R>(d.col_block(tile), space.inner.view().row_block({0, d.rows}),
                                  out);
        }
    } else if (collapsed_) {
        transposed_product<R>(d_inner.col_block(tile), u_, out);
    } else {
        transposed_product<R>(x.col_block(tile), d_inner.row_block({0, x.rows}), out);
    }
}

template <Real R>
void FactoredMap<R>::input_gradient(MatrixView<const R> d, const MapSpace<R>& space, R beta,
                                    MatrixView<R> dx) const {
    if (collapsed_) {
        gemm<R>(Transpose::no, Transpose::no, R{1}, d, product_.view(), beta, dx);
    } else {
        gemm<R>(Transpose::no, Transpose::yes, R{1}, space.d_inner.view().row_block({0, d.rows}),
                v_, beta, dx);
    }
}

template <Real R>
double FactoredMap<R>::forward_flops(Index rows) const {
    return 2.0 * (collapsed_ ? product(rows, in_, out_) : product(rows, inner_, in_ + out_));
}

template <Real R>
double FactoredMap<R>::gradient_flops(Index rows) const {
    const int trained = (train_u_ ? 1 : 0) + (train_v_ ? 1 : 0);
    if (collapsed_) {
        return 2.0 * (product(rows, in_, out_) + trained * product(out_, inner_, in_));
    }
    return 2.0 * (product(rows, inner_, out_) * (train_u_ ? 2.0 : 1.0) +
                  (train_v_ ? product(rows, inner_, in_) : 0.0));
}

template <Real R>
double FactoredMap<R>::input_gradient_flops(Index rows) const {
    return 2.0 * product(rows, collapsed_ ? out_ : inner_, in_);
}

template class DenseMap<float>;
template class DenseMap<double>;
template class FactoredMap<float>;
template class FactoredMap<double>;

}  // namespace rankfold
