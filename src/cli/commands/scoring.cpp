#include "scoring.hpp"

#include <rankfold/data/tensor_file.hpp>

namespace rankfold::cli {

template <Real R>
std::shared_ptr<const MatrixData<R>> load_matrix(Run& run, const std::string& path) {
    if (auto held = run.handover.find<MatrixData<R>>(path)) return held;
    const auto phase = run.comm.ledger().phase("read");
    return std::make_shared<const MatrixData<R>>(read_matrix<R>(run.comm, path));
}

std::vector<std::string> names_on_root(const Communicator& comm, const IdSource& ids,
                                       const std::string& axis,
                                       const std::vector<Index>& positions) {
    std::vector<std::string> names;
    comm.agree([&] { names = read_names(comm, ids, axis, positions); });
    return names;
}

template <Real R>
struct Model<R>::Impl {
    std::string name;
    std::string path;
    std::shared_ptr<const Factors<R>> factors;
    std::optional<FactorScorer<R>> factor_scorer;
};

template <Real R>
Model<R>::Model(Run& run, const std::string& path, const MatrixData<R>* /*inputs*/)
    : impl_{std::make_unique<Impl>()} {
    Impl& m = *impl_;
    m.path = path;
    m.factors = run.handover.find<Factors<R>>(path);
    if (!m.factors) {
        const auto phase = run.comm.ledger().phase("read");
        m.factors = std::make_shared<const Factors<R>>(read_factors<R>(run.comm, path));
    }
    m.name = m.factors->method.substr(0, m.factors->method.find('-'));
    m.factor_scorer.emplace(*m.factors);
}

template <Real R>
Model<R>::~Model() = default;

template <Real R>
const std::string& Model<R>::name() const {
    return impl_->name;
}

template <Real R>
const std::string& Model<R>::path() const {
    return impl_->path;
}

template <Real R>
ScorerRef<R> Model<R>::scorer() const {
    return *impl_->factor_scorer;
}

template <Real R>
const IdSource& Model<R>::ids() const {
    return impl_->factors->ids;
}

template <Real R>
std::optional<Offsets> Model<R>::offsets() const {
    return offsets_of(*impl_->factors);
}

template <Real R>
bool Model<R>::classifies() const {
    return false;
}

template <Real R>
bool Model<R>::rates() const {
    return impl_->factors->method == "als-explicit" || impl_->factors->method == "deepmf";
}

template <Real R>
Aligned<R> align_with(const Model<R>& model, const MatrixData<R>& matrix) {
    const Communicator& comm = matrix.comm();
    const ScorerRef<R> scorer = model.scorer();
    const auto row_map =
        match_names(comm, matrix.ids, model.ids(), "obs", matrix.rows(), scorer.rows());
    const auto col_map =
        match_names(comm, matrix.ids, model.ids(), "var", matrix.cols(), scorer.cols());
    return align(*matrix.sparse, scorer.layout(), scorer.cols(), row_map, col_map);
}

#define RANKFOLD_INSTANTIATE(R)                                                          \
    template std::shared_ptr<const MatrixData<R>> load_matrix(Run&, const std::string&); \
    template class Model<R>;                                                             \
    template Aligned<R> align_with(const Model<R>&, const MatrixData<R>&);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold::cli
