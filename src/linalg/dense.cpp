#include <rankfold/linalg/dense.hpp>

#include <sys/mman.h>

namespace rankfold {

namespace {

constexpr std::size_t large_page = std::size_t{1} << 21;
constexpr std::size_t large_block = 2 * large_page;

std::align_val_t alignment(std::size_t bytes) {
    return std::align_val_t{bytes >= large_block ? large_page : std::size_t{64}};
}

}  // namespace

void* allocate_aligned(std::size_t bytes) {
    void* const storage = ::operator new(bytes, alignment(bytes));
    if (bytes >= large_block) madvise(storage, bytes / large_page * large_page, MADV_HUGEPAGE);
    return storage;
}

void deallocate_aligned(void* storage, std::size_t bytes) {
    ::operator delete(storage, alignment(bytes));
}

}  // namespace rankfold
