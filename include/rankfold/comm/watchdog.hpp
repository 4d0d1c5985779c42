// Ends a job of which a rank has stopped or a host cannot be reached.
#pragma once

#include <memory>

#include <rankfold/comm/communicator.hpp>

namespace rankfold {

/// A thread in every rank that notices when another rank or host has fallen silent.
///
/// MPI waits for ever for a rank that is stopped (SIGSTOP, a frozen host) or behind a cut link. The
/// ranks of one host share a page of memory in which each counts on while it lives; the first
/// ranks of all hosts send each other datagrams in a ring. A rank or host that stays silent for
/// the limit ends the job: one line names it and the phase it was in, and the processes that
/// noticed exit with Fault::silent (79), upon which the launcher ends the others. An mpirun that
/// cannot, as it does not reach a host's daemon, is killed five seconds later.
///
/// The time is the watching thread's own: a whole job that was suspended and goes on is not ended.
/// A loop that computes for ever is not noticed; only processes that do not run are.
class Watchdog {
public:
    /// Starts watching; the ledger of `comm` shows its phases. On one rank there is nothing to do.
    /// @param limit_s  seconds of silence that end the job, at least 1
    /// @collective over comm, which must outlive this
    /// @throws Error (Fault::system), agreed: no shared memory
    Watchdog(const Communicator& comm, double limit_s);
    /// Stops watching. Collective unless an exception unwinds this rank: no rank stops answering
    /// while others still watch it.
    ~Watchdog();
    Watchdog(const Watchdog&) = delete;
    Watchdog& operator=(const Watchdog&) = delete;

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace rankfold
