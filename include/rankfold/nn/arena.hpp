// All parameters of a network in one array, laid out in the order in which gradients are ready.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include <rankfold/dist/tensor_list.hpp>
#include <rankfold/linalg/dense.hpp>

namespace rankfold {

/// What a parameter tensor is to its layer.
enum class Part { weight, u, v, bias, gain };

/// One parameter tensor and its place in the arena.
struct ParameterTensor {
    std::string path;  ///< in a network file, e.g. "layers/hidden1/weight"
    Index layer = 0;   ///< its layer's place in the graph
    Part part = Part::weight;
    Index rows = 0;
    Index cols = 0;  ///< 0 for a vector
    bool trained = true;
    bool table = false;  ///< an embedding: a step's gradient has few rows, see TableUpdate
    Index offset = 0;    ///< of element (0, 0) in the arena

    [[nodiscard]] Index size() const noexcept { return rows * std::max<Index>(cols, 1); }
    /// True if its gradient is summed with those of all others.
    [[nodiscard]] bool summed() const noexcept { return trained && !table; }
};

/// Owns the parameters of a network, the same on all ranks.
///
///     | output | hidden2 | hidden1 | tables, fixed tensors |  last layer first, so that the
///     0                        summed_size()          size()  backward pass completes the array
///                                                             front to back
///
/// Tensors begin at multiples of 16 elements (64 bytes); what lies between is 0 and stays so. The
/// address of an element never changes, also when the arena is moved.
template <Real R>
class ParameterArena {
public:
    /// @param tensors  in the order of the layers; offsets are set here
    explicit ParameterArena(std::vector<ParameterTensor> tensors);

    ParameterArena(ParameterArena&&) noexcept = default;
    ParameterArena& operator=(ParameterArena&&) noexcept = default;
    ParameterArena(const ParameterArena&) = delete;
    ParameterArena& operator=(const ParameterArena&) = delete;
    ~ParameterArena() = default;

    [[nodiscard]] Index size() const noexcept { return static_cast<Index>(values_.size()); }
    [[nodiscard]] Index summed_size() const noexcept { return summed_size_; }
    [[nodiscard]] std::span<R> values() noexcept { return values_; }
    [[nodiscard]] std::span<const R> values() const noexcept { return values_; }

    /// In the order of the layers.
    [[nodiscard]] const std::vector<ParameterTensor>& tensors() const noexcept { return tensors_; }
    /// A tensor as a matrix; a vector as one row. @throws Error (Fault::bug) if there is none
    [[nodiscard]] MatrixView<R> matrix(const std::string& path);

    /// Ends of consecutive parts of the summed parameters. A part consists of whole layers and has
    /// at least `least` elements, except the last.
    [[nodiscard]] std::vector<Index> bucket_ends(Index least) const;

    /// Every tensor under its path, replicated.
    [[nodiscard]] TensorList list();

private:
    std::vector<ParameterTensor> tensors_;
    Index summed_size_ = 0;
    AlignedVector<R> values_;
};

extern template class ParameterArena<float>;
extern template class ParameterArena<double>;

}  // namespace rankfold
