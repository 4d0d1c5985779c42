// Signed indices as the standard containers want them.
#pragma once

#include <cstddef>

#include <rankfold/core/types.hpp>

namespace rankfold {

/// The index i >= 0 as a subscript or a size.
[[nodiscard]] constexpr std::size_t at(Index i) {
    return static_cast<std::size_t>(i);
}

}  // namespace rankfold
