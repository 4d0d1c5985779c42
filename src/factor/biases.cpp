#include <rankfold/factor/biases.hpp>

#include <rankfold/dist/row_exchange.hpp>

namespace rankfold {

namespace {

constexpr int rounds = 10;

/// All elements of an m x 1 matrix on every rank. @collective
template <Real R>
DenseMatrix<R> gather_all(const BlockRows<R>& x) {
    const RowExchange exchange = RowExchange::all(x.comm(), x.layout());
    DenseMatrix<R> all(exchange.buffer_rows(), 1);
    exchange.gather(x, all.view());
    return all;
}

/// bias_i ← Σ_j (v_ij − μ − other_j) / (n_i + damping).
template <Real R>
void fit_side(const BlockRowCsr<R>& a, double mean, double damping, const BlockRows<R>& other,
              BlockRows<R>& bias) {
    const DenseMatrix<R> known = gather_all(other);
    const CsrView<R> rows = a.local().view();
    for (Index i = 0; i < rows.rows; ++i) {
        const auto cols = rows.row_cols(i);
        const auto values = rows.row_values(i);
        double sum = 0.0;
        for (std::size_t e = 0; e < values.size(); ++e) {
            sum += static_cast<double>(values[e]) - mean - static_cast<double>(known(cols[e], 0));
        }
        const double weight = static_cast<double>(values.size()) + damping;
        bias.local()(i, 0) = values.empty() ? R{0} : static_cast<R>(sum / weight);
    }
}

}  // namespace

template <Real R>
Biases<R> fit_biases(const BlockRowCsr<R>& a, const BlockRowCsr<R>& transposed, double mean,
                     double damping) {
    const auto phase = a.comm().ledger().phase("als biases");
    Biases<R> biases{BlockRows<R>(a.comm(), a.layout(), 1),
                     BlockRows<R>(a.comm(), transposed.layout(), 1)};
    for (int round = 0; round < rounds; ++round) {
        fit_side(transposed, mean, damping, biases.rows, biases.cols);
        fit_side(a, mean, damping, biases.cols, biases.rows);
    }
    return biases;
}

template <Real R>
BlockRows<R> row_biases(const BlockRowCsr<R>& a, const BlockRows<R>& cols, double mean,
                        double damping) {
    BlockRows<R> rows(a.comm(), a.layout(), 1);
    fit_side(a, mean, damping, cols, rows);
    return rows;
}

template <Real R>
BlockRowCsr<R> subtract(const BlockRowCsr<R>& a, const Biases<R>& biases) {
    const DenseMatrix<R> of_cols = gather_all(biases.cols);
    CsrMatrix<R> left = a.local();
    for (Index i = 0; i < left.rows(); ++i) {
        const auto of_row = static_cast<double>(biases.rows.local()(i, 0));
        for (Index e = left.row_ptr[static_cast<std::size_t>(i)];
             e < left.row_ptr[static_cast<std::size_t>(i) + 1]; ++e) {
            const auto at = static_cast<std::size_t>(e);
            left.values[at] = static_cast<R>(static_cast<double>(left.values[at]) - of_row -
                                             static_cast<double>(of_cols(left.col_idx[at], 0)));
        }
    }
    return {a.comm(), a.layout(), std::move(left)};
}

template Biases<float> fit_biases(const BlockRowCsr<float>&, const BlockRowCsr<float>&, double,
                                  double);
template Biases<double> fit_biases(const BlockRowCsr<double>&, const BlockRowCsr<double>&, double,
                                   double);
template BlockRows<float> row_biases(const BlockRowCsr<float>&, const BlockRows<float>&, double,
                                     double);
template BlockRows<double> row_biases(const BlockRowCsr<double>&, const BlockRows<double>&, double,
                                      double);
template BlockRowCsr<float> subtract(const BlockRowCsr<float>&, const Biases<float>&);
template BlockRowCsr<double> subtract(const BlockRowCsr<double>&, const Biases<double>&);

}  // namespace rankfold
