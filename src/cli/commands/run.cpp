// rankfold run: the stages of a job file, one after the other, in one program.
#include <cmath>
#include <filesystem>

#include <fmt/format.h>

#include <rankfold/cli/help.hpp>
#include <rankfold/cli/job.hpp>
#include <rankfold/cli/loop.hpp>
#include <rankfold/cli/program.hpp>
#include <rankfold/cli/report.hpp>
#include <rankfold/cli/signals.hpp>

#include "finished_parts.hpp"

namespace rankfold::cli {

namespace {

struct RunCommand {
    std::string job;
    std::vector<std::string> changes;
    LoopOptions loop;
};

/// Collects the numbers in a result under "a.b" names.
void collect_numbers(const nlohmann::ordered_json& json, const std::string& name,
                     std::map<std::string, std::vector<double>>& numbers) {
    if (json.is_number()) numbers[name].push_back(json.get<double>());
    if (!json.is_object()) return;
    for (const auto& [key, value] : json.items()) {
        collect_numbers(value, name.empty() ? key : name + "." + key, numbers);
    }
}

/// Mean and standard deviation of every number in the results of a repeated stage.
nlohmann::ordered_json summarise_seeds(const nlohmann::ordered_json& stages,
                                       const std::string& stage) {
    std::map<std::string, std::vector<double>> numbers;
    for (const auto& report : stages) {
        if (report["stage"] == stage) collect_numbers(report["result"], "", numbers);
    }
    auto summary = nlohmann::ordered_json::object();
    for (const auto& [name, values] : numbers) {
        const auto n = static_cast<double>(values.size());
        double mean = 0.0;
        for (const double x : values) mean += x / n;
        double square = 0.0;
        for (const double x : values) square += (x - mean) * (x - mean);
        summary[name] = {{"mean", mean},
                         {"deviation", n > 1.0 ? std::sqrt(square / (n - 1.0)) : 0.0}};
    }
    return summary;
}

/// The arguments of a stage without those that may differ when a job goes on.
std::vector<std::string> significant(const StageRun& stage) {
    std::vector<std::string> arguments;
    for (const auto& a : stage.arguments) {
        const bool free = a == "--resume" || a == "--force" || a == "--quiet" ||
                          a.starts_with("--threads=") || a.starts_with("--checkpoint=") ||
                          a.starts_with("--every=") || a.starts_with("--time-limit=");
        if (!free) arguments.push_back(a);
    }
    return arguments;
}

/// Ends the job between two stages if any rank was asked to stop, or the time is over. @collective
void stop_if_asked(const Communicator& comm, const LoopOptions& options, const StageRun& next) {
    if (options.checkpoint.empty()) return;
    const bool late =
        comm.is_root() && monotonic_seconds() + 1.0 > deadline_after(options.time_limit);
    const auto reason = comm.all_reduce(std::int32_t{stop_requested() ? 2
                                                     : late           ? 1
                                                                      : 0},
                                        Reduce::max);
    if (reason == 0) return;
    throw Error(
        Fault::stopped,
        concat("stopped ", reason == 2 ? "on request" : "ahead of the time limit", " before stage ",
               next.name, "; submit the same command with --resume to go on"),
        true);
}

void run_job(Run& run, const RunCommand& o) {
    const std::string text = read_job_text(run.comm, o.job);
    std::vector<std::string> common{"--precision=" + run.common.precision,
                                    fmt::format("--seed={}", run.common.seed),
                                    fmt::format("--threads={}", run.common.threads)};
    if (run.common.force) common.emplace_back("--force");
    if (run.common.quiet) common.emplace_back("--quiet");
    if (!o.loop.checkpoint.empty()) {
        common.push_back("--checkpoint=" + o.loop.checkpoint + "/@stage");
        common.push_back("--every=" + o.loop.every);
        if (!o.loop.time_limit.empty()) common.push_back("--time-limit=" + o.loop.time_limit);
    } else if (!o.loop.time_limit.empty()) {
        throw input_error("--time-limit needs --checkpoint DIR");
    }
    if (o.loop.resume) {  // what a killed stage has written is this job's own
        if (o.loop.checkpoint.empty()) throw input_error("--resume needs --checkpoint DIR");
        common.emplace_back("--resume");
        common.emplace_back("--force");
    }
    std::string folder;
    const std::vector<StageRun> stages = plan_job(text, o.job, o.changes, common, folder);
    if (run.common.dry_run) return;
    run.comm.agree([&] {
        std::error_code failed;
        if (run.comm.is_root()) std::filesystem::create_directories(folder, failed);
        if (failed) {
            throw Error(Fault::system,
                        concat("the folder ", folder, " could not be made: ", failed.message()));
        }
    });

    FinishedParts finished(run.comm, o.loop);
    if (!o.loop.checkpoint.empty()) catch_stop_signals();
    run.handover.enabled = true;
    const double start = monotonic_seconds();
    auto reports = nlohmann::ordered_json::array();
    for (std::size_t at = 0; at < stages.size(); ++at) {
        const StageRun& stage = stages[at];
        if (auto report = finished.find(stage.name, significant(stage)); !report.is_null()) {
            run.say(fmt::format("\n== {} ({} of {}): finished by an earlier run", stage.name,
                                at + 1, stages.size()));
            reports.push_back(std::move(report));
            continue;
        }
        stop_if_asked(run.comm, o.loop, stage);
        run.say(fmt::format("\n== {} ({} of {})", stage.name, at + 1, stages.size()));
        run.comm.ledger().restart();
        StageOutcome outcome;
        run_command(run.comm, run.handover, command_named(stage.command), stage.arguments, outcome);
        nlohmann::ordered_json report{{"name", stage.name}, {"stage", stage.stage}};
        report.update(outcome.report);
        finished.add(stage.name, significant(stage), report);
        reports.push_back(std::move(report));
        run.handover.forget_unless([&](const std::string& file) {
            for (std::size_t later = at + 1; later < stages.size(); ++later) {
                for (const auto& argument : stages[later].arguments) {
                    if (argument.ends_with(file)) return true;
                }
            }
            return false;
        });
    }
    run.say(fmt::format("\n== job {} done in {:.1f} s", o.job, monotonic_seconds() - start));
    auto seeds = nlohmann::ordered_json::object();
    for (const auto& report : reports) {
        const auto digest = report["digest"].get<std::string>();
        if (!digest.empty()) {
            run.say(fmt::format("{:<28} digest {}", report["name"].get<std::string>(), digest));
        }
        const auto stage = report["stage"].get<std::string>();
        if (report["name"] != stage && !seeds.contains(stage)) {
            seeds[stage] = summarise_seeds(reports, stage);
            for (const auto& [name, numbers] : seeds[stage].items()) {
                run.say(fmt::format("{:<28} {} {:.6g} ± {:.2g}", stage, name,
                                    numbers["mean"].get<double>(),
                                    numbers["deviation"].get<double>()));
            }
        }
    }
    run.result = {{"rankfold", 1},
                  {"command", "run"},
                  {"options", run.options},
                  {"job", o.job},
                  {"stages", reports},
                  {"seeds", seeds},
                  {"wall_seconds", monotonic_seconds() - start},
                  {"status", "done"}};
}

}  // namespace

Action declare_run(Options& options) {
    auto o = std::make_shared<RunCommand>();
    options.positional("job", o->job,
                       "Job file (TOML), or after --example the name of a built-in one");
    options.add("set", o->changes, "Change options of the job: stage.option=value");
    o->loop.declare(options);
    auto example = std::make_shared<bool>(false);
    options.add("example", *example, "Print the built-in job of this name, and stop");
    options.examples(
        "rankfold run --example quickstart > job.toml\n"
        "mpirun -n 2 rankfold run job.toml --report job.json\n"
        "mpirun -n 4 rankfold run job.toml --set als.factors=128 --force");
    return [o, example](Run& run) {
        if (*example) {
            const std::string text = example_job(o->job);
            if (run.comm.is_root()) fmt::print("{}", text);
        } else {
            run_job(run, *o);
        }
    };
}

}  // namespace rankfold::cli
