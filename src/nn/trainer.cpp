#include <rankfold/nn/trainer.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include <omp.h>

#include <rankfold/comm/reproducible_sum.hpp>
#include <rankfold/core/random.hpp>
#include <rankfold/core/subscript.hpp>
#include <rankfold/linalg/blas.hpp>

namespace rankfold {

namespace {

/// Gradients are exchanged in buckets of at least this many elements (1 MiB of floats).
constexpr Index bucket_elements = 1 << 18;
/// Elements of a piece that is summed and updated in one go, while it is in the cache.
constexpr Index piece_elements = 1 << 13;
/// Squares of a gradient are added by lines of this many elements, whatever the slices.
constexpr Index line_elements = 16;
constexpr Index none = std::numeric_limits<Index>::max();
/// Rows of the dense product that a training's speed is held against: some milliseconds.
constexpr Index gemm_width = 768;

template <Real R>
std::vector<Range> owned_slices(const GradientSum<R>& sum, int rank) {
    std::vector<Range> slices;
    for (Index b = 0; b < sum.buckets(); ++b) slices.push_back(sum.owned(b, rank));
    return slices;
}

Index micro_batch_of(const TrainOptions& options, Index blocks) {
    if (options.batch < blocks) {
        throw input_error("a batch of ", options.batch, " samples cannot be cut into ", blocks,
                          " micro-batches; raise --batch or lower --micro-batches");
    }
    const Index each = (options.batch + blocks / 2) / blocks;
    if (options.accumulate > each) {
        throw input_error("micro-batches of ", each, " samples cannot be computed in ",
                          options.accumulate, " passes; raise --batch or lower --accumulate");
    }
    return each;
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
      micro_batch_{micro_batch_of(options, samples.blocks())},
      steps_per_epoch_{0},
      blocks_{even_part(samples.blocks(), comm_->size(), comm_->rank())},
      sum_{*comm_, samples.blocks(), network.arena().bucket_ends(bucket_elements),
           SumOptions{.owner = options.owner_updates,
                      .reproducible = options.reproducible,
                      .by_block = options.reproducible && options.accumulate > 1}},
      optimizer_{options.optimizer, owned_slices(sum_, comm_->rank())},
      tables_{*comm_, network, sum_} {
    if (options.accumulate > 1 && has_tables()) {
        throw input_error(
            "a network with embeddings computes a batch in one pass; leave out --accumulate");
    }
    Index longest = 0;
    for (Index b = 0; b < samples.blocks(); ++b) {
        longest = std::max(longest, samples.block(b).size());
    }
    steps_per_epoch_ = (longest + micro_batch_ - 1) / micro_batch_;
    network_->prepare(micro_batch_ * samples.rows_per_sample());
    const Index own = blocks_.size();
    const Index pass = (micro_batch_ + options.accumulate - 1) / options.accumulate;
    const Index ends = options.reproducible ? own : 1;
    ws_ = network_->workspace(own * pass * samples.rows_per_sample(), Purpose::training, ends);
    ws_.products.threads = options.threads;
    ws_.ends.assign(at(ends), 0);
    batches_.resize(at(own));
    orders_.resize(at(own));
    epoch_loss_.assign(at(own), 0.0);
    finite_loss_.assign(at(own), 1);
    for (const Range& node : sum_.nodes()) {
        const Index first = options.reproducible ? blocks_.begin : node.begin;
        nodes_.push_back({node.begin - first, node.end - first});
    }
    plan_pieces();
}

/// Cuts what this rank updates into pieces, none of which has elements of two tensors.
template <Real R>
void Trainer<R>::plan_pieces() {
    const auto& tensors = network_->arena().tensors();
    for (Index b = 0; b < sum_.buckets(); ++b) {
        const Range own = sum_.owned(b, comm_->rank());
        for (auto tensor = tensors.rbegin(); tensor != tensors.rend(); ++tensor) {
            if (!tensor->summed()) continue;
            // up to the next tensor, with the zeros between
            const Index whole =
                (tensor->size() + line_elements - 1) / line_elements * line_elements;
            const Range mine{std::max(own.begin, tensor->offset),
                             std::min(own.end, tensor->offset + whole)};
            for (Index first = mine.begin; first < mine.end; first += piece_elements) {
                pieces_.push_back({b,
                                   {first, std::min(first + piece_elements, mine.end)},
                                   tensor->part != Part::bias && tensor->part != Part::gain});
            }
        }
    }
}

template <Real R>
Range Trainer<R>::samples_of_step(Index block, Index step, Index pass) const {
    const Index size = samples_.block(block).size();
    const Index begin = std::min(step * micro_batch_, size);
    const Index count = std::min((step + 1) * micro_batch_, size) - begin;
    const Range part = even_part(count, options_.accumulate, pass);
    return {begin + part.begin, begin + part.end};
}

template <Real R>
TensorList Trainer<R>::state(Index epochs_done) {
    TensorList state = network_->arena().list();
    optimizer_.list(network_->arena(), !options_.owner_updates, state);
    tables_.list(optimizer_.has_second(), state);
    state.scalars["epoch"] = static_cast<double>(epochs_done);
    return state;
}

template <Real R>
History Trainer<R>::run(const Steering& steering) {
    History history{.columns = {"epoch", "loss"}, .rows = {}};
    TensorList initial = state(0);
    const auto samples = static_cast<double>(samples_.samples());
    const Index rows = samples_.samples() * samples_.rows_per_sample();
    const double flops = network_->forward_flops(rows) + network_->backward_flops(rows);
    const double gemm = static_cast<double>(options_.threads) *
                        comm_->all_reduce(measure_gemm_gflops<R>(2, gemm_width), Reduce::sum);
    for (Index e = steering.restore(initial); e < options_.epochs; ++e) {
        const double start = monotonic_seconds();
        exchanging_ = 0.0;
        const double loss = epoch(e);
        const double seconds = comm_->all_reduce(monotonic_seconds() - start, Reduce::max);
        // the slowest rank waits least
        const double exposed = comm_->all_reduce(exchanging_, Reduce::min);
        history.rows.push_back({static_cast<double>(e + 1), loss});
        const Verdict verdict =
            steering.after({.unit = "epoch",
                            .step = e + 1,
                            .steps = options_.epochs,
                            .values = {{"loss", loss},
                                       {"samples/s", samples / seconds},
                                       {"GF/s", flops / seconds * 1e-9},
                                       {"share of gemm", flops / seconds * 1e-9 / gemm},
                                       {"exposed communication", exposed / seconds}}},
                           state(e + 1));
        if (verdict == Verdict::stop) break;
    }
    return history;
}

/// Runs `work`, in which this rank computes nothing, in a phase of the ledger, and on the clock.
template <Real R>
template <class Work>
void Trainer<R>::exchange(const char* phase_name, const Work& work) {
    auto phase = comm_->ledger().phase(phase_name);
    const double start = monotonic_seconds();
    work();
    exchanging_ += monotonic_seconds() - start;
}

template <Real R>
double Trainer<R>::epoch(Index number) {
    shuffle(number);
    for (Index s = 0; s < steps_per_epoch_; ++s) step(number, s);
    tables_.gather();
    return reproducible_sum(*comm_, epoch_loss_) / static_cast<double>(samples_.samples());
}

template <Real R>
void Trainer<R>::shuffle(Index epoch) {
    auto phase = comm_->ledger().phase("shuffle");
    const Philox random(options_.seed, Stream::shuffle);
    const Index own = blocks_.size();
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
    for (Index b = 0; b < samples_.blocks(); ++b) {
        for (Index pass = 0; pass < options_.accumulate; ++pass) {
            count += samples_of_step(b, number, pass).size();
        }
    }
    for (Index pass = 0; pass < options_.accumulate; ++pass) {
        load(epoch, number, pass);
        if (has_tables()) tables_.fetch(ws_);
        forward(epoch, 1.0 / static_cast<double>(count));
        backward(pass == options_.accumulate - 1, pass > 0);
    }
    update({.step = epoch * steps_per_epoch_ + number,
            .steps = options_.epochs * steps_per_epoch_,
            .steps_per_epoch = steps_per_epoch_});
}

/// Puts the samples of a step into the workspace, block after block.
template <Real R>
void Trainer<R>::load(Index epoch, Index number, Index pass) {
    auto phase = comm_->ledger().phase("samples");
    const Index rows_each = samples_.rows_per_sample();
    std::vector<Range> places;
    row_ids_.clear();
    ws_.rows = 0;
    for (Index b = 0; b < blocks_.size(); ++b) {
        const Range part = samples_of_step(blocks_.begin + b, number, pass);
        batches_[at(b)].samples =
            std::span<const Index>(orders_[at(b)]).subspan(at(part.begin), at(part.size()));
        for (const Index sample : batches_[at(b)].samples) {
            for (Index r = 0; r < rows_each; ++r) row_ids_.push_back(sample * rows_each + r);
        }
        places.push_back({ws_.rows, ws_.rows + part.size() * rows_each});
        ws_.rows = places.back().end;
        ws_.ends[options_.reproducible ? at(b) : 0] = ws_.rows;
    }
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(options_.threads))
    for (Index b = 0; b < blocks_.size(); ++b) {
        MicroBatch<R>& batch = batches_[at(b)];
        const Range place = places[at(b)];
        batch.epoch = epoch;
        show_inputs(ws_, place, batch);
        samples_.fill(batch);
    }
}

template <Real R>
void show_inputs(Workspace<R>& ws, Range place, MicroBatch<R>& batch) {
    const auto part = [place](auto& all) {
        return all.empty() ? std::span(all)
                           : std::span(all).subspan(at(place.begin), at(place.size()));
    };
    batch.inputs.clear();
    batch.indices.clear();
    batch.sparse.clear();
    for (auto& input : ws.inputs) {
        batch.inputs.push_back(input.view().row_block(input.rows() > 0 ? place : Range{0, 0}));
    }
    for (auto& indices : ws.indices) batch.indices.push_back(part(indices));
    for (auto& rows : ws.sparse) batch.sparse.push_back(part(rows));
}

template <Real R>
void Trainer<R>::forward(Index epoch, double factor) {
    auto phase = comm_->ledger().phase("forward");
    network_->prepare(micro_batch_ * samples_.rows_per_sample());
    const DropoutKey key{options_.seed, epoch, row_ids_};
    network_->forward(ws_, &key);
    const MatrixView<R> z = network_->output(ws_);
    const MatrixView<R> d = network_->d_output(ws_);
    if (d.data != z.data) std::copy_n(z.data, z.rows * z.cols, d.data);
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(options_.threads))
    for (Index b = 0; b < blocks_.size(); ++b) {
        Index begin = 0;
        for (Index c = 0; c < b; ++c) begin += std::ssize(batches_[at(c)].samples);
        const Index count = std::ssize(batches_[at(b)].samples);
        const Index each = samples_.rows_per_sample();
        const double loss = loss_gradient(loss_, batches_[at(b)].targets, factor,
                                          d.row_block({begin * each, (begin + count) * each}));
        epoch_loss_[at(b)] += loss;
        finite_loss_[at(b)] = std::isfinite(loss) ? 1 : 0;
    }
    comm_->ledger().add_flops(network_->forward_flops(ws_.rows));
}

template <Real R>
void Trainer<R>::backward(bool last, bool add) {
    auto phase = comm_->ledger().phase("backward");
    const auto& tensors = network_->arena().tensors();
    Index next_bucket = 0;
    for (Index layer = network_->layers() - 1; layer >= 0; --layer) {
        network_->begin_backward(layer, ws_);
        layer_gradients(layer, add);
        Index done = 0;  // the arena is complete up to here
        for (const ParameterTensor& tensor : tensors) {
            if (tensor.summed() && tensor.layer >= layer) {
                done = std::max(done, tensor.offset + tensor.size());
            }
        }
        while (last && next_bucket < sum_.buckets() &&
               sum_.bucket(next_bucket).end < done + line_elements) {
            exchange("gradient sum", [&] { sum_.start(next_bucket++); });
        }
        network_->input_gradient(layer, ws_);
        sum_.progress();
    }
    comm_->ledger().add_flops(network_->backward_flops(ws_.rows));
    if (has_tables()) tables_.collect(ws_, nodes_);
}

/// The layer's gradients, summed over the blocks of each of this rank's nodes.
template <Real R>
void Trainer<R>::layer_gradients(Index layer, bool add) {
    for (const ParameterTensor& tensor : network_->arena().tensors()) {
        if (tensor.layer != layer || !tensor.summed()) continue;
        std::vector<R*> out;
        for (Index node = 0; node < std::ssize(nodes_); ++node) {
            out.push_back(sum_.partial(node).data() + tensor.offset);
        }
        network_->gradient(tensor, nodes_, out, add, ws_);
    }
}

/// Sums all gradients, and tells what shrinks their norm to the largest allowed.
template <Real R>
double Trainer<R>::clipped() {
    std::vector<double> terms;
    for (Index b = 0; b < sum_.buckets(); ++b) {
        exchange("gradient sum", [&] { sum_.finish(b); });
    }
    auto phase = comm_->ledger().phase("update");
    for (const Piece& piece : pieces_) {
        const std::span<const R> g = sum_.sum(piece.bucket, piece.place);
        if (!options_.owner_updates && !comm_->is_root()) continue;  // all have the same
        for (std::size_t i = 0; i < g.size(); i += line_elements) {
            double sum = 0.0;
            for (std::size_t j = i; j < i + line_elements; ++j) {
                sum += static_cast<double>(g[j]) * static_cast<double>(g[j]);
            }
            terms.push_back(sum);
        }
    }
    tables_.add_squares(terms);
    const double p = comm_->size();
    comm_->ledger().predict_bytes(2.0 * (p - 1.0) / p * 4.0 * sizeof(double));
    const double norm = std::sqrt(reproducible_sum(*comm_, terms));
    const double limit = optimizer_.options().clip;
    return norm > limit ? limit / norm : 1.0;
}

template <Real R>
void Trainer<R>::update(const Clock& clock) {
    const bool clips = optimizer_.options().clip > 0.0;
    optimizer_.begin_step(clock, clips ? clipped() : 1.0);
    bad_tensor_ = none;
    std::vector<PendingExchange> gathers;
    for (Index b = 0; b < sum_.buckets(); ++b) {
        if (!clips) exchange("gradient sum", [&] { sum_.finish(b); });
        update_bucket(b);
        if (comm_->size() > 1 && options_.owner_updates) {
            exchange("gather parameters", [&] { gathers.push_back(gather(b)); });
        }
    }
    bool tables_finite = true;
    if (has_tables()) {
        auto phase = comm_->ledger().phase("update");
        tables_finite = tables_.update(optimizer_);
    }
    check(clock.step, tables_finite);
    exchange("gather parameters", [&] {
        for (PendingExchange& pending : gathers) pending.wait();
    });
}

template <Real R>
void Trainer<R>::update_bucket(Index bucket) {
    auto phase = comm_->ledger().phase("update");
    const std::span<R> values = network_->arena().values();
    const bool clips = optimizer_.options().clip > 0.0;
    const auto [first, last] = std::ranges::equal_range(pieces_, bucket, {}, &Piece::bucket);
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(options_.threads))
    for (auto piece = first; piece < last; ++piece) {
        const Range place = piece->place;
        alignas(64) R room[piece_elements];
        const std::span<const R> gradient =
            clips ? sum_.summed(bucket, place)
                  : sum_.sum(bucket, place, std::span<R>(room, at(place.size())));
        const bool finite =
            optimizer_.update(bucket, place, gradient,
                              values.subspan(at(place.begin), at(place.size())), piece->decays);
        if (!finite) blame(place, gradient);
    }
}

