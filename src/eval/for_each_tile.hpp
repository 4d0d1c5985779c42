// A loop over score tiles on several threads.
#pragma once

#include <exception>

#include <rankfold/core/types.hpp>

namespace rankfold {

/// Calls work(t) for t = 0 … count − 1 on `threads` threads; what the first failing call throws is
/// thrown again when all have ended (an exception must not leave an OpenMP region).
template <class Work>
void for_each_tile(Index count, Index threads, Work&& work) {
    std::exception_ptr failure;
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(threads))
    for (Index t = 0; t < count; ++t) {
        try {
            work(t);
        } catch (...) {
#pragma omp critical
            if (!failure) failure = std::current_exception();
        }
    }
    if (failure) std::rethrow_exception(failure);
}

}  // namespace rankfold
