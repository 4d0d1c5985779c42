// Where training samples come from: blocks of samples on their ranks, handed out by global id.
#pragma once

#include <concepts>
#include <vector>

#include <rankfold/comm/communicator.hpp>
#include <rankfold/nn/loss.hpp>

namespace rankfold {

/// One micro-batch: which samples, and what a source writes of them. A sample is one row of what
/// the network reads, or several: see SampleSource.
template <Real R>
struct MicroBatch {
    std::span<const Index> samples;         ///< global ids
    Index epoch = 0;                        ///< for sources that draw negatives
    std::vector<MatrixView<R>> inputs;      ///< (rows, width) for each input of the network
    std::vector<std::span<Index>> indices;  ///< (rows) for each input that is an index
    std::vector<std::span<SparseRow<R>>>
        sparse;          ///< (rows) for each sparse input: the source's own
    Targets<R> targets;  ///< replaced by fill()
};

/// Something that networks learn from.
///
/// Samples 0 … samples() − 1 are cut, in global order, into blocks() blocks of equal count (±1):
/// block b is even_part(samples(), blocks(), b), and stands on the rank r with b in
/// even_part(blocks(), p, r). `fill(batch)` writes the inputs and targets of samples that this rank
/// holds; it is const, thread-safe and does not communicate. What a source needs from other ranks
/// it has fetched when it was made. A source of samples of several rows each (a pair to be ranked)
/// says so by `rows_per_sample()`.
template <class S, class R>
concept SampleSource = Real<R> && requires(const S& source, MicroBatch<R>& batch) {
    { source.comm() } -> std::same_as<const Communicator&>;
    { source.samples() } -> std::same_as<Index>;
    { source.blocks() } -> std::same_as<Index>;
    source.fill(batch);
};

/// Any SampleSource, borrowed; it must outlive the reference.
template <Real R>
class SamplesRef {
public:
    template <class S>
    requires SampleSource<S, R> &&(!std::same_as<S, SamplesRef>)
        SamplesRef(const S& source)  // NOLINT(google-explicit-constructor)
        : source_{&source},
          comm_{&source.comm()},
          samples_{source.samples()},
          blocks_{source.blocks()},
          rows_per_sample_{rows_of(source)},
          fill_{
              [](const void* s, MicroBatch<R>& batch) { static_cast<const S*>(s)->fill(batch); }} {}

    [[nodiscard]] const Communicator& comm() const { return *comm_; }
    [[nodiscard]] Index samples() const { return samples_; }
    [[nodiscard]] Index blocks() const { return blocks_; }
    [[nodiscard]] Index rows_per_sample() const { return rows_per_sample_; }
    [[nodiscard]] Range block(Index b) const { return even_part(samples_, blocks_, b); }
    void fill(MicroBatch<R>& batch) const { fill_(source_, batch); }

private:
    template <class S>
    static Index rows_of(const S& source) {
        if constexpr (requires { source.rows_per_sample(); }) return source.rows_per_sample();
        return 1;
    }

    const void* source_;
    const Communicator* comm_;
    Index samples_;
    Index blocks_;
    Index rows_per_sample_;
    void (*fill_)(const void*, MicroBatch<R>&);
};

/// The number of blocks for a global batch: the largest power of two up to batch / 128, at least 4.
[[nodiscard]] Index default_micro_batches(Index batch);

}  // namespace rankfold
