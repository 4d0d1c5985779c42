// What the commands that train networks share: the samples that a network learns from.
#pragma once

#include <optional>

#include <rankfold/cli/network_file.hpp>
#include <rankfold/factor/als.hpp>

namespace rankfold::cli {

/// Calls use(samples) with what a network of this kind learns from the matrix: its rows (or those
/// of the factors) with labels or entries as targets, or its entries. The samples live as long as
/// the call; `use` must be collective.
///
/// @param blocks  micro-batches
/// @collective @throws Error (Fault::input), agreed: no samples, a label out of range
template <Real R, class Use>
void with_samples(const NetworkModel<R>& model, const MatrixData<R>& a, Index blocks,
                  const Use& use) {
    const auto hand = [&](RowSamples<R> samples) {
        if (!model.standard.mean.empty()) samples.standardise(model.standard);
        use(samples);
    };
    const auto of_rows = [&](const auto& rows) {
        if (model.head == Loss::classes) {
            hand(RowSamples<R>(rows, model.scale, *a.labels, model.network.outputs(), blocks));
        } else if (a.sparse) {
            hand(RowSamples<R>(rows, model.scale, *a.sparse, blocks, model.head));
        } else {
            hand(RowSamples<R>(rows, model.scale, sparsify(*a.dense), blocks, model.head));
        }
    };
    if (model.input == NetworkInput::matrix) {
        a.sparse ? of_rows(*a.sparse) : of_rows(*a.dense);
        return;
    }
    const BlockRows<R> features = model.input == NetworkInput::reconstruction
                                      ? score_product(*model.factors).rows
                                      : row_features(*model.factors);
    BlockRows<R> rows = take_rows(features, a.layout(), rows_in_factors(a, *model.factors));
    if (model.head != Loss::squared) {
        of_rows(rows);
        return;
    }
    BlockRows<R> cols = col_features(*model.factors);
    for (R& x : rows.local().data()) x *= static_cast<R>(model.scale);
    for (R& x : cols.local().data()) x *= static_cast<R>(model.col_scale);
    PairSamples<R> samples(*a.sparse, rows, cols, blocks);
    use(samples);
}

}  // namespace rankfold::cli
