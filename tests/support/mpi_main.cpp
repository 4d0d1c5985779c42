// main() of all unit tests: MPI once, quiet output on all ranks but the first, and one verdict.
#include <cstdlib>
#include <filesystem>

#include <mpi.h>

#include <rankfold/comm/session.hpp>
#include <rankfold/linalg/blas.hpp>
#include <rankfold/linalg/blas_kernel.hpp>

#include "support/mpi_test.hpp"

namespace rankfold::test {

const std::filesystem::path& MpiTest::scratch() {
    if (scratch_.empty()) {
        std::string name;
        if (comm.is_root()) {
            std::string pattern =
                (std::filesystem::temp_directory_path() / "rankfold-test-XXXXXX").string();
            name = mkdtemp(pattern.data());
        }
        comm.broadcast(name);
        scratch_ = name;
    }
    return scratch_;
}

void MpiTest::TearDown() {
    comm.barrier();
    if (!scratch_.empty() && comm.is_root()) std::filesystem::remove_all(scratch_);
}

namespace {

/// Prints failures at once with their rank, also on ranks whose other output is silent.
class FailurePrinter : public ::testing::EmptyTestEventListener {
    void OnTestPartResult(const ::testing::TestPartResult& result) override {
        if (!result.failed()) return;
        int rank = 0;
        MPI_Comm_rank(MPI_COMM_WORLD, &rank);
        if (rank == 0) return;  // the default printer shows it
        std::fprintf(stderr, "[rank %d] %s:%d: %s\n", rank,
                     result.file_name() == nullptr ? "?" : result.file_name(), result.line_number(),
                     result.message());
    }
};

}  // namespace
}  // namespace rankfold::test

int main(int argc, char** argv) {
    rankfold::use_suitable_blas_kernels(argv);
    ::testing::InitGoogleTest(&argc, argv);
    rankfold::Session session(argc, argv);
    rankfold::use_one_blas_thread();
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
    if (rank != 0) delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new rankfold::test::FailurePrinter);
    int failed = RUN_ALL_TESTS();
    if (::testing::UnitTest::GetInstance()->test_to_run_count() == 0) failed = 1;
    MPI_Allreduce(MPI_IN_PLACE, &failed, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    return failed;
}
