// The program: MPI around one command, and one exit code for everything that can happen.
#include <exception>
#include <new>
#include <string>
#include <vector>

#include <rankfold/cli/run.hpp>
#include <rankfold/comm/session.hpp>
#include <rankfold/linalg/blas_kernel.hpp>

int main(int argc, char** argv) {
    using rankfold::Fault;
    using rankfold::Session;
    rankfold::use_suitable_blas_kernels(argv);
    try {
        Session session(argc, argv);
        try {
            return rankfold::cli::run_program({argv + 1, argv + argc});
        } catch (const rankfold::Error& error) {  // may have struck this rank alone
            Session::abort(static_cast<int>(error.fault()), error.what());
        } catch (const std::bad_alloc&) {
            Session::abort(static_cast<int>(Fault::system),
                           "out of memory; use more ranks or nodes");
        } catch (const std::exception& error) {
            Session::abort(static_cast<int>(Fault::bug), error.what());
        }
    } catch (const rankfold::Error& error) {  // MPI did not start
        std::fprintf(stderr, "rankfold: %s\n", error.what());
        return static_cast<int>(error.fault());
    }
}
