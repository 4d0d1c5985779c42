#include <rankfold/cli/report.hpp>

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

#include <fmt/format.h>

#include <rankfold/comm/session.hpp>
#include <rankfold/linalg/blas.hpp>
#include <rankfold/linalg/blas_kernel.hpp>
#include <rankfold/linalg/row_kernels.hpp>
#include <rankfold/scalapack/full_svd.hpp>

namespace rankfold::cli {

namespace {

double peak_rss_bytes() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return static_cast<double>(usage.ru_maxrss) * 1024.0;
}

std::string cpu_name() {
    std::ifstream info("/proc/cpuinfo");
    for (std::string line; std::getline(info, line);) {
        if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
    }
    return "unknown";
}

std::string bytes_text(double bytes) {
    if (bytes < 1e3) return fmt::format("{:.0f}", bytes);
    if (bytes < 1e6) return fmt::format("{:.1f}k", bytes / 1e3);
    if (bytes < 1e9) return fmt::format("{:.1f}M", bytes / 1e6);
    return fmt::format("{:.2f}G", bytes / 1e9);
}

}  // namespace

double process_bytes() {
    constexpr double libraries = 20e6;
    std::ifstream statm("/proc/self/statm");
    double pages = 0.0;
    double resident = 0.0;
    statm >> pages >> resident;
    return resident * static_cast<double>(sysconf(_SC_PAGESIZE)) + libraries;
}

std::vector<PhaseSummary> summarise_phases(const Communicator& comm, Ledger& ledger) {
    const std::vector<PhaseRecord> mine = ledger.phases();
    std::string names;
    for (const auto& phase : mine) names += phase.name + "\n";
    std::vector<std::string> order;  // rank 0's, then what only others have
    std::set<std::string> known;
    for (const auto& list : comm.all_gather(names)) {
        std::istringstream lines(list);
        for (std::string name; std::getline(lines, name);) {
            if (known.insert(name).second) order.push_back(name);
        }
    }
    std::vector<PhaseSummary> summaries;
    for (const auto& name : order) {
        const auto found = std::ranges::find(mine, name, &PhaseRecord::name);
        const PhaseRecord own = found == mine.end() ? PhaseRecord{.name = name} : *found;
        PhaseSummary summary{.name = name};
        summary.seconds_min = comm.all_reduce(own.seconds, Reduce::min);
        summary.seconds_max = comm.all_reduce(own.seconds, Reduce::max);
        summary.seconds_mean = comm.all_reduce(own.seconds, Reduce::sum) / comm.size();
        summary.calls = comm.all_reduce(own.calls, Reduce::max);
        summary.flops = comm.all_reduce(own.flops, Reduce::sum);
        summary.bytes_sent = comm.all_reduce(own.bytes_sent, Reduce::sum);
        summary.bytes_predicted = comm.all_reduce(own.bytes_predicted, Reduce::sum);
        summary.slowest = comm.all_reduce(
            own.seconds == summary.seconds_max ? comm.rank() : comm.size(), Reduce::min);
        summaries.push_back(summary);
    }
    return summaries;
}

std::string phases_table(const std::vector<PhaseSummary>& phases, double wall_seconds) {
    std::string table =
        fmt::format("{:<22} {:>7} {:>9} {:>9} {:>9} {:>5} {:>6} {:>8} {:>10}\n", "phase", "calls",
                    "min s", "mean s", "max s", "rank", "%", "GF/s", "bytes sent");
    for (const auto& p : phases) {
        if (p.seconds_max < 0.0005 && p.bytes_sent == 0.0) continue;
        const std::string rate =
            p.flops > 0.0 ? fmt::format("{:.1f}", p.flops / p.seconds_max * 1e-9) : "";
        table +=
            fmt::format("{:<22} {:>7.0f} {:>9.3f} {:>9.3f} {:>9.3f} {:>5} {:>6.1f} {:>8} {:>10}\n",
                        p.name, p.calls, p.seconds_min, p.seconds_mean, p.seconds_max, p.slowest,
                        100.0 * p.seconds_mean / wall_seconds, rate, bytes_text(p.bytes_sent));
    }
    return table +
           fmt::format("{:<22} {:>7} {:>9} {:>9} {:>9.3f}", "wall", "", "", "", wall_seconds);
}

Placement placement(const Communicator& comm) {
    cpu_set_t mine;
    CPU_ZERO(&mine);
    sched_getaffinity(0, sizeof(mine), &mine);
    const auto sets = comm.all_gather(mine);
    const auto hosts = comm.all_gather(host_name());
    Placement worst;
    for (const auto& host : std::set<std::string>(hosts.begin(), hosts.end())) {
        cpu_set_t all;
        CPU_ZERO(&all);
        Placement here{.bound = true};
        Index own_processors = 0;
        for (std::size_t r = 0; r < sets.size(); ++r) {
            if (hosts[r] != host) continue;
            ++here.ranks;
            own_processors += CPU_COUNT(&sets[r]);
            CPU_OR(&all, &all, &sets[r]);
        }
        here.processors = CPU_COUNT(&all);
        here.bound = own_processors == here.processors;
        if (worst.ranks == 0 || here.ranks * worst.processors > worst.ranks * here.processors) {
            worst = here;
        }
    }
    return worst;
}

