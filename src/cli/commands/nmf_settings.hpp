// What the commands that fit nonnegative factors share: options, starts, and the fit of any matrix.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <rankfold/cli/run.hpp>
#include <rankfold/data/matrix_file.hpp>
#include <rankfold/factor/nmf.hpp>

namespace rankfold::cli {

/// The objective and how it is minimised, as options of a command.
struct NmfSettings {
    NmfOptions nmf;
    std::string solver = "hals";
    std::string loss = "frobenius";
    std::string start = "auto";
    std::string grid = "auto";
    std::string max_time;
    bool missing = false;

    void declare(Options& options);

    /// With what the common options add, for a job of so many ranks.
    /// @throws Error (Fault::input), alike on all ranks: options that cannot go together
    [[nodiscard]] NmfOptions resolved(const CommonOptions& common, int ranks) const;

    /// True if `start` is none of the known words.
    [[nodiscard]] bool starts_from_file() const;
};

/// Refuses what cannot work before any work is done: the first element that is negative or not
/// finite, by its names. @collective
template <Real R>
void check_problem(const MatrixData<R>& a, const NmfSettings& settings);

/// The start that was asked for; null for a random one. A file's digest joins `inputs`. @collective
template <Real R>
[[nodiscard]] std::shared_ptr<const Factors<R>> make_start(
    Run& run, const NmfSettings& settings, const MatrixData<R>& a, const NmfOptions& options,
    std::vector<std::pair<std::string, std::string>>& inputs);

/// nmf() or nmf_missing() on a matrix of either kind. @collective
template <Real R>
[[nodiscard]] Factors<R> fit_nmf(const MatrixData<R>& a, const NmfSettings& settings,
                                 const NmfOptions& options, const Steering& steering,
                                 const Factors<R>* start);

}  // namespace rankfold::cli
