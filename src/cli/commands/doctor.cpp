// rankfold doctor: whether this machine and this launch suit the program, line by line.
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include <fmt/format.h>

#include <rankfold/bench/bench_result.hpp>
#include <rankfold/cli/report.hpp>
#include <rankfold/comm/calibrate.hpp>
#include <rankfold/comm/session.hpp>
#include <rankfold/data/tensor_file.hpp>
#include <rankfold/dist/synthetic.hpp>
#include <rankfold/linalg/blas.hpp>
#include <rankfold/linalg/blas_kernel.hpp>
#include <rankfold/linalg/row_kernels.hpp>

#include "selftest.hpp"

namespace rankfold::cli {

namespace {

struct DoctorCommand {
    std::string folder = ".";
    bool selftest = false;
};

/// The lines, and what they say in the report.
class Diagnosis {
public:
    explicit Diagnosis(Run& run) : run_{run} {}

    /// @param advice  what to change, if it is not good
    void line(const std::string& what, bool good, const std::string& found,
              const std::string& advice = "") {
        run_.say(fmt::format("{:<7} {:<20} {}{}", good ? "good" : "CHANGE", what, found,
                             good || advice.empty() ? "" : ": " + advice));
        run_.result["lines"].push_back(
            {{"what", what}, {"good", good}, {"found", found}, {"advice", good ? "" : advice}});
        wrong_ += good ? 0 : 1;
    }

