#include "selftest.hpp"

#include <cmath>

#include <fmt/format.h>

#include <rankfold/core/random.hpp>
#include <rankfold/dist/synthetic.hpp>
#include <rankfold/factor/als.hpp>
#include <rankfold/factor/svd.hpp>
#include <rankfold/nn/loss.hpp>
#include <rankfold/nn/network.hpp>

namespace rankfold::cli {

namespace {

constexpr SyntheticRatings small_ratings{.rows = 3000, .cols = 500, .nnz = 100000, .seed = 3};

/// The largest error of five singular values that a made matrix is known to have.
double singular_value_error(const Communicator& comm) {
    const std::vector<double> known{16, 8, 4, 2, 1};
    const auto a =
        generate_dense<double>(comm, {.rows = 600, .cols = 200, .spectrum = known, .seed = 5});
    const auto found = truncated_svd(a, {.k = 5, .tolerance = 1e-10});
    double worst = 0.0;
    for (std::size_t i = 0; i < known.size(); ++i) {
        worst = std::max(worst, std::abs(found.factors.singular_values[i] - known[i]));
    }
    return worst;
}

/// True if no sweep of ALS raises its objective.
bool objective_falls(const Communicator& comm) {
    const auto a = generate_ratings<double>(comm, small_ratings);
    const auto factors = als(a, {.k = 8, .sweeps = 8, .lambda = 0.05}, {});
    const auto& rows = factors.history.rows;
    for (std::size_t s = 1; s < rows.size(); ++s) {
        if (!(rows[s][1] <= rows[s - 1][1] * (1.0 + 1e-12))) return false;
    }
    return rows.size() == 8;
}

/// A small network with fixed inputs and labels.
class GradientCheck {
public:
    GradientCheck() : network_{dense_chain(6, {7, 5}, 3, Activation::tanh, 0.0)} {
        network_.initialize(11);
        network_.prepare(rows);
        ws_ = network_.workspace(rows, Purpose::training, 1);
        ws_.rows = rows;
        ws_.ends = {rows};
        const Philox random(11, Stream::synthetic_entry);
        for (Index i = 0; i < rows; ++i) {
            targets_.labels.push_back(i % 3);
            for (Index j = 0; j < 6; ++j) ws_.inputs[0](i, j) = random.normal(i, j);
        }
    }

    /// The largest difference between the backward pass and finite differences, over the largest.
    double error() {
        auto& arena = network_.arena();
        std::vector<double> gradient(static_cast<std::size_t>(arena.size()), 0.0);
        loss();
        const std::vector<Range> all{{0, 1}};
        for (Index l = network_.layers() - 1; l >= 0; --l) {
            network_.begin_backward(l, ws_);
            for (const auto& tensor : arena.tensors()) {
                double* to = gradient.data() + tensor.offset;
                if (tensor.layer == l) network_.gradient(tensor, all, {&to, 1}, false, ws_);
            }
            network_.input_gradient(l, ws_);
        }
        double worst = 0.0;
        double largest = 0.0;
        for (const auto& tensor : arena.tensors()) {
            for (Index e = tensor.offset; e < tensor.offset + tensor.size(); ++e) {
                const auto i = static_cast<std::size_t>(e);
                const double numeric = slope(arena.values()[i]);
                worst = std::max(worst, std::abs(numeric - gradient[i]));
                largest = std::max(largest, std::abs(numeric));
            }
        }
        return worst / largest;
    }

private:
    static constexpr Index rows = 8;

    double loss() {
        network_.prepare(rows);
        network_.forward(ws_);
        const auto z = network_.output(ws_);
        const auto d = network_.d_output(ws_);
        if (d.data != z.data) std::copy_n(z.data, z.rows * z.cols, d.data);
        return loss_gradient(Loss::classes, targets_, 1.0, d);
    }

    double slope(double& x) {
        constexpr double h = 1e-5;
        const double before = x;
        x = before + h;
        const double above = loss();
        x = before - h;
        const double below = loss();
        x = before;
        return (above - below) / (2.0 * h);
    }

    Network<double> network_;
    Workspace<double> ws_;
    Targets<double> targets_;
};

/// True if the first 1, 2, … p ranks each find the same factors.
bool digests_agree(const Communicator& comm) {
    std::vector<std::uint64_t> digests;
    for (int p = 1; p <= comm.size(); p = p < 4 ? p + 1 : std::min(2 * p, comm.size())) {
        const auto part = comm.split(comm.rank() < p ? 0 : 1);
        std::uint64_t mine = 0;
        if (comm.rank() < p) {
            const auto a = generate_ratings<float>(*part, small_ratings);
            auto factors = als(a, {.k = 16, .sweeps = 2}, {});
            mine = digest(*part, factors.tensors());
        }
        std::uint64_t of_root = mine;
        comm.broadcast(std::span<std::uint64_t>(&of_root, 1));
        digests.push_back(of_root);
        if (p == comm.size()) break;
    }
    return std::ranges::all_of(digests, [&](std::uint64_t d) { return d == digests.front(); });
}

}  // namespace

int run_selftest(Run& run) {
    int failed = 0;
    const auto check = [&](const std::string& what, bool passed, const std::string& found) {
        run.say(fmt::format("{:<5} {:<28} {}", passed ? "pass" : "FAIL", what, found));
        run.result["checks"].push_back({{"what", what}, {"passed", passed}, {"found", found}});
        failed += passed ? 0 : 1;
    };
    const double values = singular_value_error(run.comm);
    check("known singular values", values < 1e-9, fmt::format("error {:.1e}", values));
    check("ALS objective", objective_falls(run.comm), "falls in every sweep");
    const double gradient = run.comm.all_reduce(GradientCheck().error(), Reduce::max);
    check("gradients of a network", gradient < 1e-6,
          fmt::format("relative error {:.1e} of finite differences", gradient));
    check("one digest", digests_agree(run.comm),
          fmt::format("of ALS on 1 to {} ranks", run.comm.size()));
    return failed;
}

}  // namespace rankfold::cli
