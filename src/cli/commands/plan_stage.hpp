// What one stage of a job costs on several numbers of ranks.
#pragma once

#include <string>
#include <vector>

#include <rankfold/cli/job.hpp>
#include <rankfold/cli/run.hpp>
#include <rankfold/core/cost.hpp>
#include <rankfold/factor/als_cost.hpp>

namespace rankfold::cli {

/// A stage on one number of ranks.
struct StageCost {
    int ranks = 1;
    MemoryParts memory{};  ///< of the fullest rank at the peak
    double bytes = 0.0;    ///< that all ranks send in a step
    Cost step{};           ///< of the slowest rank
    double seconds = 0.0;  ///< of a step
    std::string note{};
};

struct PlannedStage {
    std::string name{};
    std::string about{};  ///< the problem, or why there is no plan
    std::string unit{};   ///< of a step: sweep, step
    Index steps = 0;
    MachineSpeed speed{};
    std::vector<StageCost> costs{};  ///< none: cannot be planned
};

/// Plans stages by the cost formulas, with speeds that are measured on the ranks at hand (a second
/// or two for each kind of stage) or read from a calibration file.
class StagePlanner {
public:
    /// @collective over run.comm
    StagePlanner(Run& run, std::vector<int> ranks, std::string calibration);

    /// @collective @throws Error (Fault::input), agreed: the stage's options or matrix are wrong
    [[nodiscard]] PlannedStage plan(const StageRun& stage);

    /// Writes the calibration file, if there is one to write. @collective
    void save() const;

private:
    [[nodiscard]] PlannedStage plan_als(const nlohmann::json& options);
    [[nodiscard]] PlannedStage plan_mlp(const nlohmann::json& options);
    [[nodiscard]] double speed_of(const std::string& key, const std::function<double()>& measure);
    void add_seconds(PlannedStage& stage) const;

    Run& run_;
    std::vector<int> ranks_;
    std::string file_;
    nlohmann::ordered_json calibration_;
    MachineSpeed exchange_;
    double process_bytes_;  // that a rank needs besides its data
};

}  // namespace rankfold::cli
