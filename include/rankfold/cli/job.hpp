// Job files: an ordered list of stages, each one command with its options.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <rankfold/core/types.hpp>

namespace rankfold::cli {

/// One run of one stage, ready to be parsed by its command.
struct StageRun {
    std::string name;   ///< of the stage, with "[seed=3]" if it is repeated
    std::string stage;  ///< of the stage alone
    std::string command;
    std::vector<std::string> arguments;  ///< with all references resolved to files
};

/// The runs of a job in order.
///
///     folder = "out"            # where stages put files that have no name of their own
///     [[stage]]
///     command = "als"           # any command
///     name = "factors"          # unique; default: the command
///     matrix = "@split.train"   # an option, with the output of an earlier stage as value
///     factors = 64
///     seeds = [1, 2, 3]         # repeats this stage and all that depend on it
///
/// A stage that writes a file and has no `out` gets <folder>/<name>.h5 (`split`, which writes
/// several: prefix = <folder>/<name>). "@name" is a stage's output, "@name.part" one of several.
///
/// @param text    TOML
/// @param file    its name, for messages
/// @param changes "stage.option=value" each, from --set
/// @param common  arguments ("--name" or "--name=value") that every stage with such an option gets
///                unless it sets it itself; in a value, "@stage" stands for the run's name
/// @throws Error (Fault::input), alike on all ranks: not TOML (line), an unknown command, option or
///         stage (the nearest known name), a value that does not fit
[[nodiscard]] std::vector<StageRun> plan_job(const std::string& text, const std::string& file,
                                             const std::vector<std::string>& changes,
                                             const std::vector<std::string>& common,
                                             std::string& folder);

}  // namespace rankfold::cli
