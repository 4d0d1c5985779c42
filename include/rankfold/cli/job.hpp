// Job files: an ordered list of stages, each one command with its options.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <rankfold/comm/communicator.hpp>
#include <rankfold/core/types.hpp>

namespace rankfold::cli {

/// One run of one stage, ready to be parsed by its command.
struct StageRun {
    std::string name;   ///< of the stage, with "[seed=3]" or "[3]" if it is repeated
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
///     each = [1, 2, 3]          # the same, with these in place of {each} in the values
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

/// The keys of a TOML file without tables, and their values as the command line would have them.
/// @throws Error (Fault::input), alike on all ranks: not TOML (line), or a job of stages
[[nodiscard]] std::vector<std::pair<std::string, std::string>> flat_settings(
    const std::string& text, const std::string& file);

/// A text file, read by rank 0 for all. @collective @throws Error (Fault::input), agreed
[[nodiscard]] std::string read_job_text(const Communicator& comm, const std::string& file);

}  // namespace rankfold::cli
