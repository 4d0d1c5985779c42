#include <rankfold/cli/run.hpp>

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include <fmt/format.h>

namespace rankfold::cli {

void CommonOptions::declare(Options& options) {
    options.add("precision", precision, "Type of the numbers", Accept::one_of({"float", "double"}));
    options.add("seed", seed, "Seed of all random numbers", Accept::at_least(0));
    options.add("threads", threads, "Threads inside each rank; any number gives the same bits",
                Accept::between(1, 1024));
    options.add("report", report, "Write the run report (JSON) to this file");
    options.add("force", force, "Overwrite outputs that exist");
    options.add("dry-run", dry_run, "Open the inputs, check options and outputs, and stop");
    options.add("print-options", print_options, "Print the options as resolved (JSON), and stop");
    options.add("quiet", quiet, "No progress on stderr");
    options.add("watchdog", watchdog,
                "End the job with exit code 79 when a rank or host has been silent for so many "
                "seconds; 0: never",
                Accept::at_least(0));
}

void Run::say(const std::string& line) const {
    if (comm.is_root()) fmt::print("{}\n", line);
}

void Run::log(const std::string& line) const {
    if (comm.is_root() && !common.quiet) fmt::print(stderr, "{}\n", line);
}

void Run::check_output(const std::string& path, const std::vector<std::string>& inputs) const {
    comm.agree([&] {
        if (!comm.is_root()) return;
        namespace fs = std::filesystem;
        if (path.empty()) {
            throw input_error(command, ": ", command == "split" ? "--prefix" : "--out",
                              " is missing; see --help");
        }
        const fs::path target(path);
        const fs::path folder = target.has_parent_path() ? target.parent_path() : fs::path(".");
        std::error_code ignored;
        if (!fs::is_directory(folder, ignored)) {
            throw input_error("the output folder ", folder.string(),
                              " does not exist; create it or name another --out");
        }
        if (access(folder.c_str(), W_OK) != 0) {
            throw input_error("the output folder ", folder.string(), " cannot be written (",
                              std::strerror(errno), "); name another --out");
        }
        for (const auto& input : inputs) {
            if (fs::equivalent(target, input, ignored)) {
                throw input_error("the output ", path, " is also an input; name another --out");
            }
        }
        const bool own = options.value("resume", false);  // of the run that goes on
        if (fs::exists(target, ignored) && !common.force && !own) {
            throw input_error("the output ", path,
                              " exists; remove it, or pass --force to overwrite it");
        }
    });
}

}  // namespace rankfold::cli
