// How well a network does on samples that it was not trained on.
#pragma once

#include <rankfold/nn/network.hpp>
#include <rankfold/nn/samples.hpp>

namespace rankfold {

struct SampleQuality {
    double loss = 0.0;  ///< mean over the samples
    double accuracy =
        0.0;  ///< of Loss::classes: share of samples whose largest output is their label
};

/// Runs all samples through the network. @pre network.prepare() was called
/// @collective over samples.comm(); the same bits on any number of ranks and threads
template <Real R>
[[nodiscard]] SampleQuality sample_quality(const Network<R>& network, SamplesRef<R> samples,
                                           Loss loss, Index threads);

}  // namespace rankfold
