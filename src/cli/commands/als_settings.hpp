// What the commands that fit or use ALS factors share: its options, and the fit of any matrix.
#pragma once

#include <string>
#include <type_traits>

#include <rankfold/cli/run.hpp>
#include <rankfold/data/matrix_file.hpp>
#include <rankfold/factor/als.hpp>

namespace rankfold::cli {

/// The objective and how it is minimised, as options of a command.
struct AlsSettings {
    AlsOptions als;
    std::string centering = "mean";
    std::string solver = "cholesky";
    std::string preset = "none";
    std::string exchange = "auto";
    std::string reproducible = "on";
    std::optional<std::string> memory_per_rank;

    /// Options of which `tune` takes lists: k, λ, ν, α, α0.
    void declare_grid(Options& options);
    /// All others.
    void declare_others(Options& options);

    /// With what the common options add.
    [[nodiscard]] AlsOptions resolved(const CommonOptions& common) const;
};

/// The settings with which a factors file was made, from its attribute `options`.
/// @throws Error (Fault::input): the text is no such object (names the file), alike on all ranks
[[nodiscard]] AlsSettings recorded_settings(const std::string& options, const std::string& file);

/// One more of those options, or `otherwise` if it is not there, or of another kind.
template <class T>
[[nodiscard]] T recorded_option(const std::string& options, const char* name, T otherwise) {
    const auto recorded = nlohmann::json::parse(options, nullptr, false);
    const auto value = recorded.is_object() ? recorded.value(name, nlohmann::json()) : recorded;
    const bool fits = std::is_same_v<T, bool>   ? value.is_boolean()
                      : std::is_arithmetic_v<T> ? value.is_number()
                                                : value.is_string();
    return fits ? value.template get<T>() : otherwise;
}

/// Refuses what cannot work before any work is done. @collective
template <Real R>
void check_problem(const MatrixData<R>& a, const AlsOptions& options);

/// als() on a matrix of either kind. @collective
/// @throws NotPositiveDefinite, agreed, with the row's or column's own name
template <Real R>
[[nodiscard]] Factors<R> fit_als(const MatrixData<R>& a, const AlsOptions& options,
                                 const Steering& steering,
                                 const BlockRowCsr<R>* confidences = nullptr);

/// Runs `fit` and gives a row or column that cannot be solved its name in `ids`. @collective
void with_names(const Communicator& comm, const IdSource& ids, const std::function<void()>& fit);

/// Counts rows and columns without entries into the report, and tells the reader. @collective
template <Real R>
void report_empty_lines(Run& run, const MatrixData<R>& a);

}  // namespace rankfold::cli
