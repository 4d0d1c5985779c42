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

double all_ranks_triad_gbytes(const Communicator& comm) {
    constexpr std::size_t n = std::size_t{1} << 23;
    std::vector<double> a(n, 0.0);
    const std::vector<double> b(n, 1.0);
    const std::vector<double> c(n, 2.0);
    comm.barrier();
    double best = 0.0;
    for (int repeat = 0; repeat < 5; ++repeat) {
        const double scale = 1.0 + repeat;
        const double start = monotonic_seconds();
        for (std::size_t i = 0; i < n; ++i) a[i] = b[i] + scale * c[i];
        const double seconds = monotonic_seconds() - start;
        RANKFOLD_EXPECT(a[n / 2] == 1.0 + 2.0 * scale);
        best = std::max(best, 3.0 * sizeof(double) * static_cast<double>(n) / seconds * 1e-9);
    }
    return comm.all_reduce(best, Reduce::sum);
}

template double all_ranks_gemm_gflops<float>(const Communicator&);
template double all_ranks_gemm_gflops<double>(const Communicator&);

}  // namespace rankfold
