// The pages of src/cli/help and the jobs of jobs/examples, embedded in the program.
#pragma once

#include <string>

namespace rankfold::cli {

/// The names of all topics, for the overview.
[[nodiscard]] std::string help_topics_line();

/// The text of a topic. @throws Error (Fault::input) that names the nearest known one
[[nodiscard]] std::string help_topic(const std::string& topic);

/// The text of a built-in job file. @throws Error (Fault::input) that names the nearest known one
[[nodiscard]] std::string example_job(const std::string& name);

}  // namespace rankfold::cli
