#include <rankfold/nn/arena.hpp>

#include <algorithm>

namespace rankfold {

namespace {

constexpr Index alignment = 16;

Index aligned(Index offset) {
    return (offset + alignment - 1) / alignment * alignment;
}

}  // namespace

template <Real R>
ParameterArena<R>::ParameterArena(std::vector<ParameterTensor> tensors)
    : tensors_{std::move(tensors)} {
    Index end = 0;
    const auto place = [&](bool summed) {
        for (auto tensor = tensors_.rbegin(); tensor != tensors_.rend(); ++tensor) {
            if (tensor->summed() != summed) continue;
            tensor->offset = end;
            end = aligned(end + tensor->size());
        }
    };
    place(true);
    summed_size_ = end;
    place(false);
    values_.assign(static_cast<std::size_t>(end), R{0});
}

template <Real R>
MatrixView<R> ParameterArena<R>::matrix(const std::string& path) {
    const auto found = std::ranges::find(tensors_, path, &ParameterTensor::path);
    RANKFOLD_EXPECT(found != tensors_.end());
    if (found->cols == 0) return {values_.data() + found->offset, 1, found->rows};
    return {values_.data() + found->offset, found->rows, found->cols};
}

template <Real R>
std::vector<Index> ParameterArena<R>::bucket_ends(Index least) const {
    std::vector<Index> ends;
    Index begin = 0;
    for (auto tensor = tensors_.rbegin(); tensor != tensors_.rend(); ++tensor) {
        if (!tensor->summed()) continue;
        const Index end = aligned(tensor->offset + tensor->size());
        const bool layer_ends =
            std::none_of(std::next(tensor), tensors_.rend(), [&](const ParameterTensor& other) {
                return other.summed() && other.layer == tensor->layer;
            });
        if (end == summed_size_ || (layer_ends && end - begin >= least)) {
            ends.push_back(end);
            begin = end;
        }
    }
    return ends;
}

template <Real R>
TensorList ParameterArena<R>::list() {
    TensorList list;
    for (const ParameterTensor& tensor : tensors_) {
        std::vector<Index> shape{tensor.rows};
        if (tensor.cols > 0) shape.push_back(tensor.cols);
        list.add_replicated(tensor.path, std::move(shape),
                            std::span<R>(values_).subspan(static_cast<std::size_t>(tensor.offset),
                                                          static_cast<std::size_t>(tensor.size())));
    }
    return list;
}

template class ParameterArena<float>;
template class ParameterArena<double>;

}  // namespace rankfold
