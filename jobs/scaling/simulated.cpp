// What is run on a simulated cluster: one method on a made matrix, and one line of JSON.
//
//     smpirun -np 64 … rankfold_simulated als ROWS COLS ENTRIES FACTORS STEPS
//
// The time is the simulation's: computing is timed on this machine and scaled to the simulated
// one's speed, messages take what the platform's links allow.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <rankfold/comm/session.hpp>
#include <rankfold/core/random.hpp>
#include <rankfold/dist/synthetic.hpp>
#include <rankfold/factor/als.hpp>
#include <rankfold/factor/nmf.hpp>
#include <rankfold/hybrid/joint.hpp>
#include <rankfold/linalg/blas.hpp>
#include <rankfold/nn/row_samples.hpp>
#include <rankfold/nn/trainer.hpp>

namespace {

using namespace rankfold;

struct Problem {
    std::string method;
    SyntheticRatings matrix;
    Index k = 32;
    Index steps = 4;
};

/// The end of every step, by the simulation's clock.
class StepTimer {
public:
    [[nodiscard]] Steering steering() {
        return {.after = [this](const Progress&, const TensorList&) {
            ends_.push_back(monotonic_seconds());
            return Verdict::go_on;
        }};
    }

    /// Seconds of a step, the median; the first one is left out. @collective
    [[nodiscard]] double median(const Communicator& comm) const {
        std::vector<double> seconds;
        for (std::size_t i = 1; i < ends_.size(); ++i) {
            seconds.push_back(comm.all_reduce(ends_[i] - ends_[i - 1], Reduce::max));
        }
        std::ranges::sort(seconds);
        return seconds.empty() ? 0.0 : seconds[seconds.size() / 2];
    }

private:
    std::vector<double> ends_;
};

/// Trains a network on random rows with random labels; an epoch is one step.
std::uint64_t train(const Communicator& comm, const Problem& problem, StepTimer& timer) {
    constexpr Index classes = 10;
    const Index batch = problem.matrix.rows;
    const Index width = problem.matrix.cols;
    // the data and the job decide the number of blocks: here, enough for every simulated rank
    constexpr Index blocks = 256;
    BlockRows<float> rows(comm, ShardLayout::even(batch, blocks, comm.size()), width);
    BlockRows<Index> labels(comm, rows.layout(), 1);
    const Philox random(1, Stream::synthetic_entry);
    for (Index i = 0; i < rows.local().rows(); ++i) {
        const Index row = rows.first_row() + i;
        labels.local()(i, 0) = random.below(classes, row, width);
        for (Index j = 0; j < width; ++j) {
            rows.local()(i, j) = static_cast<float>(random.uniform(row, j));
        }
    }
    const RowSamples<float> samples(rows, 1.0, labels, classes, blocks);
    Network<float> network(
        dense_chain(width, {problem.k, problem.k}, classes, Activation::relu, 0.0));
    network.initialize(1);
    Trainer<float> trainer(network, SamplesRef<float>(samples), Loss::classes,
                           {.epochs = problem.steps, .batch = batch, .optimizer = {}});
    static_cast<void>(trainer.run(timer.steering()));
    return digest(comm, network.arena().list());
}

/// Runs the method and returns the digest of its result.
std::uint64_t run(const Communicator& comm, const Problem& problem, StepTimer& timer) {
    if (problem.method == "mlp") return train(comm, problem, timer);
    const auto a = generate_ratings<float>(comm, problem.matrix);
    if (problem.method == "als") {
        auto factors = als(a, {.k = problem.k, .sweeps = problem.steps}, timer.steering());
        return digest(comm, factors.tensors());
    }
    if (problem.method == "nmf") {
        NmfOptions options{.k = problem.k, .sweeps = problem.steps};
        auto factors = nmf(a, options, timer.steering());
        return digest(comm, factors.tensors());
    }
    if (problem.method == "hybrid") {
        JointOptions options;
        options.als.k = problem.k;
        options.rounds = problem.steps;
        options.micro_batches = 256;
        options.batch = 4096;
        auto model = fit_joint(a, options, {}, timer.steering());
        return digest(comm, model.factors.tensors());
    }
    throw input_error("there is no method ", problem.method);
}

}  // namespace

int main(int argc, char** argv) {
    Session session(argc, argv);
    if (argc != 7) {
        std::fprintf(stderr, "usage: rankfold_simulated METHOD ROWS COLS ENTRIES FACTORS STEPS\n");
        return 2;
    }
    use_one_blas_thread();
    Ledger ledger;
    const Communicator comm(ledger);
    const Problem problem{.method = argv[1],
                          .matrix = {.rows = std::atoll(argv[2]),
                                     .cols = std::atoll(argv[3]),
                                     .nnz = std::atoll(argv[4])},
                          .k = std::atoll(argv[5]),
                          .steps = std::atoll(argv[6])};
    StepTimer timer;
    const std::uint64_t result = run(comm, problem, timer);
    const double seconds = timer.median(comm);
    double bytes = 0.0;
    double predicted = 0.0;
    for (const auto& phase : ledger.phases()) {
        bytes += phase.bytes_sent;
        predicted += phase.bytes_predicted;
    }
    bytes = comm.all_reduce(bytes, Reduce::sum);
    predicted = comm.all_reduce(predicted, Reduce::sum);
    if (comm.is_root()) {
        std::printf(
            "{\"method\": \"%s\", \"ranks\": %d, \"seconds_per_step\": %.9g, "
            "\"bytes_sent\": %.0f, \"bytes_predicted\": %.0f, \"digest\": \"%s\"}\n",
            problem.method.c_str(), comm.size(), seconds, bytes, predicted,
            digest_text(result).c_str());
    }
}
