#include <rankfold/comm/session.hpp>

#include <cstdio>
#include <cstdlib>
#include <exception>

#include <mpi.h>

#include <rankfold/core/error.hpp>

namespace rankfold {

Session::Session(int& argc, char**& argv) : uncaught_at_start_{std::uncaught_exceptions()} {
    // Open MPI 4 hides a full disk under its collective write strategies; `individual` reports it.
    setenv("OMPI_MCA_fcoll", "individual", 0);
    int provided = MPI_THREAD_SINGLE;
    if (MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) {
        throw Error(Fault::system,
                    "MPI did not start; is this program run by the mpirun of the "
                    "MPI that it was built with?");
    }
#ifdef RANKFOLD_SIMULATED  // SimGrid claims less than it does: its ranks are threads of one process
    provided = MPI_THREAD_FUNNELED;
#endif
    if (provided < MPI_THREAD_FUNNELED) {
        throw Error(Fault::system,
                    "this MPI offers no MPI_THREAD_FUNNELED (threads inside a rank "
                    "need it); use an MPI built with thread support");
    }
}

Session::~Session() {
    if (std::uncaught_exceptions() == uncaught_at_start_) MPI_Finalize();
}

void Session::abort(int exit_code, const std::string& message) {
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    std::fprintf(stderr, "rankfold: rank %d on %s: %s\n", rank, host_name().c_str(),
                 message.c_str());
    std::fflush(nullptr);
    MPI_Abort(MPI_COMM_WORLD, exit_code);
    std::_Exit(exit_code);
}

std::string host_name() {
    char name[MPI_MAX_PROCESSOR_NAME];
    int length = 0;
    MPI_Get_processor_name(name, &length);
    return {name, static_cast<std::size_t>(length)};
}

std::string thread_level() {
    int level = MPI_THREAD_SINGLE;
    MPI_Query_thread(&level);
    if (level == MPI_THREAD_MULTIPLE) return "multiple";
    if (level == MPI_THREAD_SERIALIZED) return "serialized";
    return level == MPI_THREAD_FUNNELED ? "funneled" : "single";
}

std::string mpi_description() {
    char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int length = 0;
    MPI_Get_library_version(text, &length);
    const std::string whole(text, static_cast<std::size_t>(length));
    return whole.substr(0, whole.find_first_of(",\n"));
}

}  // namespace rankfold
