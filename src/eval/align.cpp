#include <rankfold/eval/align.hpp>

namespace rankfold {

template <Real R>
Aligned<R> align(const BlockRowCsr<R>& a, const ShardLayout& layout, Index cols,
                 std::span<const Index> row_map, std::span<const Index> col_map) {
    if (row_map.empty() && col_map.empty() && a.rows() == layout.rows() && a.cols() == cols) {
        return {redistribute(a, layout), {}};
    }
    const auto image = [](std::span<const Index> map, Index i, Index count) {
        if (!map.empty()) return map[static_cast<std::size_t>(i)];
        return i < count ? i : Index{-1};
    };
    const CsrView<R> local = a.local().view();
    std::vector<Triplet<R>> known;
    known.reserve(static_cast<std::size_t>(local.nnz()));
    Aligned<R> result;
    for (Index i = 0; i < local.rows; ++i) {
        const Index row = image(row_map, a.first_row() + i, layout.rows());
        for (Index e = local.row_ptr[i]; e < local.row_ptr[i + 1]; ++e) {
            const Index col = image(col_map, local.col_idx[e], cols);
            auto& target = row < 0 || col < 0 ? result.strangers : known;
            target.push_back({row, static_cast<ColIndex>(col), local.values[e]});
        }
    }
    result.matrix = assemble(a.comm(), layout, cols, std::move(known));
    return result;
}

template <Real R>
BlockRowCsr<R> rebalance(const BlockRowCsr<R>& a) {
    std::vector<Index> counts;
    for (Index i = 0; i < a.local().rows(); ++i) counts.push_back(a.local().view().row_nnz(i));
    return redistribute(a, balanced_layout(a.comm(), a.rows(), a.first_row(), counts));
}

#define RANKFOLD_INSTANTIATE(R)                                                 \
    template Aligned<R> align(const BlockRowCsr<R>&, const ShardLayout&, Index, \
                              std::span<const Index>, std::span<const Index>);  \
    template BlockRowCsr<R> rebalance(const BlockRowCsr<R>&);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