    [[nodiscard]] int wrong() const { return wrong_; }

private:
    Run& run_;
    int wrong_ = 0;
};

void check_launch(Run& run, Diagnosis& diagnosis) {
    const Communicator& comm = run.comm;
    diagnosis.line("MPI", true, mpi_description() + ", threads " + thread_level());
    const auto tells_more = [&](const char* name) {  // ranks than there are here
        const char* text = std::getenv(name);
        return text != nullptr && std::atoi(text) > comm.size();
    };
    const bool step =
        std::getenv("SLURM_PROCID") != nullptr && std::getenv("SLURM_STEP_ID") != nullptr;
    const bool split = comm.size() == 1 &&
                       (tells_more("PMI_SIZE") || tells_more("MPI_LOCALNRANKS") ||
                        tells_more("OMPI_COMM_WORLD_SIZE") || (step && tells_more("SLURM_NTASKS")));
    diagnosis.line("launcher", !split, fmt::format("{} ranks", comm.size()),
                   "several were started, but each is a job of its own: srun --mpi=pmix, or mpirun "
                   "of the MPI that this program was built with");
    const Placement place = placement(comm);
    const Index wanted = place.ranks * run.common.threads;
    diagnosis.line(
        "processors", wanted <= place.processors,
        fmt::format("{} ranks x {} threads on {} processors of a host", place.ranks,
                    run.common.threads, place.processors),
        fmt::format("at most {} ranks of {} threads",
                    std::max(Index{1}, place.processors / run.common.threads), run.common.threads));
    diagnosis.line("binding", comm.size() == 1 || place.bound || wanted > place.processors,
                   place.bound ? "each rank has processors of its own" : "ranks share processors",
                   "mpirun --bind-to core, srun --cpu-bind=cores");
    const std::string kernel = blas_kernel_advice();
    diagnosis.line("BLAS", kernel.empty(), blas_description() + ", one thread a call", kernel);
    const char* pool = std::getenv("OPENBLAS_NUM_THREADS");
    diagnosis.line("BLAS threads", pool != nullptr && std::string(pool) == "1",
                   fmt::format("OPENBLAS_NUM_THREADS is {}", pool == nullptr ? "not set" : pool),
                   "export OPENBLAS_NUM_THREADS=1, so that no idle pool is made");
    diagnosis.line("processor", true, "vectors " + vector_target());
}

/// Writes a small file in parallel, and reads it back.
void check_files(Run& run, const std::string& folder, Diagnosis& diagnosis) {
    namespace fs = std::filesystem;
    const std::string file = folder + "/rankfold-doctor.h5";
    std::string trouble;
    try {
        const ShardLayout layout = ShardLayout::even(1000, 64, run.comm.size());
        Factors<float> factors;
        factors.rows = BlockRows<float>(run.comm, layout, 8);
        factors.cols = BlockRows<float>(run.comm, layout, 8);
        for (float& x : factors.rows.local().data()) x = 1.5F;
        factors.method = "als-explicit";
        write_factors(file, factors, {.command = "doctor"});
        const auto back = read_factors<float>(run.comm, file);
        const bool same = std::ranges::equal(back.rows.local().data(), factors.rows.local().data());
        if (!run.comm.all_agree(same)) trouble = "what was read is not what was written";
    } catch (const Error& error) {
        if (!error.agreed() && error.fault() != Fault::input) throw;
        trouble = error.what();
    }
    std::error_code ignored;
    if (run.comm.is_root()) fs::remove(file, ignored);
    diagnosis.line("parallel HDF5", trouble.empty(),
                   trouble.empty() ? "written and read back in " + folder : trouble,
                   "another --folder, or export HDF5_USE_FILE_LOCKING=FALSE");
    double free_bytes = 0.0;
    if (run.comm.is_root()) {
        free_bytes = static_cast<double>(fs::space(folder, ignored).available);
    }
    run.comm.broadcast(std::span<double>(&free_bytes, 1));
    diagnosis.line("free space", free_bytes > 1e9, fmt::format("{:.1f} GB", free_bytes * 1e-9),
                   "free some: a full disk ends a job");
}

void measure(Run& run, Diagnosis& diagnosis) {
    const Communicator& comm = run.comm;
    const double sgemm = all_ranks_gemm_gflops<float>(comm);
    const double triad = all_ranks_triad_gbytes(comm);
    const MachineSpeed network = measure_exchange(comm);
    const double alone =
        comm.all_reduce(comm.is_root() ? measure_gemm_gflops<float>(1) : 0.0, Reduce::max);
    run.result["sgemm_gflops"] = sgemm;
    run.result["triad_gb_per_s"] = triad;
    const double share = sgemm / (alone * comm.size());
    diagnosis.line("sgemm", share > 0.6,
                   fmt::format("{:.1f} GF/s on all ranks at once, {:.0f} % of {} times one alone",
                               sgemm, 100.0 * share, comm.size()),
                   "ranks disturb each other: fewer ranks a host, or bind them");
    diagnosis.line("memory bandwidth", true, fmt::format("{:.1f} GB/s, triad", triad));
    if (comm.size() == 1) return;
    run.result["latency_us"] = network.seconds_per_message * 1e6;
    run.result["bandwidth_gb_per_s"] = 1e-9 / network.seconds_per_byte;
    diagnosis.line("latency", network.seconds_per_message < 1e-4,
                   fmt::format("{:.1f} us a message", network.seconds_per_message * 1e6),
                   "slow network, or more ranks than processors");
    diagnosis.line("bandwidth", true,
                   fmt::format("{:.2f} GB/s from each rank", 1e-9 / network.seconds_per_byte));
}

void run_doctor(Run& run, const DoctorCommand& o) {
    run.comm.agree([&] {
        if (run.comm.is_root() && !std::filesystem::is_directory(o.folder)) {
            throw input_error("--folder ", o.folder, " is not a folder");
        }
    });
    if (run.common.dry_run) return;
    if (o.selftest) {
        const int failed = run_selftest(run);
        run.say(failed == 0 ? "PASS" : fmt::format("FAIL: {} of the checks", failed));
        run.result["selftest"] = failed == 0 ? "PASS" : "FAIL";
        if (failed > 0) throw Error(Fault::check, "the self-test failed", true);
        return;
    }
    Diagnosis diagnosis(run);
    check_launch(run, diagnosis);
    check_files(run, o.folder, diagnosis);
    measure(run, diagnosis);
    run.result["to_change"] = diagnosis.wrong();
    run.say(diagnosis.wrong() == 0 ? "all good"
                                   : fmt::format("{} lines to change", diagnosis.wrong()));
}

}  // namespace

Action declare_doctor(Options& options) {
    auto o = std::make_shared<DoctorCommand>();
    options.add("folder", o->folder, "Where jobs will write: tried, and its free space");
    options.add("selftest", o->selftest,
                "Ten seconds of known answers instead: singular values, a falling objective, "
                "gradients, one digest on 1 … p ranks; PASS or FAIL");
    options.examples(
        "mpirun -n 4 rankfold doctor --folder /scratch/me\n"
        "rankfold doctor --selftest\n"
        "srun --mpi=pmix -n 128 rankfold doctor --report doctor.json");
    return [o](Run& run) { run_doctor(run, *o); };
}

}  // namespace rankfold::cli
