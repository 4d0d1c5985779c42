#include "pair_validation.hpp"

#include <rankfold/eval/align.hpp>
#include <rankfold/eval/ranking.hpp>

#include "scoring.hpp"

namespace rankfold::cli {

namespace {

/// A matrix of the same rows and columns as the training one, in a layout of rows.
template <Real R>
BlockRowCsr<R> part_of(Run& run, const std::string& path, const MatrixData<R>& whole,
                       const ShardLayout& layout) {
    const auto part = load_matrix<R>(run, path);
    if (!part->sparse) throw input_error(path, " is dense; it must be sparse");
    return align_by_name(*part, whole.ids, layout, whole.cols()).matrix;
}

}  // namespace

template <Real R>
PairValidation<R>::PairValidation(Run& run, const Files& files, const MatrixData<R>& whole,
                                  const ShardLayout& layout, bool values)
    : run_{run},
      values_{values},
      train_{redistribute(*whole.sparse, layout)},
      test_{part_of(run, files.entries, whole, layout)} {
    if (!files.negatives.empty()) negatives_ = part_of(run, files.negatives, whole, layout);
}

template <Real R>
double PairValidation<R>::measure(const ScorerRef<R>& scorer) {
    if (values_) {
        return rating_errors<R>(scorer, test_, {}, {}, run_.common.threads).rmse.value;
    }
    RankingTask<R> task{.test = test_};
    if (negatives_) {
        task.negatives = &*negatives_;
    } else {
        task.train = &train_;
    }
    const std::vector<Metric> wanted{parse_metric("ndcg@10"), parse_metric("hr@10")};
    const auto found = rank_quality<R>(scorer, task, wanted, run_.common.threads);
    hits_ = found.metrics[1].value;
    return found.metrics[0].value;
}

template class PairValidation<float>;
template class PairValidation<double>;

}  // namespace rankfold::cli
