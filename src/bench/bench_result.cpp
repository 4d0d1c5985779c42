#include <rankfold/bench/bench_result.hpp>

#include <algorithm>

#include <rankfold/linalg/blas.hpp>

namespace rankfold {

double BenchResult::median() const {
    RANKFOLD_EXPECT(!seconds.empty());
    std::vector<double> sorted = seconds;
    std::ranges::sort(sorted);
    const std::size_t half = sorted.size() / 2;
    return sorted.size() % 2 == 1 ? sorted[half] : 0.5 * (sorted[half - 1] + sorted[half]);
}

template <Real R>
double all_ranks_gemm_gflops(const Communicator& comm) {
    comm.barrier();
    const double rate = comm.all_reduce(measure_gemm_gflops<R>(3), Reduce::sum);
    comm.barrier();
    return rate;
}

template double all_ranks_gemm_gflops<float>(const Communicator&);
template double all_ranks_gemm_gflops<double>(const Communicator&);

}  // namespace rankfold
