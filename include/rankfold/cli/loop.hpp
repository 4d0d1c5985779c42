// What every command with a loop has in common: progress, checkpoints, stopping and going on.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <rankfold/cli/options.hpp>
#include <rankfold/cli/run.hpp>
#include <rankfold/data/checkpoint.hpp>
#include <rankfold/dist/steering.hpp>

namespace rankfold::cli {

/// The options of commands with a loop.
struct LoopOptions {
    std::string checkpoint;
    std::string every = "10min";
    bool resume = false;
    std::string time_limit;

    void declare(Options& options);
};

/// How often a checkpoint is due: after so many steps of a unit, or so many seconds.
struct Interval {
    Index steps = 0;  ///< 0: by time
    double seconds = 0.0;
};

/// "5sweeps", "2epochs", "1rounds", "10min", "30s", "2h".
/// @throws Error (Fault::input): none of these
[[nodiscard]] Interval parse_interval(const std::string& text);

/// The seconds in "30s", "10min", "2h".
/// @throws Error (Fault::input): none of these (names the option)
[[nodiscard]] double parse_time(const std::string& option, const std::string& text);
/// When this program must have ended, on the clock of monotonic_seconds(); infinity if nobody said:
/// `limit` ("30s", "10min", "2h"; empty: none) after its start, or a moment before Slurm's end of
/// the job (SLURM_JOB_END_TIME), whichever comes first.
/// @throws Error (Fault::input): not a time
[[nodiscard]] double deadline_after(const std::string& limit);

/// Steering that shows progress, keeps run.history, and, with --checkpoint,
/// writes checkpoints and goes on from them; a stop signal to any rank ends the loop after the next
/// step by an Error of Fault::stopped, with a checkpoint written; so does the time limit, before a
/// step that would not end in time.
///
/// A job that has other options or inputs than that of the checkpoints is refused.
/// @param inputs  role and digest of every input that decides the result
/// @collective when called and in all its functions; `run` must outlive it
[[nodiscard]] Steering steer(Run& run, const LoopOptions& options,
                             std::vector<std::pair<std::string, std::string>> inputs);

/// What must be the same for a run to go on: the command, and its options that decide the result.
[[nodiscard]] JobIdentity identity_of(const Run& run,
                                      std::vector<std::pair<std::string, std::string>> inputs);

}  // namespace rankfold::cli
