// Small problems of alternating least squares.
#pragma once

#include <vector>

#include <rankfold/core/random.hpp>

#include "reference/naive_als.hpp"

namespace rankfold::test {

/// The same small matrix on every rank: some rows and columns are empty.
inline NaiveMatrix small_matrix(Index m, Index n, double density, bool counts) {
    const Philox random(17, Stream::synthetic_entry);
    NaiveMatrix a{DenseMatrix<double>(m, n), DenseMatrix<double>(m, n)};
    for (Index i = 0; i < m; ++i) {
        for (Index j = 0; j < n; ++j) {
            const bool empty = density < 1.0 && (i % 11 == 4 || j % 13 == 6);
            if (empty || random.uniform(i, j) >= density) continue;
            a.given(i, j) = 1.0;
            a.value(i, j) = counts ? double(1 + random.below(5, i + 1000, j))
                                   : random.normal(i, j + 1000) + 3.0;
        }
    }
    return a;
}

/// All objectives of a sparse matrix.
inline std::vector<AlsOptions> objectives() {
    std::vector<AlsOptions> all;
    for (const double exponent : {0.0, 1.0}) {
        const AlsOptions explicit_form{
            .k = 5, .sweeps = 3, .lambda = 0.3, .lambda_exponent = exponent, .alpha = 2.0};
        all.push_back(explicit_form);
        all.push_back(explicit_form);
        all.back().biases = true;
        all.push_back(explicit_form);
        all.back().implicit = true;
        all.push_back(all.back());
        all.back().base_confidence = 0.25;
        all.push_back(all.back());
        all.back().unobserved_weight = 0.2;
    }
    // rows with fewer entries than factors: by their dual systems up to 16 entries
    all.push_back(all.front());
    all.back().k = 24;
    all.push_back(all.back());
    all.back().biases = true;
    return all;
}

}  // namespace rankfold::test