std::vector<std::string> advice(const Run& run, const std::vector<PhaseSummary>& phases,
                                double wall_seconds) {
    const Communicator& comm = run.comm;
    std::vector<std::string> lines;
    if (run.checkpoints.written > 0) {
        lines.push_back(
            fmt::format("checkpoints: {} of {} written in {:.3f} s, {:.1f} % of the run",
                        run.checkpoints.written, bytes_text(run.checkpoints.bytes),
                        run.checkpoints.seconds, 100.0 * run.checkpoints.seconds / wall_seconds));
    }
    const Placement place = placement(comm);
    if (wall_seconds < 1.0) return lines;  // too short for advice on its speed
    const Index wanted = place.ranks * run.common.threads;
    if (wanted > place.processors) {
        lines.push_back(fmt::format(
            "hint: {} ranks of {} threads share {} processors of a host: oversubscribed, so times "
            "say little; use at most {} ranks there",
            place.ranks, run.common.threads, place.processors,
            std::max(Index{1}, place.processors / run.common.threads)));
    } else if (comm.size() > 1 && !place.bound) {
        lines.emplace_back(
            "hint: ranks are not bound to cores: mpirun --bind-to core, srun --cpu-bind=cores");
    }
    const std::string kernel = blas_kernel_advice();
    if (!kernel.empty()) lines.push_back("hint: " + kernel);
    const double entries = run.result.value("entries", 0.0);
    if (comm.size() > 1 && entries > 0.0 && entries / comm.size() < 65536.0) {
        lines.push_back(fmt::format(
            "hint: {:.0f} entries a rank are too few to keep it busy; fewer ranks are as fast",
            entries / comm.size()));
    }
    for (const auto& p : phases) {
        const double waiting = p.seconds_max - p.seconds_mean;
        if (p.flops == 0.0 || comm.size() == 1 || waiting < 0.1 * wall_seconds) continue;
        lines.push_back(fmt::format(
            "hint: rank {} needs {:.1f} s for \"{}\" and the others {:.1f} s on average: is its "
            "host slower or busy?",
            p.slowest, p.seconds_max, p.name, p.seconds_mean));
    }
    return lines;
}

nlohmann::ordered_json build_facts() {
    return {{"version", RANKFOLD_VERSION},   {"git", RANKFOLD_GIT},
            {"compiler", RANKFOLD_COMPILER}, {"build_type", RANKFOLD_BUILD_TYPE},
            {"mpi", mpi_description()},      {"scalapack", has_scalapack()}};
}

nlohmann::ordered_json machine_facts(const Communicator& comm, Index threads) {
    const auto hosts = comm.all_gather(host_name());
    return {{"ranks", comm.size()},
            {"threads", threads},
            {"hosts", std::set<std::string>(hosts.begin(), hosts.end())},
            {"cpu", cpu_name()},
            {"blas", blas_description()},
            {"vector", vector_target()},
            {"sgemm_gflops", nullptr}};
}

nlohmann::ordered_json run_report(const Run& run, Ledger& ledger) {
    const auto phases = summarise_phases(run.comm, ledger);
    const double wall = run.comm.all_reduce(ledger.elapsed(), Reduce::max);
    const double rss = run.comm.all_reduce(peak_rss_bytes(), Reduce::max);
    auto phase_list = nlohmann::ordered_json::array();
    for (const auto& p : phases) {
        phase_list.push_back(
            {{"name", p.name},
             {"calls", p.calls},
             {"seconds",
              {{"min", p.seconds_min}, {"mean", p.seconds_mean}, {"max", p.seconds_max}}},
             {"slowest_rank", p.slowest},
             {"flops", p.flops},
             {"gflops", p.seconds_max > 0 ? p.flops / p.seconds_max * 1e-9 : 0.0},
             {"bytes_sent", p.bytes_sent},
             {"bytes_predicted", p.bytes_predicted}});
    }
    nlohmann::ordered_json report;
    report["rankfold"] = 1;
    report["command"] = run.command;
    report["options"] = run.options;
    report["build"] = build_facts();
    report["result"] = run.result;
    for (const auto& row : run.history.rows) {
        nlohmann::ordered_json step;
        for (std::size_t c = 0; c < row.size(); ++c) step[run.history.columns[c]] = row[c];
        report["result"]["history"].push_back(std::move(step));
    }
    report["digest"] = run.digest;
    report["phases"] = phase_list;
    if (run.checkpoints.written > 0) {
        report["checkpoints"] = {{"written", run.checkpoints.written},
                                 {"seconds", run.checkpoints.seconds},
                                 {"share_of_wall", run.checkpoints.seconds / wall},
                                 {"bytes", run.checkpoints.bytes}};
    }
    report["wall_seconds"] = wall;
    report["peak_rss_bytes"] = {{"max", rss}};
    const double predicted = run.comm.all_reduce(ledger.memory_predicted(), Reduce::max);
    if (predicted > 0.0) {
        report["peak_rss_bytes"]["predicted"] =
            predicted + run.comm.all_reduce(run.process_bytes, Reduce::max);
    }
    report["status"] = "done";
    return report;
}

void write_json(const Communicator& comm, const std::string& path,
                const nlohmann::ordered_json& json) {
    comm.agree([&] {
        if (!comm.is_root()) return;
        const std::string temporary = path + ".tmp";
        std::ofstream out(temporary);
        out << json.dump(2) << "\n";
        out.close();
        if (!out) {
            const int reason = errno;
            std::filesystem::remove(temporary);
            throw Error(Fault::system, concat("the report ", path,
                                              " could not be written: ", std::strerror(reason)));
        }
        std::filesystem::rename(temporary, path);
    });
}

}  // namespace rankfold::cli
