// The account of a run, for people and for programs.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include <rankfold/cli/run.hpp>

namespace rankfold::cli {

/// Resident bytes of this process now, and the 20 MB that BLAS, HDF5 and MPI were seen to take when
/// they are first used: what a rank needs besides its data.
[[nodiscard]] double process_bytes();

/// One phase over all ranks.
struct PhaseSummary {
    std::string name;
    double calls = 0.0;
    double seconds_min = 0.0, seconds_mean = 0.0, seconds_max = 0.0;
    double flops = 0.0;  ///< of all ranks
    double bytes_sent = 0.0;
    double bytes_predicted = 0.0;
    int slowest = 0;  ///< the rank that took seconds_max; the lowest of several
};

/// The phases of all ranks, in the order of rank 0. @collective over comm
[[nodiscard]] std::vector<PhaseSummary> summarise_phases(const Communicator& comm, Ledger& ledger);

/// The table of phases, as it stands at the end of a run.
[[nodiscard]] std::string phases_table(const std::vector<PhaseSummary>& phases,
                                       double wall_seconds);

/// How the ranks of the fullest host share its processors.
struct Placement {
    Index ranks = 0;
    Index processors = 0;  ///< that they may use together
    bool bound = false;    ///< every rank has processors of its own
};

/// @collective over comm
[[nodiscard]] Placement placement(const Communicator& comm);

/// Lines on what is plainly wrong with how a run was started or shared out: more threads than
/// cores, ranks that are not bound, too little work for the ranks, one rank that all wait for; and
/// what the checkpoints cost. @collective over run.comm
[[nodiscard]] std::vector<std::string> advice(const Run& run,
                                              const std::vector<PhaseSummary>& phases,
                                              double wall_seconds);

/// What the report says of the build: version, git hash, compiler, flags.
[[nodiscard]] nlohmann::ordered_json build_facts();

/// Ranks, threads, hosts, processor, BLAS, instruction set. @collective over comm
[[nodiscard]] nlohmann::ordered_json machine_facts(const Communicator& comm, Index threads);

/// The report of one run as `--report` writes it, without `machine`. @collective over comm
[[nodiscard]] nlohmann::ordered_json run_report(const Run& run, Ledger& ledger);

/// Writes JSON beside its final name and renames it. Rank 0 writes; all learn of a failure.
/// @collective over comm
void write_json(const Communicator& comm, const std::string& path,
                const nlohmann::ordered_json& json);

}  // namespace rankfold::cli
