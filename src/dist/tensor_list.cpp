#include <rankfold/dist/tensor_list.hpp>

#include <algorithm>
#include <bit>
#include <concepts>
#include <cstdio>
#include <limits>
#include <type_traits>

#include <rankfold/core/hash.hpp>

namespace rankfold {

template <class T>
void TensorList::add(std::string path, BlockRows<T>& matrix, bool vector) {
    RANKFOLD_EXPECT(!vector || matrix.cols() == 1);
    std::vector<Index> shape{matrix.rows()};
    if (!vector) shape.push_back(matrix.cols());
    tensors.push_back({.path = std::move(path),
                       .shape = std::move(shape),
                       .local = matrix.layout().rank_rows(matrix.comm().rank()),
                       .data = matrix.local().data()});
}

template <class T>
void TensorList::add_replicated(std::string path, std::vector<Index> shape, std::span<T> data) {
    const Range whole{0, shape.front()};
    tensors.push_back({.path = std::move(path),
                       .shape = std::move(shape),
                       .local = whole,
                       .data = data,
                       .replicated = true});
}

template <class T>
void TensorList::add_part(std::string path, Index total, Index first, std::span<T> data) {
    tensors.push_back({.path = std::move(path),
                       .shape = {total},
                       .local = {first, first + static_cast<Index>(data.size())},
                       .data = data});
}

std::uint64_t local_digest(const Communicator& comm, const Tensor& tensor) {
    if (tensor.replicated && !comm.is_root()) return 0;
    const Index width = tensor.shape.size() > 1 ? tensor.shape[1] : 1;
    return std::visit(
        [&]<class T>(std::span<T> data) {
            return digest_sum<T>(data, fnv1a(tensor.path), tensor.local.begin * width);
        },
        tensor.data);
}

std::uint64_t digest(const Communicator& comm, const TensorList& state) {
    std::uint64_t sum = 0;
    for (const Tensor& tensor : state.tensors) sum += local_digest(comm, tensor);
    return comm.all_reduce(sum, Reduce::sum);
}

std::string digest_text(std::uint64_t digest) {
    char text[17];
    std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(digest));
    return text;
}

namespace {

/// Whether no exponent is all ones, by the bits: that is what the compiler makes vectors of.
template <std::floating_point T>
bool is_finite(std::span<const T> data) {
    using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
    constexpr auto infinite = std::bit_cast<Bits>(std::numeric_limits<T>::infinity());
    Bits found = 0;
    for (const T x : data) {
        found |= static_cast<Bits>((std::bit_cast<Bits>(x) & infinite) == infinite);
    }
    return found == 0;
}

}  // namespace

bool all_finite(const Communicator& comm, const TensorList& state) {
    bool finite = true;
    for (const Tensor& tensor : state.tensors) {
        std::visit(
            [&]<class T>(std::span<T> data) {
                if constexpr (std::floating_point<T>) finite &= is_finite<T>(data);
            },
            tensor.data);
    }
    return comm.all_agree(finite);
}

#define RANKFOLD_INSTANTIATE(T)                                                              \
    template void TensorList::add(std::string, BlockRows<T>&, bool);                         \
    template void TensorList::add_replicated(std::string, std::vector<Index>, std::span<T>); \
    template void TensorList::add_part(std::string, Index, Index, std::span<T>);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
RANKFOLD_INSTANTIATE(std::int64_t)
#undef RANKFOLD_INSTANTIATE
template void TensorList::add_replicated(std::string, std::vector<Index>, std::span<std::int32_t>);
template void TensorList::add_part(std::string, Index, Index, std::span<std::int32_t>);
template void TensorList::add_replicated(std::string, std::vector<Index>, std::span<std::uint8_t>);
template void TensorList::add(std::string, BlockRows<std::uint8_t>&, bool);

}  // namespace rankfold
