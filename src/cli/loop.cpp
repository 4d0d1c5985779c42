#include <rankfold/cli/loop.hpp>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <ctime>
#include <limits>
#include <memory>
#include <optional>
#include <set>

#include <fmt/format.h>

#include <rankfold/cli/signals.hpp>
#include <rankfold/data/checkpoint.hpp>

namespace rankfold::cli {

namespace {

/// Options that do not change the result, so a run may go on with others.
const std::set<std::string> free_options{
    "threads",    "report",     "force",    "dry-run",    "print-options", "quiet",
    "checkpoint", "every",      "resume",   "out",        "matrix",        "factors-file",
    "network",    "model",      "init",     "validation", "row-features",  "col-features",
    "grid",       "time-limit", "watchdog", "max-time"};

/// When the program started, near enough: the dynamic initialisation of this file.
const double program_start = monotonic_seconds();

/// The time that is kept free for what comes after the last checkpoint.
constexpr double closing_s = 0.5;

/// Everything that is done between two steps.
class Loop {
public:
    Loop(Run& run, const LoopOptions& options,
         std::vector<std::pair<std::string, std::string>> inputs)
        : run_{run}, resume_{options.resume} {
        if (options.checkpoint.empty()) {
            if (options.resume) throw input_error("--resume needs --checkpoint DIR");
            if (!options.time_limit.empty()) {
                throw input_error("--time-limit needs --checkpoint DIR");
            }
            return;
        }
        deadline_ = deadline_after(options.time_limit);
        interval_ = parse_interval(options.every);
        checkpoints_ = std::make_unique<Checkpoints>(
            run_.comm, options.checkpoint, identity_of(run_, std::move(inputs)),
            [this](const std::string& warning) { run_.log("warning: " + warning); });
        catch_stop_signals();
    }

    Index restore(TensorList& state) {
        if (!checkpoints_ || !resume_) return 0;
        const auto phase = run_.comm.ledger().phase("checkpoint");
        const auto restored = checkpoints_->restore(state);
        if (!restored) {
            run_.log("no checkpoint yet: starting from the beginning");
            return 0;
        }
        run_.history = restored->history;
        step_began_ = monotonic_seconds();
        run_.log(fmt::format("going on after step {} of an earlier run", restored->step));
        return restored->step;
    }

    Verdict after(const Progress& progress, const TensorList& state) {
        record(progress);
        show(progress);
        if (checkpoints_) checkpoint(progress, state);
        return Verdict::go_on;
    }

private:
    void record(const Progress& progress) {
        run_.history.columns = {progress.unit};
        run_.history.rows.push_back({static_cast<double>(progress.step)});
        for (const auto& [name, value] : progress.values) {
            run_.history.columns.push_back(name);
            run_.history.rows.back().push_back(value);
        }
    }

    /// A bar only on a terminal, else a plain line at most every 30 s, and the last one.
    void show(const Progress& progress) {
        if (!run_.comm.is_root() || run_.common.quiet) return;
        const double now = monotonic_seconds();
        const bool last = progress.step == progress.steps;
        if (!terminal_ && !last && now - shown_ < 30.0) return;
        shown_ = now;
        std::string line =
            fmt::format("{}: {} {}/{}", run_.command, progress.unit, progress.step, progress.steps);
        for (const auto& [name, value] : progress.values) {
            line += fmt::format("  {} {:.6g}", name, value);
        }
        fmt::print(stderr, "{}{}{}", terminal_ ? "\r\033[K" : "", line,
                   terminal_ && !last ? "" : "\n");
        std::fflush(stderr);
    }

    /// True if another step like the longest of the last four, and a checkpoint after it, would
    /// end too late.
    [[nodiscard]] bool out_of_time(double now) const {
        const double step = *std::ranges::max_element(step_seconds_);
        return now + 1.1 * step + 1.5 * longest_save_ + closing_s > deadline_;
    }

    void checkpoint(const Progress& progress, const TensorList& state) {
        const double now = monotonic_seconds();
        step_seconds_[static_cast<std::size_t>(progress.step) % step_seconds_.size()] =
            now - step_began_;
        const bool due = interval_.steps > 0 ? progress.step % interval_.steps == 0
                                             : now - saved_ >= interval_.seconds;
        const bool root = run_.comm.is_root();  // whose clock decides
        std::int32_t wishes[3] = {root && due, root && out_of_time(now), stop_requested()};
        run_.comm.all_reduce(std::span<std::int32_t>(wishes), Reduce::max);
        const bool stop = (wishes[1] != 0 || wishes[2] != 0) && progress.step < progress.steps;
        if (wishes[0] != 0 || stop) save(progress.step, state);
        if (stop) {
            throw Error(Fault::stopped,
                        fmt::format("stopped {} after {} {}; a checkpoint is written: submit the "
                                    "same command with --resume to go on",
                                    wishes[2] != 0 ? "on request" : "ahead of the time limit",
                                    progress.unit, progress.step),
                        true);
        }
        step_began_ = monotonic_seconds();
    }

