// rankfold run: the stages of a job file, one after the other, in one program.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <fmt/format.h>

#include <rankfold/cli/help.hpp>
#include <rankfold/cli/job.hpp>
#include <rankfold/cli/program.hpp>

namespace rankfold::cli {

namespace {

struct RunCommand {
    std::string job;
    std::vector<std::string> changes;
};

/// A text file, read by rank 0 for all. @collective
std::string read_text(const Communicator& comm, const std::string& file) {
    std::string text;
    comm.agree([&] {
        if (!comm.is_root()) return;
        std::ifstream in(file);
        std::ostringstream all;
        all << in.rdbuf();
        if (!in) throw input_error("the job file ", file, " cannot be read; does it exist?");
        text = all.str();
    });
    comm.broadcast(text);
    return text;
}

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

void run_job(Run& run, const RunCommand& o) {
    const std::string text = read_text(run.comm, o.job);
    std::vector<std::string> common{"--precision=" + run.common.precision,
                                    fmt::format("--seed={}", run.common.seed),
                                    fmt::format("--threads={}", run.common.threads)};
    if (run.common.force) common.emplace_back("--force");
    if (run.common.quiet) common.emplace_back("--quiet");
    std::string folder;
    const std::vector<StageRun> stages = plan_job(text, o.job, o.changes, common, folder);
    if (run.common.dry_run) return;
    run.comm.agree([&] {
        std::error_code failed;
        if (run.comm.is_root()) std::filesystem::create_directories(folder, failed);
        if (failed) {
            throw Error(Fault::system, concat("the folder ", folder, " could not be made: ",
                                              failed.message()));
        }
    });

    run.handover.enabled = true;
    const double start = monotonic_seconds();
    auto reports = nlohmann::ordered_json::array();
    for (std::size_t at = 0; at < stages.size(); ++at) {
        const StageRun& stage = stages[at];
        run.say(fmt::format("\n== {} ({} of {})", stage.name, at + 1, stages.size()));
        run.comm.ledger().restart();
        StageOutcome outcome;
        run_command(run.comm, run.handover, command_named(stage.command), stage.arguments,
                    outcome);
        nlohmann::ordered_json report{{"name", stage.name}, {"stage", stage.stage}};
        report.update(outcome.report);
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
