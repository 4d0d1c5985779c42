#include <rankfold/factor/als.hpp>

#include <cmath>
#include <functional>
#include <limits>
#include <type_traits>

#include <rankfold/comm/reproducible_sum.hpp>
#include <rankfold/core/random.hpp>
#include <rankfold/factor/als_cost.hpp>
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
    if (options.biases) {
        factors.row_bias = BlockRows<R>(a.comm(), a.layout(), 1);
        factors.col_bias = BlockRows<R>(a.comm(), transposed.layout(), 1);
    }
    factors.global_mean = mean;
    factors.method = options.implicit ? "als-implicit" : "als-explicit";
    draw_start(factors.cols, options);
    return factors;
}

/// Sweeps over both sides, whatever they are.
template <Real R, class Side>
class Alternation {
public:
    Alternation(Factors<R>& factors, Side& rows, Side& cols, const SideExtras<R>& row_extras,
                const SideExtras<R>& col_extras)
        : rows_{rows},
          cols_{cols},
          row_extras_{row_extras},
          col_extras_{col_extras},
          x_(factors.rows, factors.row_bias),
          y_(factors.cols, factors.col_bias) {}

    void join() {
        x_.join();
        y_.join();
    }

    void sweep() {
        if constexpr (std::is_same_v<Side, SparseSide<R>>) {
            rows_.solve(y_.get(), x_.get(), row_extras_);
            cols_.solve(x_.get(), y_.get(), col_extras_);
        } else {
            rows_.solve(y_.get(), x_.get());
            cols_.solve(x_.get(), y_.get());
        }
        x_.part();
        y_.part();
    }

    /// The losses of the entries, and the ridges of both sides.
    SideLoss losses() {
        SideLoss loss;
        if constexpr (std::is_same_v<Side, SparseSide<R>>) {
            loss = cols_.losses(y_.get(), col_extras_);
        } else {
            loss = cols_.losses(y_.get());
        }
        loss.ridge += rows_.ridge(x_.get());
        return loss;
    }

    double certificate() {
        if constexpr (std::is_same_v<Side, SparseSide<R>>) {
            return cols_.certificate(y_.get(), col_extras_);
        } else {
            return cols_.certificate(y_.get());
        }
    }

private:
    Side& rows_;
    Side& cols_;
    SideExtras<R> row_extras_, col_extras_;
    BiasedFactors<R> x_, y_;
};

