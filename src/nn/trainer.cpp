#include <rankfold/nn/trainer.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include <omp.h>

#include <rankfold/comm/reproducible_sum.hpp>
#include <rankfold/core/random.hpp>

namespace rankfold {

namespace {

/// Gradients are exchanged in buckets of at least this many elements (1 MiB of floats).
constexpr Index bucket_elements = 1 << 18;
/// Elements of a piece that is summed and updated in one go, while it is in the cache.
constexpr Index piece_elements = 1 << 13;
/// A tile of a gradient: this many elements, that is some rows of the weight.
constexpr Index tile_elements = 1 << 17;
constexpr Index none = std::numeric_limits<Index>::max();

std::size_t at(Index i) {
    return static_cast<std::size_t>(i);
}

/// Rows of a tile of a parameter tensor with `cols` columns.
Index tile_height(Index cols) {
    return std::clamp<Index>(tile_elements / std::max<Index>(cols, 1) / 16 * 16, 16, 128);
}

std::vector<Range> tiles_of(const ParameterTensor& tensor) {
    const Index height = tensor.cols == 0 ? tensor.rows : tile_height(tensor.cols);
    std::vector<Range> tiles;
    for (Index row = 0; row < tensor.rows; row += height) {
        tiles.push_back({row, std::min(row + height, tensor.rows)});
    }
    return tiles;
}

template <Real R>
std::vector<Range> owned_slices(const GradientSum<R>& sum, int rank) {
    std::vector<Range> slices;
    for (Index b = 0; b < sum.buckets(); ++b) slices.push_back(sum.owned(b, rank));
    return slices;
}

Index micro_batch_of(Index batch, Index blocks) {
    if (batch < blocks) {
        throw input_error("a batch of ", batch, " samples cannot be cut into ", blocks,
                          " micro-batches; raise --batch or lower --micro-batches");
    }
    return (batch + blocks / 2) / blocks;
}

}  // namespace

template <Real R>
Trainer<R>::Trainer(Network<R>& network, SamplesRef<R> samples, Loss loss,
                    const TrainOptions& options)
    : comm_{&samples.comm()},
      network_{&network},
      samples_{samples},
      loss_{loss},
      options_{options},
      micro_batch_{micro_batch_of(options.batch, samples.blocks())},
      steps_per_epoch_{0},
      blocks_{even_part(samples.blocks(), comm_->size(), comm_->rank())},
      sum_{*comm_, samples.blocks(), network.arena().bucket_ends(bucket_elements)},
      optimizer_{options.optimizer, owned_slices(sum_, comm_->rank())} {
    Index longest = 0;
    for (Index b = 0; b < samples.blocks(); ++b) {
        longest = std::max(longest, samples.block(b).size());
    }
    steps_per_epoch_ = (longest + micro_batch_ - 1) / micro_batch_;
    network_->prepare(micro_batch_);
    for (Index b = blocks_.begin; b < blocks_.end; ++b) {
        workspaces_.push_back(network_->workspace(micro_batch_, Purpose::training));
        batches_.emplace_back();
        orders_.emplace_back();
    }
    epoch_loss_.assign(workspaces_.size(), 0.0);
    finite_loss_.assign(workspaces_.size(), 1);

    const auto deepest = static_cast<std::size_t>(
        std::bit_width(static_cast<std::uint64_t>(std::max<Index>(1, blocks_.size()))));
    Index largest = 16;
    for (const ParameterTensor& tensor : network_->arena().tensors()) {
        largest =
            std::max(largest, tiles_of(tensor).front().size() * std::max<Index>(tensor.cols, 1));
    }
    scratch_.resize(at(options_.threads));
    for (auto& levels : scratch_) {
        levels.resize(deepest);
        for (auto& level : levels) level.resize(at(largest));
    }
    if (comm_->size() > 1) {
        Index own = 0;
        for (const Range& slice : owned_slices(sum_, comm_->rank())) own += slice.size();
        updated_.resize(at(own));
    }
}

template <Real R>
Range Trainer<R>::samples_of_step(Index block, Index step) const {
    const Index size = samples_.block(block).size();
    return {std::min(step * micro_batch_, size), std::min((step + 1) * micro_batch_, size)};
}

template <Real R>
TensorList Trainer<R>::state(Index epochs_done) {
    TensorList state = network_->arena().list();
    optimizer_.list(network_->arena(), state);
    state.scalars["epoch"] = static_cast<double>(epochs_done);
    return state;
}

template <Real R>
History Trainer<R>::run(const Steering& steering) {
    History history{.columns = {"epoch", "loss"}, .rows = {}};
    TensorList initial = state(0);
    for (Index e = steering.restore(initial); e < options_.epochs; ++e) {
        const double start = monotonic_seconds();
        const double loss = epoch(e);
        const double rate = static_cast<double>(samples_.samples()) / (monotonic_seconds() - start);
        history.rows.push_back({static_cast<double>(e + 1), loss});
        const Verdict verdict = steering.after({.unit = "epoch",
                                                .step = e + 1,
                                                .steps = options_.epochs,
                                                .values = {{"loss", loss}, {"samples/s", rate}}},
                                               state(e + 1));
        if (verdict == Verdict::stop) break;
    }
    return history;
}

template <Real R>
double Trainer<R>::epoch(Index number) {
    shuffle(number);
    for (Index s = 0; s < steps_per_epoch_; ++s) step(number, s);
    return reproducible_sum(*comm_, epoch_loss_) / static_cast<double>(samples_.samples());
}

template <Real R>
void Trainer<R>::shuffle(Index epoch) {
    auto phase = comm_->ledger().phase("shuffle");
    const Philox random(options_.seed, Stream::shuffle);
    const auto own = static_cast<Index>(workspaces_.size());
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(options_.threads))
    for (Index b = 0; b < own; ++b) {
        const Index block = blocks_.begin + b;
        const Range ids = samples_.block(block);
        orders_[at(b)] = random.permutation(ids.size(), epoch * samples_.blocks() + block);
        for (Index& id : orders_[at(b)]) id += ids.begin;
    }
    std::ranges::fill(epoch_loss_, 0.0);
}

