// The same small matrix on every rank, and its rows distributed, dense or sparse.
#pragma once

#include <rankfold/core/random.hpp>
#include <rankfold/dist/block_rows.hpp>
#include <rankfold/linalg/blas.hpp>

namespace rankfold::test {

/// m x n normal numbers, of which about `density` are kept; row 3 and column 2 are empty then.
inline DenseMatrix<double> random_matrix(Index m, Index n, double density = 1.0, Index key = 0) {
    const Philox random(23, Stream::synthetic_entry);
    DenseMatrix<double> a(m, n);
    for (Index i = 0; i < m; ++i) {
        for (Index j = 0; j < n; ++j) {
            if (density < 1.0 && (i == 3 || j == 2)) continue;
            if (random.uniform(i, 2 * j + 1 + 2 * n * key) >= density) continue;
            a(i, j) = static_cast<double>(static_cast<float>(random.normal(i, 2 * (j + n * key))));
        }
    }
    return a;
}

template <Real R>
BlockRows<R> dense_rows(const Communicator& comm, const DenseMatrix<double>& a, Index shards = 64) {
    BlockRows<R> rows(comm, ShardLayout::even(a.rows(), shards, comm.size()), a.cols());
    for (Index i = 0; i < rows.local().rows(); ++i) {
        for (Index j = 0; j < rows.cols(); ++j) {
            rows.local()(i, j) = static_cast<R>(a(rows.first_row() + i, j));
        }
    }
    return rows;
}

/// The elements of `a` where `given` is not zero; those may be zeros.
template <Real R>
BlockRowCsr<R> sparse_rows(const Communicator& comm, const DenseMatrix<double>& a,
                           const DenseMatrix<double>& given) {
    std::vector<Index> counts;
    std::vector<Triplet<R>> mine;
    const Range part = even_part(a.rows(), comm.size(), comm.rank());
    for (Index i = part.begin; i < part.end; ++i) {
        counts.push_back(0);
        for (Index j = 0; j < a.cols(); ++j) {
            if (given(i, j) == 0.0) continue;
            mine.push_back({i, static_cast<ColIndex>(j), static_cast<R>(a(i, j))});
            ++counts.back();
        }
    }
    const auto layout = balanced_layout(comm, a.rows(), part.begin, counts);
    return assemble(comm, layout, a.cols(), std::move(mine));
}

/// All elements of `a` that are not zero.
template <Real R>
BlockRowCsr<R> sparse_rows(const Communicator& comm, const DenseMatrix<double>& a) {
    return sparse_rows<R>(comm, a, a);
}

/// op(A) op(B) by the definition.
inline DenseMatrix<double> naive_product(const DenseMatrix<double>& a, const DenseMatrix<double>& b,
                                         Transpose of_a = Transpose::no) {
    const bool turned = of_a == Transpose::yes;
    DenseMatrix<double> c(turned ? a.cols() : a.rows(), b.cols());
    for (Index i = 0; i < c.rows(); ++i) {
        for (Index j = 0; j < c.cols(); ++j) {
            for (Index t = 0; t < b.rows(); ++t) c(i, j) += (turned ? a(t, i) : a(i, t)) * b(t, j);
        }
    }
    return c;
}

/// The greatest difference of two matrices of the same shape.
template <class A, class B>
double difference(const DenseMatrix<A>& a, const DenseMatrix<B>& b) {
    EXPECT_EQ(a.rows(), b.rows());
    EXPECT_EQ(a.cols(), b.cols());
    double worst = 0.0;
    for (std::size_t i = 0; i < std::min(a.data().size(), b.data().size()); ++i) {
        const double x =
            std::abs(static_cast<double>(a.data()[i]) - static_cast<double>(b.data()[i]));
        worst = std::isnan(x) ? x : std::max(worst, x);
    }
    return worst;
}

}  // namespace rankfold::test
