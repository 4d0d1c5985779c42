// A small low-rank matrix of ratings, the same on any number of ranks.
#pragma once

#include <rankfold/dist/synthetic.hpp>

namespace rankfold::test {

template <Real R>
BlockRowCsr<R> small_ratings(const Communicator& comm) {
    return generate_ratings<R>(comm, {.rows = 120, .cols = 60, .nnz = 2000, .factors = 3});
}

}  // namespace rankfold::test
