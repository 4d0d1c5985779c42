// From the command line to one command, and from its outcome to an exit code.
#include <rankfold/cli/program.hpp>

#include <algorithm>

#include <fmt/format.h>

#include <rankfold/cli/help.hpp>
#include <rankfold/cli/report.hpp>
#include <rankfold/cli/run.hpp>
#include <rankfold/comm/watchdog.hpp>
#include <rankfold/linalg/blas.hpp>
#include <rankfold/linalg/row_kernels.hpp>

namespace rankfold::cli {

const std::vector<Command>& commands() {
    static const std::vector<Command> all{
        {"import", "Make a matrix file from text, MatrixMarket, NumPy or IDX files",
         declare_import},
        {"generate", "Make a synthetic matrix of any size", declare_generate},
        {"split", "Cut a matrix into training, validation and test parts", declare_split},
        {"info", "Say what is in a file, and verify it", declare_info},
        {"als", "Factorise a matrix by alternating least squares", declare_als},
        {"tune", "Search a grid of ALS or NMF settings by a validation part", declare_tune},
        {"fold-in", "Give new rows factors beside given columns", declare_fold_in},
        {"svd", "Singular values and vectors, or principal components", declare_svd},
        {"nmf", "Factorise a matrix into nonnegative factors", declare_nmf},
        {"mlp", "Train a network on a matrix or on its factors", declare_mlp},
        {"deepmf", "Factorise a matrix by a network of two towers", declare_deepmf},
        {"compress", "Factorise a network's weight matrices, and train on", declare_compress},
        {"hybrid", "Fit factors and a network to one objective", declare_hybrid},
        {"evaluate", "Measure factors or a network on held-out entries", declare_evaluate},
        {"recommend", "List the best unseen columns of rows", declare_recommend},
        {"predict", "Apply a network to the rows of a matrix", declare_predict},
        {"run", "Run the stages of a job file", declare_run},
        {"plan", "Say what a job needs on any number of ranks", declare_plan},
        {"doctor", "Check this machine and this launch", declare_doctor},
        {"report", "Set the reports of several runs side by side", declare_report},
        {"bench", "Measure the speed of one part on this machine", declare_bench},
    };
    return all;
}

const Command& command_named(const std::string& name) {
    const auto found = std::ranges::find(commands(), name, &Command::name);
    if (found != commands().end()) return *found;
    std::vector<std::string> names;
    for (const auto& command : commands()) names.push_back(command.name);
    throw input_error("there is no command ", name, did_you_mean(name, names),
                      "; see rankfold --help");
}

namespace {

std::string overview() {
    std::string text =
        "rankfold: low-rank factors of large matrices, and networks on them, over MPI ranks\n\n"
        "Usage: rankfold <command> [inputs] [--options]\n"
        "       mpirun -n 4 rankfold <command> …\n\nCommands:\n";
    for (const auto& command : commands()) {
        text += fmt::format("  {:<11} {}\n", command.name, command.summary);
    }
    text += "\nrankfold <command> --help explains one command.\n";
    text += "rankfold help <topic>: " + help_topics_line() + "\n";
    text += "rankfold --version, rankfold --build-info\n";
    return text;
}

/// All ranks must compute with the same kernels, or equal digests could not be promised.
void check_same_kernels(const Communicator& comm) {
    const auto kernels = comm.all_gather(blas_description() + ", vectors " + vector_target());
    for (std::size_t r = 1; r < kernels.size(); ++r) {
        if (kernels[r] != kernels[0]) {
            throw Error(
                Fault::input,
                concat("rank 0 computes with ", kernels[0], ", but rank ", r, " with ", kernels[r],
                       "; set OPENBLAS_CORETYPE to the same kernel on all "
                       "hosts, or use hosts of one kind"),
                true);
        }
    }
}

}  // namespace

void run_command(const Communicator& comm, Handover& handover, const Command& command,
                 const std::vector<std::string>& arguments, StageOutcome& outcome) {
    Options options(command.name, command.summary);
    const Action action = command.declare(options);
    CommonOptions common;
    common.declare(options);
    if (!options.parse(arguments)) {
        if (comm.is_root()) fmt::print("{}", options.help());
        return;
    }
    if (common.print_options) {
        if (comm.is_root()) fmt::print("{}\n", options.resolved().dump(2));
        return;
    }
    Run run{.comm = comm,
            .handover = handover,
            .common = common,
            .command = command.name,
            .options = options.resolved(),
            .process_bytes = process_bytes()};
    if (!common.report.empty()) run.check_output(common.report, {});
    std::optional<Watchdog> watchdog;  // a chain's watches over its stages too
    if (!handover.enabled && common.watchdog > 0.0) {
        watchdog.emplace(comm, std::max(1.0, common.watchdog));
    }
    action(run);
    if (common.dry_run) {
        run.say("dry run: inputs, options and outputs are good");
        return;
    }
    if (command.name != "run") {  // a chain reports for its stages
        outcome.report = run_report(run, comm.ledger());
        if (command.name != "report" && !run.prints_document) {
            run.say("");
            const auto phases = summarise_phases(comm, comm.ledger());
            const double wall = comm.ledger().elapsed();
            run.say(phases_table(phases, wall));
            for (const auto& line : advice(run, phases, wall)) run.say(line);
        }
        if (!run.digest.empty()) run.say("digest " + run.digest);
    } else {
        outcome.report = std::move(run.result);
    }
    outcome.report["machine"] = machine_facts(comm, common.threads);
    if (!common.report.empty()) write_json(comm, common.report, outcome.report);
}

int run_program(const std::vector<std::string>& arguments) {
    use_one_blas_thread();
    Ledger ledger;
    const Communicator comm(ledger);
    try {
        const std::string first = arguments.empty() ? "--help" : arguments.front();
        if (first == "--help" || first == "-h" || (first == "help" && arguments.size() == 1)) {
            if (comm.is_root()) fmt::print("{}", overview());
            return 0;
        }
        if (first == "--version") {
            if (comm.is_root()) fmt::print("rankfold {}\n", RANKFOLD_VERSION);
            return 0;
        }
        if (first == "--build-info") {
            auto facts = build_facts();
            facts["machine"] = machine_facts(comm, 1);
            if (comm.is_root()) fmt::print("{}\n", facts.dump(2));
            return 0;
        }
        if (first == "help") {
            const std::string text = help_topic(arguments[1]);
            if (comm.is_root()) fmt::print("{}", text);
            return 0;
        }
        check_same_kernels(comm);
        Handover handover;
        StageOutcome outcome;
        run_command(comm, handover, command_named(first), {arguments.begin() + 1, arguments.end()},
                    outcome);
        return 0;
    } catch (const Error& error) {
        const bool all_alike =
            error.agreed() || error.fault() == Fault::input || error.fault() == Fault::check;
        if (!all_alike) throw;
        if (comm.is_root()) fmt::print(stderr, "rankfold: {}\n", error.what());
        return static_cast<int>(error.fault());
    }
}

}  // namespace rankfold::cli
