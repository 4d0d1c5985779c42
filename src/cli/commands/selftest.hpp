// Known answers, for machines where the tests cannot run.
#pragma once

#include <rankfold/cli/run.hpp>

namespace rankfold::cli {

/// Says of each check whether it passed, and returns the number of those that failed.
/// @collective over run.comm
[[nodiscard]] int run_selftest(Run& run);

}  // namespace rankfold::cli
