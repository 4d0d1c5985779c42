// The files that deepmf's towers read.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <rankfold/cli/run.hpp>
#include <rankfold/data/matrix_file.hpp>
#include <rankfold/hybrid/deep_mf.hpp>

namespace rankfold::cli {

/// Their names, as options.
struct TowerFileNames {
    std::string factors_file;
    std::string row_features;
    std::string col_features;

    void declare(Options& options);
    /// Those that are given.
    [[nodiscard]] std::vector<std::string> given() const;
};

/// What the towers of a matrix read, as DeepMfData borrows it.
template <Real R>
struct TowerFiles {
    std::shared_ptr<Factors<R>> factors;
    BlockRows<R> scaled_rows;
    std::optional<BlockRowCsr<R>> row_features;
    std::optional<BlockRowCsr<R>> col_features;
    DeepMfData<R> data{.rows = {}, .cols = {}};

    /// Reads the files for the rows and columns of `a`, matched by names where both have them.
    /// @param inputs  role and digest of what decides the result: added to. @collective
    void open(Run& run, const TowerFileNames& names, const MatrixData<R>& a,
              std::vector<std::pair<std::string, std::string>>& inputs);
};

/// The objective of towers as their factors record it; how they were trained is left out.
/// @param file  for messages @throws Error (Fault::input), on all ranks alike
[[nodiscard]] DeepMfOptions recorded_towers(const CommonOptions& common, const std::string& options,
                                            const std::string& file);

}  // namespace rankfold::cli
