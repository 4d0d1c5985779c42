// rankfold plan: what a job needs on any number of ranks, before it is submitted.
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <thread>

#include <fmt/format.h>

#include <rankfold/cli/job.hpp>

#include "plan_stage.hpp"

namespace rankfold::cli {

namespace {

struct PlanCommand {
    std::string job;
    std::vector<std::string> changes;
    std::vector<Index> ranks{1, 2, 4, 8, 16, 32, 64};
    std::optional<std::string> memory;
    std::string calibration;
    bool slurm = false;
};

/// What all stages need on one number of ranks.
struct Total {
    double memory = 0.0;   // bytes a rank
    double seconds = 0.0;  // of all steps
};

double memory_per_core() {
    return static_cast<double>(sysconf(_SC_PHYS_PAGES)) *
           static_cast<double>(sysconf(_SC_PAGESIZE)) /
           std::max(1U, std::thread::hardware_concurrency());
}

/// What bounds a step on so many ranks.
std::string limit_of(const StageCost& cost, const StageCost& before, const MachineSpeed& speed) {
    const double flops = cost.step.flops * speed.seconds_per_flop;
    if (flops < 0.5 * cost.seconds) return "communication";
    const double ideal = before.step.flops * before.ranks / cost.ranks;
    return cost.step.flops > 1.25 * ideal ? "imbalance" : "arithmetic";
}

/// Whether a command needs no more than what comes before or after it.
bool is_light(const std::string& command) {
    return command == "import" || command == "split" || command == "evaluate" ||
           command == "recommend" || command == "predict" || command == "info";
}

void add_to_totals(const PlannedStage& stage, std::vector<Total>& totals) {
    for (std::size_t i = 0; i < stage.costs.size(); ++i) {
        totals[i].memory = std::max(totals[i].memory, sum_of(stage.costs[i].memory));
        totals[i].seconds += stage.costs[i].seconds * static_cast<double>(stage.steps);
    }
}

/// Says what a stage costs, and adds it to the report.
void tell_stage(Run& run, const PlannedStage& stage) {
    run.say(fmt::format("\n{}: {}", stage.name, stage.about));
    run.say(fmt::format("{:>6} {:>12} {:>14} {:>9} {:>13} {:>9}  {}", "ranks", "memory/rank",
                        "bytes/" + stage.unit, "messages", "s/" + stage.unit, "speed-up",
                        "limited by"));
    auto& json = run.result["stages"][stage.name];
    json["steps"] = stage.steps;
    for (std::size_t i = 0; i < stage.costs.size(); ++i) {
        const StageCost& c = stage.costs[i];
        const double memory = sum_of(c.memory);
        nlohmann::ordered_json parts;
        for (const auto& [what, bytes] : c.memory) parts[what] = bytes;
        const std::string limit = limit_of(c, stage.costs.front(), stage.speed);
        run.say(fmt::format("{:>6} {:>9.3f} GB {:>11.3f} MB {:>9.0f} {:>13.4g} {:>9.2f}  {}{}",
                            c.ranks, memory * 1e-9, c.bytes * 1e-6, c.step.messages, c.seconds,
                            stage.costs.front().seconds / c.seconds, limit,
                            c.note.empty() ? "" : " (" + c.note + ")"));
        json["ranks"][std::to_string(c.ranks)] = {
            {"peak_rss_bytes", memory},    {"memory", parts},       {"bytes_per_step", c.bytes},
            {"messages", c.step.messages}, {"flops", c.step.flops}, {"seconds_per_step", c.seconds},
            {"limited_by", limit}};
    }
    const StageCost& last = stage.costs.back();
    std::string parts;
    for (const auto& [what, bytes] : last.memory) {
        parts += fmt::format("{}{} {:.1f} MB", parts.empty() ? "" : ", ", what, bytes * 1e-6);
    }
    run.say(fmt::format("memory on {} ranks: {}", last.ranks, parts));
}

/// The text as one word of a shell.
std::string quoted(const std::string& text) {
    std::string word = "'";
    for (const char c : text) word += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return word + "'";
}

/// What `rankfold run` is given besides threads and files of its own.
std::string run_words(const Run& run, const PlanCommand& o) {
    const CommonOptions usual;
    std::string words = quoted(o.job);
    for (const auto& change : o.changes) words += " --set " + quoted(change);
    if (run.common.precision != usual.precision) words += " --precision " + run.common.precision;
    if (run.common.seed != usual.seed) words += fmt::format(" --seed {}", run.common.seed);
    return words;
}

/// The batch script of this job on `ranks` ranks.
/// @param unplanned  names of stages that count neither in the memory nor in the time
std::string batch_script(const Run& run, const PlanCommand& o, Index ranks, const Total& total,
                         const std::string& unplanned) {
    const Index threads = run.common.threads;
    const double minutes = std::max(5.0, 1.5 * total.seconds / 60.0 + 5.0);
    const auto whole = static_cast<Index>(minutes) + 1;
    const double megabytes = 1.25 * total.memory / static_cast<double>(threads) * 1e-6 + 64.0;
    const std::string memory =
        unplanned.empty()
            ? fmt::format("#SBATCH --mem-per-cpu={:.0f}M\n", megabytes)
            : fmt::format("# Not planned, so set time and memory yourself: {}\n", unplanned);
    return fmt::format(R"SBATCH(#!/bin/bash
# {0} ranks: {1:.3f} GB a rank and some {2:.0f} s by `rankfold plan`. It stops ahead of its limit with
# a checkpoint and requeues itself until it is done; submitted again, it goes on from there.
#SBATCH --job-name=rankfold
#SBATCH --ntasks={0}
#SBATCH --cpus-per-task={3}
{4}#SBATCH --time={5:02}:{6:02}:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS={3} OMP_PLACES=cores OMP_PROC_BIND=close
export SRUN_CPUS_PER_TASK={3}
end=$(date -d "$(squeue -h -j "$SLURM_JOB_ID" -o %e)" +%s)
export SLURM_JOB_END_TIME=${{SLURM_JOB_END_TIME:-$end}}
srun --mpi=pmix --cpu-bind=cores --kill-on-bad-exit=1 "${{RANKFOLD:-rankfold}}" run {7} \
    --threads {3} --checkpoint {8} --resume --force --report "rankfold-$SLURM_JOB_ID.json" &
launched=$!
trap 'kill -USR1 $launched' USR1 TERM
wait $launched
status=$?
while kill -0 $launched 2>/dev/null; do wait $launched; status=$?; done
# after scancel the job is no longer RUNNING
if ((status == 75)) && [[ $(squeue -h -j "$SLURM_JOB_ID" -o %T) == RUNNING ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
)SBATCH",
                       ranks, total.memory * 1e-9, total.seconds, threads, memory, whole / 60,
                       whole % 60, run_words(run, o),
                       quoted(std::filesystem::path(o.job).stem().string() + ".checkpoints"));
}

/// Of the numbers of ranks that fit, the greatest that still is half as efficient as the least.
std::size_t advisable(const std::vector<Index>& ranks, const std::vector<Total>& totals,
                      double room, std::optional<std::size_t>& least) {
    for (std::size_t i = 0; i < totals.size() && !least; ++i) {
        if (totals[i].memory <= room) least = i;
    }
    std::size_t best = least.value_or(totals.size() - 1);
    for (std::size_t i = best; i < totals.size(); ++i) {
        const double gain = totals[least.value_or(i)].seconds / totals[i].seconds;
        const double more =
            static_cast<double>(ranks[i]) / static_cast<double>(ranks[least.value_or(i)]);
        if (gain >= 0.5 * more) best = i;
    }
    return best;
}

void run_plan(Run& run, PlanCommand o) {
    std::ranges::sort(o.ranks);
    const std::string text = read_job_text(run.comm, o.job);
    std::vector<std::string> common{"--precision=" + run.common.precision,
                                    fmt::format("--seed={}", run.common.seed),
                                    fmt::format("--threads={}", run.common.threads)};
    std::string folder;
    const auto stages = plan_job(text, o.job, o.changes, common, folder);
    if (run.common.dry_run) return;
    StagePlanner planner(run, {o.ranks.begin(), o.ranks.end()}, o.calibration);
    std::vector<Total> totals(o.ranks.size());
    int planned = 0;
    std::string unplanned;  // stages that may need more than those that are
    for (const StageRun& stage : stages) {
        const auto found = planner.plan(stage);
        planned += found.costs.empty() ? 0 : 1;
        add_to_totals(found, totals);
        if (found.costs.empty() && !is_light(stage.command)) {
            unplanned += (unplanned.empty() ? "" : ", ") + found.name;
        }
        if (o.slurm) continue;
        if (found.costs.empty()) {
            run.say(fmt::format("\n{}: not planned ({})", stage.name, found.about));
        } else {
            tell_stage(run, found);
        }
    }
    planner.save();
    if (planned == 0) {
        throw input_error(o.job,
                          ": none of its stages can be planned: als and mlp on matrix files "
                          "that exist can; run the stages that make them first (import, split)");
    }
    const double room = o.memory ? parse_bytes("--memory-per-rank", *o.memory) : memory_per_core();
    std::optional<std::size_t> least;
    const std::size_t best = advisable(o.ranks, totals, room, least);
    const std::string fits =
        least ? fmt::format("least ranks that fit in {:.2f} GB each: {}; {} are worth it",
                            room * 1e-9, o.ranks[*least], o.ranks[best])
              : fmt::format(
                    "none of these numbers of ranks fits in {:.2f} GB each: more --ranks, "
                    "or nodes with more memory (--memory-per-rank)",
                    room * 1e-9);
    if (o.slurm) {
        run.prints_document = true;
        if (!least) run.log(fits);
        if (run.comm.is_root()) {
            fmt::print("{}", batch_script(run, o, o.ranks[best], totals[best], unplanned));
        }
        return;
    }
    if (least) run.result["least_ranks_that_fit"] = o.ranks[*least];
    run.result["advised_ranks"] = o.ranks[best];
    run.say("\n" + fits);
}

}  // namespace

Action declare_plan(Options& options) {
    auto o = std::make_shared<PlanCommand>();
    options.positional("job", o->job, "Job file (TOML), whose als and mlp stages are planned");
    options.add("set", o->changes, "Change options of the job: stage.option=value");
    options.add("ranks", o->ranks, "Numbers of ranks to plan for", Accept::between(1, 4096));
    options.add("memory-per-rank", o->memory,
                "Bytes that a rank may use, as 4GB; not given: this machine's memory for each of "
                "its processors");
    options.add("calibration", o->calibration,
                "File with the speeds of a machine; measured here and written if it is absent");
    options.add("slurm", o->slurm, "Print a batch script for the advised number of ranks, no more");
    options.examples(
        "rankfold plan job.toml --ranks 1,2,4,64\n"
        "rankfold plan job.toml --memory-per-rank 4GB --calibration cluster.json\n"
        "rankfold plan job.toml --slurm > job.sbatch");
    return [o](Run& run) { run_plan(run, *o); };
}

}  // namespace rankfold::cli