/// The alternation, on sides of either kind. `weight` is that of all entries together.
template <Real R, class Side>
void alternate(Factors<R>& factors, Alternation<R, Side> sides, double weight,
               const AlsOptions& options, const Steering& steering,
               const std::function<void()>& before_last) {
    RANKFOLD_EXPECT(options.k > 0 && options.sweeps >= 0 && options.threads > 0);
    const Communicator& comm = factors.rows.comm();
    TensorList state = factors.tensors();
    state.scalars["global_mean"] = factors.global_mean;
    TensorList restored = state;
    const double alpha0 = row_problem(options, 0.0, 1).alpha0;
    factors.history.columns = {"sweep", "objective"};
    if (!options.implicit) factors.history.columns.emplace_back("train_rmse");

    const Index first = steering.restore(restored);
    sides.join();
    for (Index sweep = first; sweep < options.sweeps; ++sweep) {
        if (sweep + 1 == options.sweeps) before_last();
        sides.sweep();
        Progress progress{
            .unit = "sweep", .step = sweep + 1, .steps = options.sweeps, .values = {}};
        {
            const auto phase = comm.ledger().phase("als objective");
            const SideLoss loss = sides.losses();
            double objective = loss.entries + loss.ridge;
            if (alpha0 != 0.0) objective += alpha0 * all_pairs_square(factors.rows, factors.cols);
            progress.values.emplace_back("objective", objective);
            if (!options.implicit) {
                progress.values.emplace_back("train_rmse", std::sqrt(loss.entries / weight));
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
        const bool stop = steering.after(progress, state) == Verdict::stop;
        if (stop || sweep + 1 == options.sweeps) {
            const auto phase = comm.ledger().phase("als certificate");
            factors.certificate = {{"gradient", sides.certificate()}};
        }
        if (stop) break;
    }
}

/// The mean of all given values, from one partial sum a shard.
template <class Sum>
double mean_of(const Communicator& comm, Range shards, Index entries, const Sum& shard_sum) {
    std::vector<double> sums;
    for (Index s = shards.begin; s < shards.end; ++s) sums.push_back(shard_sum(s));
    return reproducible_sum(comm, sums) / static_cast<double>(entries);
}

template <Real R>
double value_sum(const CsrView<R>& rows) {
    double sum = 0.0;
    for (Index i = 0; i < rows.rows; ++i) {
        for (const R v : rows.row_values(i)) sum += static_cast<double>(v);
    }
    return sum;
}

/// μ of a sparse matrix.
template <Real R>
double entry_mean(const BlockRowCsr<R>& a, const AlsOptions& options) {
    if (options.implicit || options.centering == Centering::none) return 0.0;
    return mean_of(a.comm(), a.shards(), a.nnz(),
                   [&](Index s) { return value_sum<R>(a.shard(s)); });
}

/// What this rank holds, but for what it receives. Biased factors are held twice, see
/// BiasedFactors.
template <Real R>
AlsHoldings own_holdings(const BlockRowCsr<R>& a, const BlockRowCsr<R>& transposed,
                         const AlsOptions& options) {
    const Index own_rows = a.local().rows() + transposed.local().rows();
    return {.row_entries = static_cast<double>(a.local().nnz()),
            .col_entries = static_cast<double>(transposed.local().nnz()),
            .factor_rows = static_cast<double>(own_rows * (options.biases ? 2 : 1))};
}

/// What a bound on the memory of a rank leaves for the rows of a fixed side with so many of all
/// m + n rows: less the matrix both ways, with its columns renumbered, and twice the own factors.
template <Real R>
double buffer_bytes(const BlockRowCsr<R>& a, const BlockRowCsr<R>& transposed, Index width,
                    Index fixed_rows, const AlsOptions& options) {
    if (!options.memory_per_rank) return std::numeric_limits<double>::infinity();
    AlsHoldings held = own_holdings(a, transposed, options);
    held.numbered_entries = held.row_entries + held.col_entries;
    held.factor_rows *= 2.0;
    held.transposing = false;
    const double most =
        a.comm().all_reduce(sum_of(als_memory(held, width, sizeof(R))), Reduce::max);
    const double left = *options.memory_per_rank - most;
    if (left <= 0.0) {
        throw input_error("--memory-per-rank ", *options.memory_per_rank,
                          " does not hold the matrix and the factors, ", most,
                          " bytes on a rank; give more of it, or more ranks");
    }
    return left * static_cast<double>(fixed_rows) / static_cast<double>(a.rows() + a.cols());
}

template <Real R>
void predict_memory(const BlockRowCsr<R>& a, const BlockRowCsr<R>& transposed,
                    const SparseSide<R>& rows, const SparseSide<R>& cols, Index width,
                    const AlsOptions& options) {
    AlsHoldings held = own_holdings(a, transposed, options);
    if (rows.exchange() != Exchange::all) held.numbered_entries += held.row_entries;
    if (cols.exchange() != Exchange::all) held.numbered_entries += held.col_entries;
    held.received_rows = static_cast<double>(rows.received_rows() + cols.received_rows());
    a.comm().ledger().predict_memory(sum_of(als_memory(held, width, sizeof(R))));
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
    return RowProblem::implicit(options.base_confidence, options.alpha, options.lambda,
                                options.lambda_exponent);
}

template <Real R>
Factors<R> start_factors(const BlockRowCsr<R>& a, const BlockRowCsr<R>& transposed,
                         const AlsOptions& options) {
    return start<R>(a, transposed, entry_mean(a, options), options);
}

template <Real R>
Factors<R> als(const BlockRowCsr<R>& a, const AlsOptions& options, const Steering& steering,
               const BlockRowCsr<R>* confidences) {
    RANKFOLD_EXPECT(!(options.implicit && options.biases));
    const Communicator& comm = a.comm();
    BlockRowCsr<R> transposed;
    BlockRowCsr<R> col_confidences;
    {
        const auto phase = comm.ledger().phase("transpose");
        transposed = transpose(a);
        if (confidences != nullptr) col_confidences = transpose(*confidences);
    }
    const double mean = entry_mean(a, options);
    double weight = static_cast<double>(a.nnz());
    SideExtras<R> row_extras;
    SideExtras<R> col_extras;
    if (confidences != nullptr) {
        row_extras.confidences = confidences->local().values;
        col_extras.confidences = col_confidences.local().values;
        weight *= mean_of(comm, a.shards(), a.nnz(),
                          [&](Index s) { return value_sum<R>(confidences->shard(s)); });
    }
    Factors<R> factors = start<R>(a, transposed, mean, options);
    const Index width = options.k + (options.biases ? 1 : 0);
    SideOptions side{.problem = row_problem(options, mean, a.cols()),
                     .solver = options.solver,
                     .biases = options.biases,
                     .threads = options.threads,
                     .axis = "row",
                     .exchange = options.exchange};
    // pieces of rows with confidences of their own, or that are not solved exactly, do not pay
    const bool pieces =
        confidences == nullptr && options.solver.solver == Solver::cholesky && options.reproducible;
    side.reproducible = options.reproducible;
    if (pieces) side.heavy = options.heavy.value_or(64 * transposed.layout().shards());
    side.buffer_bytes = buffer_bytes(a, transposed, width, a.cols(), options);
    SparseSide<R> rows(a, side, transposed.layout(), width, &transposed);
    side.problem = row_problem(options, mean, a.rows());
    side.axis = "column";
    if (pieces) side.heavy = options.heavy.value_or(64 * a.layout().shards());
    side.buffer_bytes = buffer_bytes(a, transposed, width, a.rows(), options);
    SparseSide<R> cols(transposed, side, a.layout(), width, &a);
    predict_memory(a, transposed, rows, cols, width, options);
    alternate<R, SparseSide<R>>(factors, {factors, rows, cols, row_extras, col_extras}, weight,
                                options, steering, [&] {
                                    if (!options.exact_last) return;
                                    rows.set_solver({});
                                    cols.set_solver({});
                                });
    return factors;
}

template <Real R>
Factors<R> als(const BlockRows<R>& a, const AlsOptions& options, const Steering& steering) {
    RANKFOLD_EXPECT(!options.implicit && !options.biases);
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
    Factors<R> factors = start<R>(a, transposed, mean, options);
    SideOptions side{.problem = row_problem(options, mean, a.cols()), .threads = options.threads};
    DenseSide<R> rows(a, side, transposed.layout(), options.k);
    side.axis = "column";
    DenseSide<R> cols(transposed, side, a.layout(), options.k);
    alternate<R, DenseSide<R>>(factors, {factors, rows, cols, {}, {}}, static_cast<double>(entries),
                               options, steering, [] {});
    return factors;
}

template <Real R>
BlockRowCsr<R> sparsify(const BlockRows<R>& a, Zeros zeros) {
    CsrMatrix<R> local;
    local.cols = a.cols();
    for (Index i = 0; i < a.local().rows(); ++i) {
        for (Index j = 0; j < a.cols(); ++j) {
            if (zeros == Zeros::left_out && a.local()(i, j) == R{0}) continue;
            local.col_idx.push_back(static_cast<ColIndex>(j));
            local.values.push_back(a.local()(i, j));
        }
        local.row_ptr.push_back(local.nnz());
    }
    return {a.comm(), a.layout(), std::move(local)};
}

template Factors<float> als(const BlockRowCsr<float>&, const AlsOptions&, const Steering&,
                            const BlockRowCsr<float>*);
template Factors<double> als(const BlockRowCsr<double>&, const AlsOptions&, const Steering&,
                             const BlockRowCsr<double>*);
template Factors<float> als(const BlockRows<float>&, const AlsOptions&, const Steering&);
template Factors<double> als(const BlockRows<double>&, const AlsOptions&, const Steering&);
template Factors<float> start_factors(const BlockRowCsr<float>&, const BlockRowCsr<float>&,
                                      const AlsOptions&);
template Factors<double> start_factors(const BlockRowCsr<double>&, const BlockRowCsr<double>&,
                                       const AlsOptions&);
template BlockRowCsr<float> sparsify(const BlockRows<float>&, Zeros);
template BlockRowCsr<double> sparsify(const BlockRows<double>&, Zeros);

}  // namespace rankfold
