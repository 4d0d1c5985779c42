#include <rankfold/factor/als.hpp>

#include <cmath>

#include <rankfold/comm/reproducible_sum.hpp>
#include <rankfold/core/random.hpp>
#include <rankfold/factor/biases.hpp>
#include <rankfold/factor/half_sweep.hpp>

namespace rankfold {

namespace {

/// The start of Y: normal numbers keyed by global row and factor.
template <Real R>
void draw_start(BlockRows<R>& y, const AlsOptions& options) {
    const Philox random(options.seed, Stream::col_factors);
    for (Index j = 0; j < y.local().rows(); ++j) {
        for (Index f = 0; f < y.cols(); ++f) {
            y.local()(j, f) =
                static_cast<R>(options.start_deviation * random.normal(y.first_row() + j, f));
        }
    }
}

/// The factors of a matrix of either kind at the start.
template <Real R, class Matrix>
Factors<R> start(const Matrix& a, const Matrix& transposed, double mean,
                 const AlsOptions& options) {
    Factors<R> factors;
    factors.rows = BlockRows<R>(a.comm(), a.layout(), options.k);
    factors.cols = BlockRows<R>(a.comm(), transposed.layout(), options.k);
    factors.global_mean = mean;
    factors.method = options.implicit ? "als-implicit" : "als-explicit";
    draw_start(factors.cols, options);
    return factors;
}

/// The alternation, on sides of either kind.
template <Real R, template <Real> class Side, class Matrix>
Factors<R> alternate(const Matrix& a, const Matrix& a_transposed, double entries, double mean,
                     const AlsOptions& options, const Steering& steering,
                     std::optional<Biases<R>> biases = std::nullopt) {
    RANKFOLD_EXPECT(options.k > 0 && options.sweeps >= 0 && options.threads > 0);
    const Communicator& comm = a.comm();
    Factors<R> factors = start<R>(a, a_transposed, mean, options);
    if (biases) {
        factors.row_bias = std::move(biases->rows);
        factors.col_bias = std::move(biases->cols);
    }
    const RowProblem problem = row_problem(options, mean, a.cols());
    Side<R> rows(a, problem, a_transposed.layout(), options.k, options.threads, "row");
    Side<R> cols(a_transposed, row_problem(options, mean, a.rows()), a.layout(), options.k,
                 options.threads, "column");
    TensorList state = factors.tensors();
    state.scalars["global_mean"] = mean;
    TensorList restored = state;
    factors.history.columns = {"sweep", "objective"};
    if (!options.implicit) factors.history.columns.emplace_back("train_rmse");

    for (Index sweep = steering.restore(restored); sweep < options.sweeps; ++sweep) {
        rows.solve(factors.cols, factors.rows);
        cols.solve(factors.rows, factors.cols);
        Progress progress{
            .unit = "sweep", .step = sweep + 1, .steps = options.sweeps, .values = {}};
        {
            const auto phase = comm.ledger().phase("als objective");
            const SideLoss loss = cols.losses(factors.cols);
            double objective = loss.entries + loss.ridge + rows.ridge(factors.rows);
            if (problem.alpha0 != 0.0) {
                objective += problem.alpha0 * all_pairs_square(factors.rows, factors.cols);
            }
            progress.values.emplace_back("objective", objective);
            if (!options.implicit) {
                progress.values.emplace_back("train_rmse", std::sqrt(loss.entries / entries));
            }
            if (!std::isfinite(objective)) {
                throw Error(Fault::check,
                            concat("the objective of sweep ", sweep + 1,
                                   " is not finite; raise --lambda or use --precision double"),
                            true);
            }
        }
        factors.history.rows.push_back({static_cast<double>(sweep + 1)});
        for (const auto& [name, value] : progress.values) {
            factors.history.rows.back().push_back(value);
        }
        if (steering.after(progress, state) == Verdict::stop) break;
    }
    return factors;
}

/// The mean of all given values, from one partial sum a shard.
template <class Sum>
double mean_of(const Communicator& comm, Range shards, Index entries, const Sum& shard_sum) {
    std::vector<double> sums;
    for (Index s = shards.begin; s < shards.end; ++s) sums.push_back(shard_sum(s));
    return reproducible_sum(comm, sums) / static_cast<double>(entries);
}

/// μ of a sparse matrix.
template <Real R>
double entry_mean(const BlockRowCsr<R>& a, const AlsOptions& options) {
    if (options.implicit || options.centering == Centering::none) return 0.0;
    return mean_of(a.comm(), a.shards(), a.nnz(), [&](Index s) {
        const CsrView<R> rows = a.shard(s);
        double sum = 0.0;
        for (Index i = 0; i < rows.rows; ++i) {
            for (const R v : rows.row_values(i)) sum += static_cast<double>(v);
        }
        return sum;
    });
}

}  // namespace

RowProblem row_problem(const AlsOptions& options, double mean, Index cols) {
    if (!options.implicit) {
        return RowProblem::explicit_values(options.lambda, options.lambda_exponent, mean);
    }
    if (options.unobserved_weight) {
        return RowProblem::implicit_unobserved(*options.unobserved_weight, options.lambda,
                                               options.lambda_exponent, cols);
    }
    return RowProblem::implicit(options.alpha, options.lambda, options.lambda_exponent);
}

template <Real R>
Factors<R> start_factors(const BlockRowCsr<R>& a, const BlockRowCsr<R>& transposed,
                         const AlsOptions& options) {
    return start<R>(a, transposed, entry_mean(a, options), options);
}

template <Real R>
Factors<R> als(const BlockRowCsr<R>& a, const AlsOptions& options, const Steering& steering) {
    const double mean = entry_mean(a, options);
    BlockRowCsr<R> transposed;
    {
        const auto phase = a.comm().ledger().phase("transpose");
        transposed = transpose(a);
    }
    if (!options.implicit && options.centering == Centering::biases) {
        Biases<R> biases = fit_biases(a, transposed, mean, options.bias_damping);
        const BlockRowCsr<R> rest = subtract(a, biases);
        return alternate<R, SparseSide>(rest, transpose(rest), static_cast<double>(a.nnz()), mean,
                                        options, steering, std::move(biases));
    }
    return alternate<R, SparseSide>(a, transposed, static_cast<double>(a.nnz()), mean, options,
                                    steering);
}

template <Real R>
Factors<R> als(const BlockRows<R>& a, const AlsOptions& options, const Steering& steering) {
    RANKFOLD_EXPECT(!options.implicit && options.centering != Centering::biases);
    const Index entries = a.rows() * a.cols();
    double mean = 0.0;
    if (options.centering == Centering::mean) {
        mean = mean_of(a.comm(), a.shards(), entries, [&](Index s) {
            const MatrixView<const R> rows = a.shard(s);
            double sum = 0.0;
            for (Index i = 0; i < rows.rows; ++i) {
                for (const R v : rows.row(i)) sum += static_cast<double>(v);
            }
            return sum;
        });
    }
    BlockRows<R> transposed;
    {
        const auto phase = a.comm().ledger().phase("transpose");
        transposed = transpose(a);
    }
    return alternate<R, DenseSide>(a, transposed, static_cast<double>(entries), mean, options,
                                   steering);
}

template <Real R>
BlockRowCsr<R> sparsify(const BlockRows<R>& a) {
    CsrMatrix<R> local;
    local.cols = a.cols();
    for (Index i = 0; i < a.local().rows(); ++i) {
        for (Index j = 0; j < a.cols(); ++j) {
            if (a.local()(i, j) == R{0}) continue;
            local.col_idx.push_back(static_cast<ColIndex>(j));
            local.values.push_back(a.local()(i, j));
        }
        local.row_ptr.push_back(local.nnz());
    }
    return {a.comm(), a.layout(), std::move(local)};
}

template Factors<float> als(const BlockRowCsr<float>&, const AlsOptions&, const Steering&);
template Factors<double> als(const BlockRowCsr<double>&, const AlsOptions&, const Steering&);
template Factors<float> als(const BlockRows<float>&, const AlsOptions&, const Steering&);
template Factors<double> als(const BlockRows<double>&, const AlsOptions&, const Steering&);
template Factors<float> start_factors(const BlockRowCsr<float>&, const BlockRowCsr<float>&,
                                      const AlsOptions&);
template Factors<double> start_factors(const BlockRowCsr<double>&, const BlockRowCsr<double>&,
                                       const AlsOptions&);
template BlockRowCsr<float> sparsify(const BlockRows<float>&);
template BlockRowCsr<double> sparsify(const BlockRows<double>&);

}  // namespace rankfold