template <Real R>
void Trainer<R>::step(Index epoch, Index number) {
    Index count = 0;
    for (Index b = 0; b < samples_.blocks(); ++b) count += samples_of_step(b, number).size();
    const Index steps = options_.epochs * steps_per_epoch_;
    const Index done = epoch * steps_per_epoch_ + number;
    optimizer_.begin_step(done, steps);
    forward(epoch, number, 1.0 / static_cast<double>(count));
    backward();
    update(done);
}

template <Real R>
void Trainer<R>::forward(Index epoch, Index number, double factor) {
    auto phase = comm_->ledger().phase("forward");
    network_->prepare(micro_batch_);
    const auto own = static_cast<Index>(workspaces_.size());
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(options_.threads))
    for (Index b = 0; b < own; ++b) {
        Workspace<R>& ws = workspaces_[at(b)];
        MicroBatch<R>& batch = batches_[at(b)];
        const Range part = samples_of_step(blocks_.begin + b, number);
        ws.rows = part.size();
        batch.samples = std::span<const Index>(orders_[at(b)]).subspan(at(part.begin), at(ws.rows));
        batch.inputs.clear();
        batch.indices.clear();
        for (auto& input : ws.inputs) {
            batch.inputs.push_back(input.view().row_block({0, std::min(ws.rows, input.rows())}));
        }
        for (auto& indices : ws.indices) {
            batch.indices.push_back(
                std::span(indices).first(std::min(at(ws.rows), indices.size())));
        }
        samples_.fill(batch);
        const DropoutKey key{options_.seed, epoch, batch.samples};
        network_->forward(ws, &key);
        const MatrixView<R> z = network_->output(ws);
        const MatrixView<R> d = network_->d_output(ws);
        if (d.data != z.data) std::copy_n(z.data, z.rows * z.cols, d.data);
        const double loss = loss_gradient(loss_, batch.targets, factor, d);
        epoch_loss_[at(b)] += loss;
        finite_loss_[at(b)] = std::isfinite(loss) ? 1 : 0;
    }
    for (const Workspace<R>& ws : workspaces_) {
        comm_->ledger().add_flops(network_->forward_flops(ws.rows));
    }
}

