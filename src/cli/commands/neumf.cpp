#include "neumf.hpp"

#include <fmt/format.h>

#include <rankfold/cli/joint_scorer.hpp>
#include <rankfold/cli/network_file.hpp>
#include <rankfold/eval/ranking.hpp>
#include <rankfold/nn/negative_samples.hpp>

#include "early_stop.hpp"
#include "scoring.hpp"

namespace rankfold::cli {

namespace {

/// A matrix of the same rows and columns as the training one, in even shards of rows.
template <Real R>
BlockRowCsr<R> part_of(Run& run, const std::string& path, const MatrixData<R>& whole,
                       const ShardLayout& layout) {
    const auto part = load_matrix<R>(run, path);
    if (!part->sparse) throw input_error(path, " is dense; it must be sparse");
    return align(*part->sparse, layout, whole.cols(),
                 match_names(run.comm, part->ids, whole.ids, "obs", part->rows(), whole.rows()),
                 match_names(run.comm, part->ids, whole.ids, "var", part->cols(), whole.cols()))
        .matrix;
}

/// HR@10 and NDCG@10 on the validation part; the latter decides.
template <Real R>
class PairValidation {
public:
    PairValidation(Run& run, const NeuMfCommand& o, const MatrixData<R>& whole, Network<R>& network)
        : run_{run}, network_{network} {
        const ShardLayout layout = JointScorer<R>(run.comm, network).layout();
        train_ = redistribute(*whole.sparse, layout);
        test_ = part_of(run, o.validation, whole, layout);
        if (!o.validation_negatives.empty()) {
            negatives_ = part_of(run, o.validation_negatives, whole, layout);
        }
    }

    double measure() {
        const JointScorer<R> scorer(run_.comm, network_);
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
    [[nodiscard]] double hits() const { return hits_; }

private:
    Run& run_;
    Network<R>& network_;
    BlockRowCsr<R> train_;
    BlockRowCsr<R> test_;
    std::optional<BlockRowCsr<R>> negatives_;
    double hits_ = 0.0;
};

template <Real R>
void fit(Run& run, const NeuMfCommand& o, const MatrixData<R>& a, NetworkModel<R>& model,
         std::vector<std::pair<std::string, std::string>> inputs) {
    const bool ranked = model.head == Loss::ranking;
    const NegativeSamples<R> samples(
        *a.sparse, o.negatives, ranked ? NegativeUse::ranked : NegativeUse::labelled,
        o.settings.blocks(), static_cast<std::uint64_t>(run.common.seed));
    o.settings.warn_of_idle_ranks(run);
    Trainer<R> trainer(model.network, SamplesRef<R>(samples), model.head,
                       o.settings.resolved(run.common));
    run.result["samples"] = samples.samples();
    run.result["batch"] = trainer.batch();
    run.result["steps_per_epoch"] = trainer.steps_per_epoch();
    Steering steering = steer(run, o.loop, std::move(inputs));
    if (o.validation.empty()) {
        trainer.run(steering);
        return;
    }
    PairValidation<R> validation(run, o, a, model.network);
    NetworkStop<R> stop(run, model.network,
                        {.name = "validation_ndcg@10",
                         .greater_is_better = true,
                         .value = [&] { return validation.measure(); },
                         .others =
                             [&] {
                                 return std::vector<std::pair<std::string, double>>{
                                     {"validation_hr@10", validation.hits()}};
                             }},
                        o.settings.patience);
    trainer.run(stop.around(std::move(steering)));
    stop.finish();
}

}  // namespace

template <Real R>
void run_neumf(Run& run, const NeuMfCommand& o) {
    std::vector<std::string> files{o.matrix};
    for (const auto& file : {o.init, o.validation, o.validation_negatives}) {
        if (!file.empty()) files.push_back(file);
    }
    run.check_output(o.out, files);
    const auto a = load_matrix<R>(run, o.matrix);
    if (!a->sparse) {
        throw input_error("hybrid learns the entries of a sparse matrix, but ", o.matrix,
                          " is dense");
    }
    if (o.validation.empty() && (!o.validation_negatives.empty() || o.settings.patience > 0)) {
        throw input_error("--validation-negatives and --patience need --validation FILE");
    }
    if (run.common.dry_run) return;

    auto model = std::make_shared<NetworkModel<R>>(
        NetworkModel<R>{.head = loss_of("pairs", o.loss),
                        .input = NetworkInput::indices,
                        .class_names = {},
                        .network = neumf_network<R>(a->rows(), a->cols(), o.shape,
                                                    static_cast<std::uint64_t>(run.common.seed)),
                        .factors = nullptr,
                        .ids = a->ids,
                        .history = {}});
    std::vector<std::pair<std::string, std::string>> inputs{{"matrix", digest_text(a->digest)}};
    if (!o.init.empty()) {
        const auto init = load_factors<R>(run, o.init);
        start_from_factors(*init, model->network);
        inputs.emplace_back("init", digest_text(digest(run.comm, init->tensors())));
    }
    fit(run, o, *a, *model, std::move(inputs));
    model->history = run.history;
    {
        const auto phase = run.comm.ledger().phase("write");
        write_network(run.comm, o.out, *model,
                      {.command = "hybrid",
                       .options = run.options.dump(),
                       .input_digest = digest_text(a->digest)});
    }
    run.digest = digest_text(digest(run.comm, model->tensors()));
    if (!run.history.rows.empty()) {
        run.result["loss"] = run.history.rows.back()[1];
        run.say(
            fmt::format("NeuMF, {} factors beside a tower on embeddings of {}: {} epochs, "
                        "training loss {:.4f}",
                        o.shape.factors, o.shape.embedding, run.history.rows.size(),
                        run.history.rows.back()[1]));
    }
    run.say("wrote " + o.out);
    run.handover.leave(o.out, model);
}

template void run_neumf<float>(Run&, const NeuMfCommand&);
template void run_neumf<double>(Run&, const NeuMfCommand&);

}  // namespace rankfold::cli
