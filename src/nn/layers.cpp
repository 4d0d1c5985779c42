#include <rankfold/nn/layers.hpp>

#include <rankfold/linalg/blas.hpp>
#include <rankfold/nn/gradient_sum.hpp>

namespace rankfold {

namespace {

double product(Index a, Index b, Index c) {
    return static_cast<double>(a) * static_cast<double>(b) * static_cast<double>(c);
}

}  // namespace

template <Real R>
void DenseMap<R>::forward(MatrixView<const R> x, const Epilogue<R>& epilogue, MatrixView<R> z,
                          MapSpace<R>& /*space*/, ProductSpace<R>& products) const {
    row_products<R>(WeightSide::row_an_output, x, weight_, epilogue, z, products);
}

template <Real R>
void DenseMap<R>::gradient(Part part, MatrixView<const R> x, MatrixView<const R> d,
                           const GradientRequest<R>& request, MapSpace<R>& /*space*/,
                           ProductSpace<R>& products) const {
    RANKFOLD_EXPECT(part == Part::weight);
    block_products<R>(d, x, request.ends, request.nodes, request.out, request.add, products);
}

template <Real R>
void DenseMap<R>::input_gradient(MatrixView<const R> d, const Epilogue<R>& epilogue,
                                 MatrixView<R> dx, MapSpace<R>& /*space*/,
                                 ProductSpace<R>& products) const {
    row_products<R>(WeightSide::column_an_output, d, weight_, epilogue, dx, products);
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
void FactoredMap<R>::reserve(Index rows, Index blocks, MapSpace<R>& space) const {
    if (!collapsed_) space.inner = DenseMatrix<R>(rows, inner_);
    if (blocks == 0) return;
    if (!collapsed_) space.d_inner = DenseMatrix<R>(rows, inner_);
    for (Index b = 0; collapsed_ && b < blocks; ++b) space.d_products.emplace_back(out_, in_);
}

template <Real R>
void FactoredMap<R>::forward(MatrixView<const R> x, const Epilogue<R>& epilogue, MatrixView<R> z,
                             MapSpace<R>& space, ProductSpace<R>& products) const {
    if (collapsed_) {
        row_products<R>(WeightSide::row_an_output, x, product_.view(), epilogue, z, products);
        return;
    }
    const auto inner = space.inner.view().row_block({0, x.rows});
    row_products<R>(WeightSide::column_an_output, x, v_, {}, inner, products);
    row_products<R>(WeightSide::row_an_output, inner, u_, epilogue, z, products);
}

template <Real R>
void FactoredMap<R>::begin_gradient(MatrixView<const R> x, MatrixView<const R> d,
                                    std::span<const Index> ends, MapSpace<R>& space,
                                    ProductSpace<R>& products) const {
    if (!collapsed_) {
        row_products<R>(WeightSide::column_an_output, d, u_, {},
                        space.d_inner.view().row_block({0, d.rows}), products);
        return;
    }
    std::vector<Range> blocks;
    std::vector<R*> out;
    for (Index b = 0; b < std::ssize(ends); ++b) {
        blocks.push_back({b, b + 1});
        out.push_back(space.d_products[static_cast<std::size_t>(b)].data().data());
    }
    block_products<R>(d, x, ends, blocks, out, false, products);
}

template <Real R>
void FactoredMap<R>::gradient(Part part, MatrixView<const R> x, MatrixView<const R> d,
                              const GradientRequest<R>& request, MapSpace<R>& space,
                              ProductSpace<R>& products) const {
    RANKFOLD_EXPECT(part == Part::u || part == Part::v);
    if (!collapsed_) {
        const auto inner = space.inner.view().row_block({0, d.rows});
        const auto d_inner = space.d_inner.view().row_block({0, d.rows});
        block_products<R>(part == Part::u ? d : x, part == Part::u ? inner : d_inner, request.ends,
                          request.nodes, request.out, request.add, products);
        return;
    }
    const Index rows = part == Part::u ? out_ : in_;
    const auto leaf = [&](Index block, std::span<R> out) {
        const auto& d_product = space.d_products[static_cast<std::size_t>(block)];
        const MatrixView<R> to(out.data(), rows, inner_);
        if (part == Part::u) {
            gemm<R>(Transpose::no, Transpose::no, R{1}, d_product.view(), v_, R{0}, to);
        } else {
            gemm<R>(Transpose::yes, Transpose::no, R{1}, d_product.view(), u_, R{0}, to);
        }
    };
    const auto size = static_cast<std::size_t>(rows * inner_);
    for (std::size_t n = 0; n < request.nodes.size(); ++n) {
        const std::span<R> out(request.out[n], size);
        if (!request.add) {
            sum_tree<R>(request.nodes[n], out, leaf);
            continue;
        }
        AlignedVector<R> more(size);
        sum_tree<R>(request.nodes[n], std::span<R>(more), leaf);
        add_to<R>(more, out);
    }
}

template <Real R>
void FactoredMap<R>::input_gradient(MatrixView<const R> d, const Epilogue<R>& epilogue,
                                    MatrixView<R> dx, MapSpace<R>& space,
                                    ProductSpace<R>& products) const {
    if (collapsed_) {
        row_products<R>(WeightSide::column_an_output, d, product_.view(), epilogue, dx, products);
    } else {
        row_products<R>(WeightSide::row_an_output, space.d_inner.view().row_block({0, d.rows}), v_,
                        epilogue, dx, products);
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
