#include "scoring.hpp"

#include <rankfold/cli/joint_scorer.hpp>
#include <rankfold/cli/network_file.hpp>
#include <rankfold/data/names.hpp>
#include <rankfold/data/tensor_file.hpp>

namespace rankfold::cli {

template <Real R>
std::shared_ptr<const MatrixData<R>> load_matrix(Run& run, const std::string& path) {
    if (auto held = run.handover.find<MatrixData<R>>(path)) return held;
    return std::make_shared<const MatrixData<R>>(read_matrix<R>(run.comm, path));
}

std::vector<std::string> names_on_root(const Communicator& comm, const IdSource& ids,
                                       const std::string& axis,
                                       const std::vector<Index>& positions) {
    std::vector<std::string> names;
    comm.agree([&] { names = read_names(comm, ids, axis, positions); });
    return names;
}

std::optional<Names> axis_names(const Communicator& comm, const IdSource& ids,
                                const std::string& axis) {
    std::optional<Names> names;
    comm.agree([&] {
        if (comm.is_root()) names = read_axis(ids, axis);
    });
    // the others only say that there are some
    if (!comm.all_agree(!comm.is_root() || names.has_value())) return std::nullopt;
    if (!names) names.emplace();
    return names;
}

namespace {

/// True if the factors were fitted to values, so that their scores predict values.
template <Real R>
bool learnt_values(const Factors<R>& factors) {
    if (factors.method == "nmf-missing") return true;
    if (factors.method != "deepmf") return factors.method == "als-explicit";
    const auto options = nlohmann::json::parse(factors.options, nullptr, false);
    return !options.is_discarded() && !options.value("implicit", false) &&
           options.value("loss", "squared") == "squared";
}

}  // namespace

template <Real R>
struct Model<R>::Impl {
    std::string name;
    std::string path;
    IdSource ids;
    std::vector<std::string> class_names;
    bool rates = false;
    std::shared_ptr<const Factors<R>> factors;
    std::optional<FactorScorer<R>> factor_scorer;
    std::shared_ptr<NetworkModel<R>> network;   // unless it is factors
    std::shared_ptr<Factors<R>> own_factors;    // the network's, while it reads others
    std::shared_ptr<const MatrixData<R>> data;  // whose rows the network scores, if it needs any
    std::optional<NetworkScorer<R>> network_scorer;
    std::optional<JointScorer<R>> joint_scorer;

    void open_factors(Run& run) {
        factors = run.handover.find<Factors<R>>(path);
        if (!factors) {
            factors = std::make_shared<const Factors<R>>(read_factors<R>(run.comm, path));
        }
        name = factors->method.substr(0, factors->method.find('-'));
        ids = factors->ids;
        rates = learnt_values(*factors);
        factor_scorer.emplace(*factors);
    }

    ~Impl() {  // the network may be an earlier stage's, which later ones will use too
        if (own_factors) network->factors = std::move(own_factors);
    }

    /// A network that reads factors is given those of other rows.
    void exchange_factors(std::shared_ptr<Factors<R>> given) {
        if (network->input != NetworkInput::factors || network->head != Loss::classes) {
            throw input_error(
                "--factors-file is for networks that tell the classes of factor rows, ", "and ",
                path, " is not");
        }
        if (given->k() != network->factors->k() || given->method != network->factors->method) {
            throw input_error("the factors given as --factors-file (", given->method,
                              ", k = ", given->k(), ") are not like those that ", path,
                              " was trained on (", network->factors->method,
                              ", k = ", network->factors->k(), ")");
        }
        own_factors = std::exchange(network->factors, std::move(given));
    }

