#include "neumf.hpp"

#include <fmt/format.h>

#include <rankfold/cli/joint_scorer.hpp>
#include <rankfold/cli/network_file.hpp>
#include <rankfold/nn/negative_samples.hpp>

#include "early_stop.hpp"
#include "pair_validation.hpp"
#include "scoring.hpp"

namespace rankfold::cli {

namespace {

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
    const ShardLayout layout = JointScorer<R>(run.comm, model.network).layout();
    PairValidation<R> validation(run, {o.validation, o.validation_negatives}, a, layout, false);
    NetworkStop<R> stop(
        run, model.network,
        {.name = "validation_ndcg@10",
         .greater_is_better = true,
         .value = [&] { return validation.measure(JointScorer<R>(run.comm, model.network)); },
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

    std::vector<std::pair<std::string, std::string>> inputs{{"matrix", digest_text(a->digest)}};
    NeuMfShape shape = o.shape;
    std::shared_ptr<const Factors<R>> init;
    if (!o.init.empty()) {
        const auto given = load_factors<R>(run, o.init);
        shape.factors = given->k();
        inputs.emplace_back("init", digest_text(digest(run.comm, given->tensors())));
        init = factors_for(run, o.init, *given, *a);
    }
    shape.factors = o.factors.value_or(shape.factors);

    auto model = std::make_shared<NetworkModel<R>>(
        NetworkModel<R>{.head = loss_of("pairs", o.loss),
                        .input = NetworkInput::indices,
                        .class_names = {},
                        .network = neumf_network<R>(a->rows(), a->cols(), shape,
                                                    static_cast<std::uint64_t>(run.common.seed)),
                        .factors = nullptr,
                        .ids = a->ids,
                        .history = {}});
    if (init) start_from_factors(*init, model->network);
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
        run.say(fmt::format(
            "NeuMF, {} factors beside a tower on embeddings of {}: {} epochs, "
            "training loss {:.4f}",
            shape.factors, shape.embedding, run.history.rows.size(), run.history.rows.back()[1]));
    }
    run.say("wrote " + o.out);
    run.handover.leave(o.out, model);
}

template void run_neumf<float>(Run&, const NeuMfCommand&);
template void run_neumf<double>(Run&, const NeuMfCommand&);

}  // namespace rankfold::cli
