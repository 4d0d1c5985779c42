// How commands are found and run.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <rankfold/cli/run.hpp>

namespace rankfold::cli {

/// What one command leaves behind.
struct StageOutcome {
    nlohmann::ordered_json report;  ///< null if nothing was run (--help, --dry-run)
};

/// The command of this name. @throws Error (Fault::input) that names the nearest known one
[[nodiscard]] const Command& command_named(const std::string& name);

/// Parses the arguments of one command, runs it, prints its phases and writes its report.
/// @collective over comm
void run_command(const Communicator& comm, Handover& handover, const Command& command,
                 const std::vector<std::string>& arguments, StageOutcome& outcome);

}  // namespace rankfold::cli
