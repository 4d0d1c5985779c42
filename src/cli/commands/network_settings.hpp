// What the commands that train networks share: how they are trained, and when that ends.
#pragma once

#include <memory>
#include <string>

#include <rankfold/cli/run.hpp>
#include <rankfold/dist/steering.hpp>
#include <rankfold/nn/trainer.hpp>

namespace rankfold::cli {

/// The optimiser and the data-parallel step, as options of a command.
struct NetworkSettings {
    TrainOptions train;
    std::string optimizer = "adam";
    std::string schedule = "cosine";
    std::string gradient_sum = "owner";
    std::string reproducible = "on";
    Index micro_batches = 0;
    Index patience = 0;

    void declare(Options& options, Index least_epochs = 1);

    /// With what the common options add.
    [[nodiscard]] TrainOptions resolved(const CommonOptions& common) const;
    [[nodiscard]] Index blocks() const;
    /// Warns of ranks that have nothing to do.
    void warn_of_idle_ranks(const Run& run) const;
};

/// Measures a model at the start and after every epoch, keeps the best parameters (those of the
/// start may be), and stops when nothing has become better for `patience` epochs (0: never).
///
/// The state that the inner steering sees holds the best parameters too, so a run that goes on from
/// a checkpoint ends like one that never stopped.
template <Real R>
class NetworkStop {
public:
    /// What is measured: its name, the value, and whether the greater is the better. @collective
    struct Measure {
        std::string name;
        bool greater_is_better = true;
        std::function<double()> value;
        /// Further values for the history, after value() was called.
        std::function<std::vector<std::pair<std::string, double>>()> others{};
        const char* unit = "epoch";
    };

    /// @param parameters  views of what is kept, each time the same tensors; elements of type R
    NetworkStop(Run& run, std::function<TensorList()> parameters, Measure measure, Index patience);
    NetworkStop(Run& run, Network<R>& network, Measure measure, Index patience)
        : NetworkStop(
              run, [&network] { return network.arena().list(); }, std::move(measure), patience) {}

    /// `inner` with the measurement before its after(). @pre this outlives the result
    [[nodiscard]] Steering around(Steering inner);

    /// Puts the best parameters into the network, and reports.
    void finish();

private:
    void keep();
    [[nodiscard]] double measured();
    [[nodiscard]] Index best_step() const;
    [[nodiscard]] bool enough() const;
    [[nodiscard]] TensorList extended(const TensorList& state);
    [[nodiscard]] Index restore(TensorList& state);
    [[nodiscard]] Verdict after(Progress progress, const TensorList& state);

    Run& run_;
    std::function<TensorList()> parameters_;
    Measure measure_;
    Index patience_;
    std::vector<std::vector<R>> best_;  // of every tensor, this rank's part
    double start_ = 0.0;                // the value before the first epoch
    std::vector<double> values_;
    Steering inner_;
};

}  // namespace rankfold::cli
