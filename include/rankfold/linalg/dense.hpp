// The owning dense matrix.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <vector>

#include <rankfold/linalg/views.hpp>

namespace rankfold {

/// Storage aligned to cache lines; large blocks lie in large pages where the system has them, so
/// that rows met in any order cost no page walks.
[[nodiscard]] void* allocate_aligned(std::size_t bytes);
void deallocate_aligned(void* storage, std::size_t bytes);

/// Allocates by allocate_aligned() and leaves trivial elements uninitialised on resize.
template <class T>
struct AlignedAllocator {
    using value_type = T;

    AlignedAllocator() = default;
    template <class U>
    AlignedAllocator(const AlignedAllocator<U>& /*other*/) {}  // NOLINT

    [[nodiscard]] T* allocate(std::size_t n) {
        return static_cast<T*>(allocate_aligned(n * sizeof(T)));
    }
    void deallocate(T* p, std::size_t n) { deallocate_aligned(p, n * sizeof(T)); }
    template <class U>
    void construct(U* p) {
        ::new (static_cast<void*>(p)) U;
    }
    template <class U, class... Args>
    void construct(U* p, Args&&... args) {
        ::new (static_cast<void*>(p)) U(std::forward<Args>(args)...);
    }
    friend bool operator==(const AlignedAllocator&, const AlignedAllocator&) { return true; }
};

/// A contiguous array aligned to cache lines.
template <class T>
using AlignedVector = std::vector<T, AlignedAllocator<T>>;

/// Owns a dense row-major rows x cols matrix with ld == cols. Moves, but copies only by clone().
template <class T>
class DenseMatrix {
public:
    DenseMatrix() = default;

    /// Zero-filled.
    DenseMatrix(Index rows, Index cols)
        : rows_{rows}, cols_{cols}, data_(static_cast<std::size_t>(rows * cols), T{}) {}

    DenseMatrix(DenseMatrix&&) noexcept = default;
    DenseMatrix& operator=(DenseMatrix&&) noexcept = default;
    DenseMatrix(const DenseMatrix&) = delete;
    DenseMatrix& operator=(const DenseMatrix&) = delete;
    ~DenseMatrix() = default;

    [[nodiscard]] DenseMatrix clone() const {
        DenseMatrix copy;
        copy.rows_ = rows_;
        copy.cols_ = cols_;
        copy.data_ = data_;
        return copy;
    }

    [[nodiscard]] Index rows() const noexcept { return rows_; }
    [[nodiscard]] Index cols() const noexcept { return cols_; }
    [[nodiscard]] T& operator()(Index i, Index j) {
        return data_[static_cast<std::size_t>(i * cols_ + j)];
    }
    [[nodiscard]] const T& operator()(Index i, Index j) const {
        return data_[static_cast<std::size_t>(i * cols_ + j)];
    }
    [[nodiscard]] std::span<T> data() noexcept { return data_; }
    [[nodiscard]] std::span<const T> data() const noexcept { return data_; }
    [[nodiscard]] std::span<T> row(Index i) { return view().row(i); }
    [[nodiscard]] std::span<const T> row(Index i) const { return view().row(i); }
    [[nodiscard]] MatrixView<T> view() noexcept { return {data_.data(), rows_, cols_}; }
    [[nodiscard]] MatrixView<const T> view() const noexcept { return {data_.data(), rows_, cols_}; }
    void fill(T value) { std::ranges::fill(data_, value); }

private:
    Index rows_ = 0;
    Index cols_ = 0;
    AlignedVector<T> data_;
};

}  // namespace rankfold