/// Every rank gets the slices that the others have updated.
template <Real R>
PendingExchange Trainer<R>::gather(Index bucket) {
    std::vector<Index> counts;
    for (int q = 0; q < comm_->size(); ++q) counts.push_back(sum_.owned(bucket, q).size());
    const double own = static_cast<double>(counts[at(comm_->rank())]) * sizeof(R);
    comm_->ledger().predict_bytes(own * (comm_->size() - 1));
    const Range place = sum_.bucket(bucket);
    return comm_->start_all_gather(
        counts, network_->arena().values().subspan(at(place.begin), at(place.size())));
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
            if (tensors[t].summed() && place.contains(position)) {
                worst = std::min(worst, static_cast<Index>(t));
            }
        }
    }
#pragma omp critical(rankfold_trainer_blame)
    bad_tensor_ = std::min(bad_tensor_, worst);
}

/// Throws on all ranks alike if a loss or a gradient of this step is not finite. What failed is
/// numbered: a block's loss by the block, a gradient by the number of blocks plus that of its
/// tensor, embeddings behind all tensors; the lowest number is reported, whoever holds it.
template <Real R>
void Trainer<R>::check(Index number, bool tables_finite) const {
    auto phase = comm_->ledger().phase("update");
    const auto bad_loss = std::ranges::find(finite_loss_, 0);
    Index mine = bad_tensor_ == none ? none : samples_.blocks() + bad_tensor_;
    if (!tables_finite && mine == none) {
        mine = samples_.blocks() + std::ssize(network_->arena().tensors());
    }
    if (bad_loss != finite_loss_.end()) mine = blocks_.begin + (bad_loss - finite_loss_.begin());
    const double p = comm_->size();
    comm_->ledger().predict_bytes(2.0 * (p - 1.0) / p * sizeof(Index));
    const Index failed = comm_->all_reduce(mine, Reduce::min);
    if (failed == none) return;
    // several ranks may hold the failing gradient, a loss has one: agree() takes the lowest rank's
    std::optional<Error> error;
    if (mine == failed) error = failure(number, failed);
    comm_->agree(error);
}

