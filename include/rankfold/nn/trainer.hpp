// Data-parallel training: one step's bits depend neither on the ranks nor on the threads.
#pragma once

#include <vector>

#include <rankfold/dist/factors.hpp>
#include <rankfold/dist/steering.hpp>
#include <rankfold/nn/gradient_sum.hpp>
#include <rankfold/nn/network.hpp>
#include <rankfold/nn/optimizer.hpp>
#include <rankfold/nn/samples.hpp>
#include <rankfold/nn/table_update.hpp>

namespace rankfold {

struct TrainOptions {
    Index epochs = 10;
    Index batch = 256;  ///< samples of a global batch, rounded to a multiple of the blocks
    OptimizerOptions optimizer;
    std::uint64_t seed = 1;  ///< of permutations, dropout and negatives
    Index threads = 1;
    Index accumulate = 1;  ///< passes of a batch, each over so much of every block: bounds memory
    bool owner_updates = true;  ///< else every rank gets the whole gradient and updates everything
    bool reproducible = true;   ///< the same bits on any number of ranks
};

/// Trains a network on the samples of a source, on the ranks of the source's communicator.
///
/// Each block of samples has its own Philox permutation every epoch. A global batch is the next
/// batch / blocks samples of every block, a micro-batch, computed where the block lives; its loss
/// is the mean over the samples that the batch really has, so an uneven last batch weighs right.
/// A step is: forward; backward, layer by layer, with the layers' gradients summed over the blocks
/// (GradientSum) while the pass goes on; each rank updates its slices of the parameters
/// (Optimizer); all ranks gather the parameters. The forward and input products of all blocks of a
/// rank are one call: only the sums over samples keep to the blocks. Embedding tables have their
/// own way (TableUpdate). If the gradient's norm is limited, it is the norm over all parameters.
///
/// @see Rajbhandari et al., ZeRO, SC 2020, for the owner updates (their stage 1)
template <Real R>
class Trainer {
public:
    /// @param network  the same on all ranks; borrowed, as are the source's samples
    /// @throws Error (Fault::input), on all ranks alike: a batch smaller than the number of blocks
    ///         or passes, or several passes for a network with embeddings
    Trainer(Network<R>& network, SamplesRef<R> samples, Loss loss, const TrainOptions& options);

    /// Samples of a full global batch, and steps of an epoch.
    [[nodiscard]] Index batch() const noexcept { return micro_batch_ * samples_.blocks(); }
    [[nodiscard]] Index steps_per_epoch() const noexcept { return steps_per_epoch_; }

    /// Trains for options.epochs, from what steering.restore gives; calls steering.after after each
    /// epoch with the progress values loss (mean over the epoch), samples/s, GF/s, share of gemm
    /// (of what the ranks' dense products reach together), and exposed communication (the share of
    /// the time in which a rank exchanges gradients and parameters and computes nothing).
    ///
    /// @return the loss of every epoch
    /// @collective over the source's communicator
    /// @throws Error (Fault::check), agreed: a loss or a gradient is not finite (layer, step)
    History run(const Steering& steering);

    /// One epoch, or one step of it, for callers with a loop of their own. @collective
    /// @return the mean loss of the epoch's samples
    double epoch(Index number);
    void step(Index epoch, Index number);

    /// Draws the permutations of an epoch; epoch() does it itself.
    void shuffle(Index epoch);

    /// Parameters and moments, as views; the scalar "epoch" is the number of those done.
    [[nodiscard]] TensorList state(Index epochs_done);

private:
    /// A part of what this rank updates: within one tensor.
    struct Piece {
        Index bucket = 0;
        Range place{};
        bool decays = false;
    };

    [[nodiscard]] Range samples_of_step(Index block, Index step, Index pass) const;
    template <class Work>
    void exchange(const char* phase_name, const Work& work);
    [[nodiscard]] bool has_tables() const { return !tables_.empty(); }
    void plan_pieces();
    void load(Index epoch, Index number, Index pass);
    void forward(Index epoch, double factor);
    void backward(bool last, bool add);
    void layer_gradients(Index layer, bool add);
    [[nodiscard]] double clipped();
    void update(const Clock& clock);
    void update_bucket(Index bucket);
    [[nodiscard]] PendingExchange gather(Index bucket);
    void blame(Range piece, std::span<const R> gradient);
    void check(Index number, bool tables_finite) const;
    [[nodiscard]] Error failure(Index number, Index code) const;

    const Communicator* comm_;
    Network<R>* network_;
    SamplesRef<R> samples_;
    Loss loss_;
    TrainOptions options_;
    Index micro_batch_;
    Index steps_per_epoch_;
    Range blocks_;  // of this rank
    GradientSum<R> sum_;
    std::vector<Range> nodes_;  // those of sum_, among this rank's blocks
    Optimizer<R> optimizer_;
    TableUpdate<R> tables_;
    std::vector<Piece> pieces_;  // in the order of the arena

    Workspace<R> ws_;             // of all own blocks, one after the other
    std::vector<Index> row_ids_;  // the samples of its rows

    // one an own block
    std::vector<MicroBatch<R>> batches_;
    std::vector<std::vector<Index>> orders_;  // the epoch's permutation, as global sample ids
    std::vector<double> epoch_loss_;
    std::vector<char> finite_loss_;

    Index bad_tensor_ = 0;     // whose gradient is not finite
    double exchanging_ = 0.0;  // seconds of this epoch in exchange()
};

/// Points the batch's inputs to these rows of a workspace, for a source to fill.
template <Real R>
void show_inputs(Workspace<R>& ws, Range place, MicroBatch<R>& batch);

extern template class Trainer<float>;
extern template class Trainer<double>;

}  // namespace rankfold
