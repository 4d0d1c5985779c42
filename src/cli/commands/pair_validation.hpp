// What `rankfold hybrid` chooses its best round or epoch by.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include <rankfold/cli/run.hpp>
#include <rankfold/data/matrix_file.hpp>
#include <rankfold/eval/scorer.hpp>

namespace rankfold::cli {

/// A validation part in the rows of scorers with one layout: NDCG@10 (and HR@10), or the RMSE.
template <Real R>
class PairValidation {
public:
    struct Files {
        std::string entries;
        std::string negatives;  ///< the candidates beside them; all columns without an entry if ""
    };

    /// @param whole   the training matrix; borrowed
    /// @param layout  of the rows of what is measured
    /// @collective @throws Error (Fault::input), agreed
    PairValidation(Run& run, const Files& files, const MatrixData<R>& whole,
                   const ShardLayout& layout, bool values);

    /// The value of metric(). @collective
    double measure(const ScorerRef<R>& scorer);
    [[nodiscard]] std::string metric() const { return values_ ? "rmse" : "ndcg@10"; }
    /// HR@10 of the last measure(), if it was of rankings.
    [[nodiscard]] double hits() const { return hits_; }

private:
    Run& run_;
    bool values_;
    BlockRowCsr<R> train_;
    BlockRowCsr<R> test_;
    std::optional<BlockRowCsr<R>> negatives_;
    double hits_ = 0.0;
};

}  // namespace rankfold::cli