template <Real R>
Error Trainer<R>::failure(Index number, Index code) const {
    const std::string when = concat("in epoch ", number / steps_per_epoch_ + 1, ", step ",
                                    number % steps_per_epoch_ + 1, " of ", steps_per_epoch_);
    const std::string advice = "; lower --learning-rate, or check the data";
    const auto& tensors = network_->arena().tensors();
    if (code >= samples_.blocks()) {
        const auto t = at(code - samples_.blocks());
        const std::string what =
            t < tensors.size() ? "layer " + network_->graph().layers[at(tensors[t].layer)].name
                               : std::string("an embedding");
        return {Fault::check, concat("the gradient of ", what, " is not finite ", when, advice)};
    }
    const Index each = samples_.rows_per_sample();
    Index first = 0;  // row of the failing block
    for (Index b = 0; b < code - blocks_.begin; ++b) first += std::ssize(batches_[at(b)].samples);
    const Range rows{first * each,
                     (first + std::ssize(batches_[at(code - blocks_.begin)].samples)) * each};
    const auto [layer, row] = network_->first_non_finite(ws_, rows).value_or(
        std::pair{network_->graph().layers.back().name, rows.begin});
    return {Fault::check, concat("the loss is not finite ", when, ", from layer ", layer,
                                 " on (sample ", row_ids_[at(row)] / each, ")", advice)};
}

template void show_inputs(Workspace<float>&, Range, MicroBatch<float>&);
template void show_inputs(Workspace<double>&, Range, MicroBatch<double>&);
template class Trainer<float>;
template class Trainer<double>;

}  // namespace rankfold
