// Validation while factors are fitted: early stop, and the best factors kept; warm starts.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <rankfold/cli/run.hpp>
#include <rankfold/data/matrix_file.hpp>
#include <rankfold/dist/steering.hpp>
#include <rankfold/eval/metrics.hpp>

namespace rankfold::cli {

/// When to stop before all sweeps are done, as options of a command.
struct StopRule {
    std::string validation;
    std::string metric;
    Index patience = 3;
    double tolerance = 0.0;

    void declare(Options& options);
};

/// The share that --validation is, if it is a number.
/// @throws Error (Fault::input): a share outside 0 … 0.9
[[nodiscard]] std::optional<double> validation_share(const std::string& text);

/// The same rows, columns and names with these entries.
template <Real R>
[[nodiscard]] std::shared_ptr<const MatrixData<R>> with_entries(const MatrixData<R>& whole,
                                                                BlockRowCsr<R> entries);

/// A training matrix, and the part that its factors are measured on, if there is one.
template <Real R>
struct TrainingData {
    std::shared_ptr<const MatrixData<R>> train;
    std::optional<BlockRowCsr<R>> validation;  ///< in the rows and columns of `train`
    bool was_dense = false;                    ///< see DenseMatrices::as_entries
    /// Role and digest of what decides the result, for checkpoints.
    std::vector<std::pair<std::string, std::string>> inputs;
};

/// Whether a share of a dense matrix's elements may be held back for validation: it is trained on
/// as a sparse matrix then, whose other elements are all stored.
enum class DenseMatrices { refused, as_entries };

/// Loads the matrix and opens or cuts off the validation part. @collective
/// @throws Error (Fault::input), agreed: a share outside 0 … 0.9, no entry to validate on
template <Real R>
[[nodiscard]] TrainingData<R> load_training(Run& run, const std::string& matrix,
                                            const StopRule& rule,
                                            DenseMatrices dense = DenseMatrices::refused);

/// Measures the factors on the validation part after every step, stops when they have not become
/// better for `patience` steps, and keeps the best.
///
/// The state that the inner steering sees holds the best factors too, so that a run which goes on
/// from a checkpoint ends like one that never stopped. Without a validation part a tolerance stops
/// the loop when the objective falls by less than that share of itself.
template <Real R>
class EarlyStop {
public:
    /// All are borrowed. @param values  true if the factors predict values: measured by the RMSE
    EarlyStop(Run& run, const StopRule& rule, const TrainingData<R>& data, bool values);
    ~EarlyStop();
    EarlyStop(const EarlyStop&) = delete;
    EarlyStop& operator=(const EarlyStop&) = delete;

    /// `inner` with the measurement before its after(). @pre this outlives the result
    [[nodiscard]] Steering around(Steering inner);

    /// Puts the best factors where the last ones are, and reports.
    void finish(Factors<R>& factors);

    /// The best value so far; of a metric that the greater the better is. NaN without validation.
    [[nodiscard]] double best() const;
    [[nodiscard]] bool greater_is_better() const;
    [[nodiscard]] Index best_step() const;
    [[nodiscard]] std::string metric() const;

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// Steering that begins with the factors of an earlier run, unless `inner` restores a state: rows
/// and columns matched by names where both have them, else by position. What `init` does not have
/// (rows, columns, further factors) starts as it would without.
/// @collective
template <Real R>
[[nodiscard]] Steering warm_start(std::shared_ptr<const Factors<R>> init,
                                  std::shared_ptr<const MatrixData<R>> train, Index k,
                                  Steering inner);

/// The factors for the rows and columns of `a`, matched by names where both have them, else by
/// position; 0 for those that the factors do not have, which are counted out loud.
/// @param path  of the factors, for messages
/// @collective @throws Error (Fault::input), agreed: without names, another number of rows or
///             columns; with names, none in common
template <Real R>
[[nodiscard]] std::shared_ptr<Factors<R>> factors_for(Run& run, const std::string& path,
                                                      const Factors<R>& factors,
                                                      const MatrixData<R>& a);

/// The factors of a file, from an earlier stage or read. @collective
template <Real R>
[[nodiscard]] std::shared_ptr<Factors<R>> load_factors(Run& run, const std::string& path);

}  // namespace rankfold::cli
