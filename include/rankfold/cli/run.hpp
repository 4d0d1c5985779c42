// What a command is, and what it gets when it runs.
#pragma once

#include <any>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include <rankfold/cli/options.hpp>
#include <rankfold/comm/communicator.hpp>
#include <rankfold/dist/factors.hpp>
#include <rankfold/dist/steering.hpp>

namespace rankfold::cli {

/// The options that every command has.
struct CommonOptions {
    std::string precision = "float";
    Index seed = 1;
    Index threads = 1;
    std::string report;
    bool force = false;
    bool dry_run = false;
    bool print_options = false;
    bool quiet = false;
    double watchdog = 60.0;  ///< seconds of silence; 0: off

    void declare(Options& options);
};

/// Objects that the stages of one job hand on in memory, keyed by the file that holds them too.
///
/// A command asks here before it reads a file; a command that writes a file leaves what it wrote.
class Handover {
public:
    /// The object that was left for this file, or null.
    template <class T>
    [[nodiscard]] std::shared_ptr<T> find(const std::string& file) const {
        const auto found = objects_.find(file);
        if (found == objects_.end()) return nullptr;
        const auto* held = std::any_cast<std::shared_ptr<T>>(&found->second);
        return held == nullptr ? nullptr : *held;
    }
    /// Keeps `object` for this file, if there are later stages at all.
    template <class T>
    void leave(const std::string& file, std::shared_ptr<T> object) {
        if (enabled) objects_[file] = std::move(object);
    }
    /// Forgets the objects of files for which `wanted` is false.
    void forget_unless(const std::function<bool(const std::string& file)>& wanted) {
        std::erase_if(objects_, [&](const auto& held) { return !wanted(held.first); });
    }

    bool enabled = false;  ///< true inside `rankfold run`

private:
    std::map<std::string, std::any> objects_;
};

/// What the checkpoints of a run cost.
struct CheckpointCost {
    Index written = 0;
    double seconds = 0.0;  ///< of writing all, on rank 0
    double bytes = 0.0;    ///< of one
};

/// One run of one command: what it works with and where it puts what it has to say.
struct Run {
    const Communicator& comm;
    Handover& handover;
    CommonOptions common;
    std::string command;
    nlohmann::ordered_json options;  ///< as resolved

    nlohmann::ordered_json result = nlohmann::ordered_json::object();  ///< of the report
    std::string digest{};                                              ///< 16 hex digits

    History history{};  ///< of the loop, also of the steps before a resume; the report has it
    CheckpointCost checkpoints{};
    double process_bytes = 0.0;    ///< that this rank needs besides its data
    bool prints_document = false;  ///< stdout is one: nothing is to follow it

    /// Prints a line a person reads to stdout, on rank 0 only.
    void say(const std::string& line) const;
    /// Prints a line of progress to stderr, on rank 0 only, unless --quiet.
    void log(const std::string& line) const;

    /// Collective check before the work: `path` may be written (its folder exists and is
    /// writable, it is none of `inputs`, and it is absent or --force is given).
    void check_output(const std::string& path, const std::vector<std::string>& inputs) const;
};

/// What a command does once its options are parsed.
using Action = std::function<void(Run&)>;

/// A command: declaring its options on a fresh table gives the action that runs with them.
struct Command {
    std::string name;
    std::string summary;
    std::function<Action(Options&)> declare;
};

/// All commands, in the order of help.
[[nodiscard]] const std::vector<Command>& commands();

/// Runs the chain of a job file, or one command, on all ranks; returns the exit code.
/// `arguments` are those of main() without the program's name.
int run_program(const std::vector<std::string>& arguments);

// Each in src/cli/commands/<name>.cpp.
Action declare_import(Options& options);
Action declare_generate(Options& options);
Action declare_split(Options& options);
Action declare_info(Options& options);
Action declare_als(Options& options);
Action declare_tune(Options& options);
Action declare_fold_in(Options& options);
Action declare_svd(Options& options);
Action declare_nmf(Options& options);
Action declare_mlp(Options& options);
Action declare_deepmf(Options& options);
Action declare_compress(Options& options);
Action declare_hybrid(Options& options);
Action declare_evaluate(Options& options);
Action declare_recommend(Options& options);
Action declare_predict(Options& options);
Action declare_run(Options& options);
Action declare_report(Options& options);
Action declare_plan(Options& options);
Action declare_doctor(Options& options);
Action declare_bench(Options& options);

}  // namespace rankfold::cli