    void open_network(Run& run, std::shared_ptr<const MatrixData<R>> seen,
                      std::shared_ptr<const MatrixData<R>> labelled,
                      std::shared_ptr<Factors<R>> given) {
        network = load_network<R>(run, path);
        if (given) exchange_factors(std::move(given));
        if (scores_pairs(*network)) {
            name = "neumf";
            ids = network->ids;
            joint_scorer.emplace(run.comm, network->network);
            return;
        }
        if (network->input == NetworkInput::indices ||
            network->input == NetworkInput::towers) {  // factors, with or without a residual
            factors = network->factors;
            ids = factors->ids;
            rates = learnt_values(*factors);
            name = is_residual(*network) ? "joint" : factors->method;
            if (is_residual(*network)) {
                joint_scorer.emplace(*factors, network->network);
            } else {
                factor_scorer.emplace(*factors);
            }
            return;
        }
        name = "mlp";
        rates = network->head == Loss::squared;
        if (network->head == Loss::classes) class_names = network->class_names;
        if (needs_data(*network)) {
            data = network->head == Loss::classes ? std::move(labelled) : std::move(seen);
            if (!data) {
                throw input_error(path,
                                  network->head == Loss::classes
                                      ? " tells classes; give a matrix of rows to tell them of"
                                      : " reads rows of a matrix; give one (--train)");
            }
            ids = data->ids;
        } else {
            ids = network->factors->ids;
        }
        network_scorer.emplace(cli::network_scorer(*network, data.get()));
    }
};

template <Real R>
Model<R>::Model(Run& run, const std::string& path, std::shared_ptr<const MatrixData<R>> seen,
                std::shared_ptr<const MatrixData<R>> labelled, std::shared_ptr<Factors<R>> factors)
    : impl_{std::make_unique<Impl>()} {
    impl_->path = path;
    const bool held_factors = run.handover.find<Factors<R>>(path) != nullptr;
    const bool held_network = run.handover.find<NetworkModel<R>>(path) != nullptr;
    if (held_network || (!held_factors && file_kind(run.comm, path) == "network")) {
        impl_->open_network(run, std::move(seen), std::move(labelled), std::move(factors));
    } else {
        if (factors) throw input_error("--factors-file is for networks, and ", path, " is none");
        impl_->open_factors(run);
    }
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
    if (impl_->network_scorer) return *impl_->network_scorer;
    if (impl_->joint_scorer) return *impl_->joint_scorer;
    return *impl_->factor_scorer;
}

template <Real R>
const NetworkModel<R>* Model<R>::network() const {
    return impl_->network.get();
}

template <Real R>
const IdSource& Model<R>::ids() const {
    return impl_->ids;
}

template <Real R>
std::optional<Offsets> Model<R>::offsets() const {
    if (!impl_->factors) return std::nullopt;
    return offsets_of(*impl_->factors);
}

template <Real R>
bool Model<R>::classifies() const {
    return !impl_->class_names.empty();
}

template <Real R>
const std::vector<std::string>& Model<R>::class_names() const {
    return impl_->class_names;
}

template <Real R>
bool Model<R>::rates() const {
    return impl_->rates;
}

template <Real R>
Aligned<R> align_by_name(const MatrixData<R>& matrix, const IdSource& names,
                         const ShardLayout& layout, Index cols) {
    const Communicator& comm = matrix.comm();
    const auto row_map = match_names(comm, matrix.ids, names, "obs", matrix.rows(), layout.rows());
    const auto col_map = match_names(comm, matrix.ids, names, "var", matrix.cols(), cols);
    return align(*matrix.sparse, layout, cols, row_map, col_map);
}

template <Real R>
Aligned<R> align_with(const Model<R>& model, const MatrixData<R>& matrix) {
    const ScorerRef<R> scorer = model.scorer();
    return align_by_name(matrix, model.ids(), scorer.layout(), scorer.cols());
}

#define RANKFOLD_INSTANTIATE(R)                                                                  \
    template std::shared_ptr<const MatrixData<R>> load_matrix(Run&, const std::string&);         \
    template class Model<R>;                                                                     \
    template Aligned<R> align_by_name(const MatrixData<R>&, const IdSource&, const ShardLayout&, \
                                      Index);                                                    \
    template Aligned<R> align_with(const Model<R>&, const MatrixData<R>&);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold::cli
