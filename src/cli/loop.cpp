#include <rankfold/cli/loop.hpp>

#include <unistd.h>

#include <algorithm>
#include <charconv>
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
    "threads",    "report",       "force",        "dry-run", "print-options",
    "quiet",      "checkpoint",   "every",        "resume",  "out",
    "matrix",     "factors-file", "network",      "model",   "init",
    "validation", "row-features", "col-features", "grid",    "max-time"};

JobIdentity identity_of(const Run& run, std::vector<std::pair<std::string, std::string>> inputs) {
    auto options = nlohmann::ordered_json::object();
    for (const auto& [name, value] : run.options.items()) {
        if (!free_options.contains(name)) options[name] = value;
    }
    return {.command = run.command, .options = options.dump(), .inputs = std::move(inputs)};
}

/// Everything that is done between two steps.
class Loop {
public:
    Loop(Run& run, const LoopOptions& options,
         std::vector<std::pair<std::string, std::string>> inputs)
        : run_{run}, resume_{options.resume} {
        if (options.checkpoint.empty()) {
            if (options.resume) throw input_error("--resume needs --checkpoint DIR");
            return;
        }
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

    void checkpoint(const Progress& progress, const TensorList& state) {
        const double now = monotonic_seconds();
        const bool due = interval_.steps > 0 ? progress.step % interval_.steps == 0
                                             : now - saved_ >= interval_.seconds;
        // bit 0: a checkpoint is due; bit 1: somebody was asked to stop
        const int mine = (run_.comm.is_root() && due ? 1 : 0) | (stop_requested() ? 2 : 0);
        std::int32_t wishes[2] = {mine & 1, mine & 2};
        run_.comm.all_reduce(std::span<std::int32_t>(wishes), Reduce::max);
        const bool stop = wishes[1] != 0 && progress.step < progress.steps;
        if (wishes[0] == 0 && !stop) return;
        {
            const auto phase = run_.comm.ledger().phase("checkpoint");
            checkpoints_->save(state, progress.step, run_.history);
        }
        saved_ = monotonic_seconds();
        if (stop) {
            throw Error(Fault::stopped,
                        fmt::format("stopped on request after {} {}; a checkpoint is written: "
                                    "submit the same command with --resume to go on",
                                    progress.unit, progress.step),
                        true);
        }
    }

    Run& run_;
    bool resume_;
    Interval interval_;
    std::unique_ptr<Checkpoints> checkpoints_;
    bool terminal_ = isatty(STDERR_FILENO) != 0;
    double shown_ = -1e9;
    double saved_ = monotonic_seconds();
};

}  // namespace

void LoopOptions::declare(Options& options) {
    options.add("checkpoint", checkpoint,
                "Folder for checkpoints; a signal (USR1, USR2, TERM, …) then stops the run after a "
                "step, with exit code 75");
    options.add("every", every, "How often: 5sweeps, 2epochs, 1rounds, 3steps, 10min, 30s, 2h");
    options.add("resume", resume, "Go on from the newest good checkpoint, if there is one");
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