template <Real R>
void Trainer<R>::backward() {
    auto phase = comm_->ledger().phase("backward");
    const auto own = static_cast<Index>(workspaces_.size());
    const auto& tensors = network_->arena().tensors();
    Index next_bucket = 0;
    for (Index layer = network_->layers() - 1; layer >= 0; --layer) {
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(options_.threads))
        for (Index b = 0; b < own; ++b) network_->begin_backward(layer, workspaces_[at(b)]);
        layer_gradients(layer);
        Index done = 0;  // the arena is complete up to here
        for (const ParameterTensor& tensor : tensors) {
            if (tensor.trained && tensor.layer >= layer) {
                done = std::max(done, tensor.offset + tensor.size());
            }
        }
        while (next_bucket < sum_.buckets() && sum_.bucket(next_bucket).end < done + 16) {
            auto exchange = comm_->ledger().phase("gradient sum");
            sum_.start(next_bucket++);
        }
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(options_.threads))
        for (Index b = 0; b < own; ++b) network_->input_gradient(layer, workspaces_[at(b)]);
        sum_.progress();
    }
    for (const Workspace<R>& ws : workspaces_) {
        comm_->ledger().add_flops(network_->backward_flops(ws.rows));
    }
}

/// Sums the layer's gradients over the blocks of each of this rank's nodes, tile by tile.
template <Real R>
void Trainer<R>::layer_gradients(Index layer) {
    struct Task {
        const ParameterTensor* tensor;
        Range tile;
        Index node;
    };
    std::vector<Task> tasks;
    for (const ParameterTensor& tensor : network_->arena().tensors()) {
        if (tensor.layer != layer || !tensor.trained) continue;
        for (const Range tile : tiles_of(tensor)) {
            for (std::size_t node = 0; node < sum_.nodes().size(); ++node) {
                tasks.push_back({&tensor, tile, static_cast<Index>(node)});
            }
        }
    }
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(options_.threads))
    for (std::size_t t = 0; t < tasks.size(); ++t) {
        const auto& [tensor, tile, node] = tasks[t];
        const Index width = std::max<Index>(tensor->cols, 1);
        R* const to = sum_.partial(node).data() + tensor->offset + tile.begin * width;
        const MatrixView<R> out = tensor->cols == 0 ? MatrixView<R>(to, 1, tile.size())
                                                    : MatrixView<R>(to, tile.size(), width);
        sum_blocks(*tensor, tile, sum_.nodes()[at(node)], out, scratch_[at(omp_get_thread_num())],
                   0);
    }
}

/// out ← the sum over the node's blocks of a tile of the tensor's gradient, in the tree's order.
template <Real R>
void Trainer<R>::sum_blocks(const ParameterTensor& tensor, Range tile, Range node,
                            MatrixView<R> out, std::vector<AlignedVector<R>>& scratch,
                            std::size_t depth) const {
    if (node.size() == 1) {
        network_->gradient(tensor, tile, workspaces_[at(node.begin - blocks_.begin)], out);
        return;
    }
    const auto [left, right] = tree_halves(node);
    sum_blocks(tensor, tile, left, out, scratch, depth);
    const MatrixView<R> other(scratch[depth].data(), out.rows, out.cols);
    sum_blocks(tensor, tile, right, other, scratch, depth + 1);
    const auto count = at(out.rows * out.cols);
    add_to<R>(std::span<const R>(other.data, count), std::span<R>(out.data, count));
}

template <Real R>
void Trainer<R>::update(Index number) {
    Ledger& ledger = comm_->ledger();
    const std::span<R> values = network_->arena().values();
    const int rank = comm_->rank();
    const bool alone = comm_->size() == 1;
    bad_tensor_ = none;
    Index before = 0;  // own elements in earlier buckets
    for (Index b = 0; b < sum_.buckets(); ++b) {
        const Range slice = sum_.owned(b, rank);
        {
            auto phase = ledger.phase("gradient sum");
            sum_.finish(b);
        }
        auto phase = ledger.phase("update");
        const std::span<R> to = alone
                                    ? values.subspan(at(slice.begin), at(slice.size()))
                                    : std::span<R>(updated_).subspan(at(before), at(slice.size()));
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(options_.threads))
        for (Index first = slice.begin; first < slice.end; first += piece_elements) {
            const Range piece{first, std::min(first + piece_elements, slice.end)};
            const std::span<const R> gradient = sum_.sum(b, piece);
            const bool finite =
                optimizer_.update(b, piece, gradient, values.subspan(at(first), at(piece.size())),
                                  to.subspan(at(first - slice.begin), at(piece.size())));
            if (!finite) blame(piece, gradient);
        }
        before += slice.size();
    }
    check(number);
    if (!alone) gather();
}

