#include <rankfold/factor/row_problem.hpp>

namespace rankfold {

RowProblem RowProblem::explicit_values(double lambda, double exponent, double mean) {
    return {.b0 = -mean, .lambda = lambda, .exponent = exponent};
}

RowProblem RowProblem::implicit(double c0, double alpha, double lambda, double exponent) {
    return {.w0 = c0 - 1.0,
            .w1 = alpha,
            .b0 = c0,
            .b1 = alpha,
            .alpha0 = 1.0,
            .lambda = lambda,
            .exponent = exponent,
            .preference = true};
}

RowProblem RowProblem::implicit_unobserved(double alpha0, double lambda, double exponent, Index n) {
    return {.b0 = 1.0,
            .b1 = 0.0,
            .alpha0 = alpha0,
            .lambda = lambda,
            .exponent = exponent,
            .n_offset = alpha0 * static_cast<double>(n),
            .preference = true};
}

double RowProblem::row_lambda(Index entries) const {
    const double n = static_cast<double>(entries) + n_offset;
    return lambda * (exponent == 1.0 ? n : std::pow(n, exponent));
}

double half_sweep_flops(Index nnz, Index rows, Index k) {
    const auto kd = static_cast<double>(k);
    return static_cast<double>(nnz) * kd * (kd + 1.0) +
           static_cast<double>(rows) * kd * kd * kd / 3.0;
}

}  // namespace rankfold
