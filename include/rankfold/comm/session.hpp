// The owner of MPI's initialisation.
#pragma once

#include <string>

namespace rankfold {

/// Initialises MPI with MPI_THREAD_FUNNELED, checks that it is provided, and finalises at the end.
///
/// Only the main thread calls MPI. Make one, in main(), before any Communicator.
class Session {
public:
    /// @throws Error (Fault::system) if MPI cannot provide the thread level.
    Session(int& argc, char**& argv);

    /// MPI_Finalize, except while an exception unwinds: it would wait for ranks that never come.
    ~Session();

    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    /// Ends the whole job at once with this exit code: for failures that may have struck this rank
    /// alone. Prints one line that names the rank and its host.
    [[noreturn]] static void abort(int exit_code, const std::string& message);

private:
    int uncaught_at_start_;
};

/// The name of the host that this process runs on.
[[nodiscard]] std::string host_name();

/// The level of thread support that MPI provides: single, funneled, serialized or multiple.
[[nodiscard]] std::string thread_level();

/// Version text of the MPI library in use.
[[nodiscard]] std::string mpi_description();

}  // namespace rankfold