/// Every rank gets the slices that the others have updated.
template <Real R>
void Trainer<R>::gather() {
    auto phase = comm_->ledger().phase("gather parameters");
    const std::span<R> values = network_->arena().values();
    std::span<const R> mine(updated_);
    for (Index b = 0; b < sum_.buckets(); ++b) {
        std::vector<Index> counts;
        for (int q = 0; q < comm_->size(); ++q) counts.push_back(sum_.owned(b, q).size());
        const auto own = at(counts[at(comm_->rank())]);
        const Range bucket = sum_.bucket(b);
        comm_->ledger().predict_bytes(static_cast<double>(own * sizeof(R)) * (comm_->size() - 1));
        comm_->all_gather(mine.first(own), counts,
                          values.subspan(at(bucket.begin), at(bucket.size())));
        mine = mine.subspan(own);
    }
}

/// Notes the first tensor, in the order of the layers, whose gradient in `piece` is not finite.
template <Real R>
void Trainer<R>::blame(Range piece, std::span<const R> gradient) {
    Index worst = none;
    const auto& tensors = network_->arena().tensors();
    for (std::size_t i = 0; i < gradient.size(); ++i) {
        if (std::isfinite(gradient[i])) continue;
        const Index position = piece.begin + static_cast<Index>(i);
        for (std::size_t t = 0; t < tensors.size(); ++t) {
            const Range place{tensors[t].offset, tensors[t].offset + tensors[t].size()};
            if (tensors[t].trained && place.contains(position)) {
                worst = std::min(worst, static_cast<Index>(t));
            }
        }
    }
#pragma omp critical(rankfold_trainer_blame)
    bad_tensor_ = std::min(bad_tensor_, worst);
}

/// Throws on all ranks alike if a loss or a gradient of this step is not finite. What failed is
/// numbered: a block's loss by the block, a gradient by the number of blocks plus that of its
/// tensor; the lowest number is reported, whoever holds it.
template <Real R>
void Trainer<R>::check(Index number) const {
    auto phase = comm_->ledger().phase("update");
    const auto bad_loss = std::ranges::find(finite_loss_, 0);
    Index mine = bad_tensor_ == none ? none : samples_.blocks() + bad_tensor_;
    if (bad_loss != finite_loss_.end()) mine = blocks_.begin + (bad_loss - finite_loss_.begin());
    const double p = comm_->size();
    comm_->ledger().predict_bytes(2.0 * (p - 1.0) / p * sizeof(Index));
    const Index failed = comm_->all_reduce(mine, Reduce::min);
    if (failed == none) return;
    std::optional<Error> error;
    if (mine == failed) error = failure(number, failed);
    comm_->agree(error);
}

template <Real R>
Error Trainer<R>::failure(Index number, Index code) const {
    const std::string when = concat("in epoch ", number / steps_per_epoch_ + 1, ", step ",
                                    number % steps_per_epoch_ + 1, " of ", steps_per_epoch_);
    const std::string advice = "; lower --learning-rate, or check the data";
    if (code >= samples_.blocks()) {
        const auto& tensor = network_->arena().tensors()[at(code - samples_.blocks())];
        return {Fault::check,
                concat("the gradient of layer ", network_->graph().layers[at(tensor.layer)].name,
                       " is not finite ", when, advice)};
    }
    const auto b = at(code - blocks_.begin);
    const auto [layer, row] =
        network_->first_non_finite(workspaces_[b])
            .value_or(std::pair{network_->graph().layers.back().name, Index{0}});
    return {Fault::check, concat("the loss is not finite ", when, ", from layer ", layer,
                                 " on (sample ", batches_[b].samples[at(row)], ")", advice)};
}

template class Trainer<float>;
template class Trainer<double>;

}  // namespace rankfold