    void save(Index step, const TensorList& state) {
        const auto phase = run_.comm.ledger().phase("checkpoint");
        const double start = monotonic_seconds();
        checkpoints_->save(state, step, run_.history);
        saved_ = monotonic_seconds();
        longest_save_ = std::max(longest_save_, saved_ - start);
        run_.checkpoints.seconds += saved_ - start;
        run_.checkpoints.bytes = global_bytes(state);
        ++run_.checkpoints.written;
    }

    static double global_bytes(const TensorList& state) {
        double bytes = 0.0;
        for (const Tensor& tensor : state.tensors) {
            double size = std::visit(
                [](auto values) {
                    return static_cast<double>(sizeof(typename decltype(values)::value_type));
                },
                tensor.data);
            for (const Index n : tensor.shape) size *= static_cast<double>(n);
            bytes += size;
        }
        return bytes;
    }

    Run& run_;
    bool resume_;
    Interval interval_;
    std::unique_ptr<Checkpoints> checkpoints_;
    bool terminal_ = isatty(STDERR_FILENO) != 0;
    double shown_ = -1e9;
    double saved_ = monotonic_seconds();
    double deadline_ = std::numeric_limits<double>::infinity();
    double step_began_ = monotonic_seconds();
    double longest_save_ = 0.0;
    std::array<double, 4> step_seconds_{};  // of the last steps
};

}  // namespace

JobIdentity identity_of(const Run& run, std::vector<std::pair<std::string, std::string>> inputs) {
    auto options = nlohmann::ordered_json::object();
    for (const auto& [name, value] : run.options.items()) {
        if (!free_options.contains(name)) options[name] = value;
    }
    return {.command = run.command, .options = options.dump(), .inputs = std::move(inputs)};
}

double deadline_after(const std::string& limit) {
    double deadline = std::numeric_limits<double>::infinity();
    if (!limit.empty()) {
        deadline = program_start + parse_time("time-limit", limit);
    }
    if (const char* slurm = std::getenv("SLURM_JOB_END_TIME")) {
        const double left = std::strtod(slurm, nullptr) - static_cast<double>(std::time(nullptr));
        if (left > 0.0) deadline = std::min(deadline, monotonic_seconds() + left - 1.0);
    }
    return deadline;
}

void LoopOptions::declare(Options& options) {
    options.add("checkpoint", checkpoint,
                "Folder for checkpoints; a signal (USR1, USR2, TERM, …) then stops the run after a "
                "step, with exit code 75");
    options.add("every", every, "How often: 5sweeps, 2epochs, 1rounds, 3steps, 10min, 30s, 2h");
    options.add("resume", resume, "Go on from the newest good checkpoint, if there is one");
    options.add("time-limit", time_limit,
                "Stop with a checkpoint and exit code 75 before a step that would end later than "
                "this after the start: 90s, 10min, 2h; in a Slurm job also before its end");
}

namespace {

/// "5sweeps" as 5 and "sweeps"; 0 if no positive number begins the text.
std::pair<double, std::string> number_and_unit(const std::string& text) {
    double number = 0.0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
    return {code == std::errc() ? std::max(0.0, number) : 0.0,
            std::string(end, text.data() + text.size())};
}

std::optional<double> seconds_of(double number, const std::string& unit) {
    if (number <= 0.0) return std::nullopt;
    if (unit == "s") return number;
    if (unit == "min") return 60.0 * number;
    if (unit == "h") return 3600.0 * number;
    return std::nullopt;
}

}  // namespace

double parse_time(const std::string& option, const std::string& text) {
    const auto [number, unit] = number_and_unit(text);
    const auto seconds = seconds_of(number, unit);
    if (!seconds) {
        throw input_error("--", option, " '", text, "' is none of the forms 30s, 10min, 2h");
    }
    return *seconds;
}

Interval parse_interval(const std::string& text) {
    const auto [number, unit] = number_and_unit(text);
    if (const auto seconds = seconds_of(number, unit)) return {.seconds = *seconds};
    if (number > 0.0) {
        const bool whole = number == static_cast<double>(static_cast<Index>(number));
        if (whole && (unit == "sweeps" || unit == "epochs" || unit == "rounds" || unit == "sweep" ||
                      unit == "epoch" || unit == "round" || unit == "steps" || unit == "step")) {
            return {.steps = static_cast<Index>(number)};
        }
    }
    throw input_error("--every '", text,
                      "' is none of the forms 5sweeps, 2epochs, 1rounds, 3steps, "
                      "10min, 30s, 2h");
}

Steering steer(Run& run, const LoopOptions& options,
               std::vector<std::pair<std::string, std::string>> inputs) {
    const auto loop = std::make_shared<Loop>(run, options, std::move(inputs));
    return {.restore = [loop](TensorList& state) { return loop->restore(state); },
            .after = [loop](const Progress& progress,
                            const TensorList& state) { return loop->after(progress, state); }};
}

}  // namespace rankfold::cli
