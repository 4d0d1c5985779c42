// rankfold deepmf: the factorization posed as a network.
#include <fmt/format.h>

#include <rankfold/cli/loop.hpp>
#include <rankfold/cli/network_file.hpp>
#include <rankfold/hybrid/deep_mf.hpp>

#include "early_stop.hpp"
#include "scoring.hpp"

namespace rankfold::cli {

namespace {

struct DeepMfCommand {
    std::string matrix;
    std::string out;
    std::string init;
    std::string centering = "mean";
    std::string schedule = "cosine";
    std::optional<Index> embedding;
    DeepMfOptions deep;
    LoopOptions loop;
};

template <Real R>
void run_deepmf(Run& run, const DeepMfCommand& o) {
    run.check_output(o.out, o.init.empty() ? std::vector<std::string>{o.matrix}
                                           : std::vector<std::string>{o.matrix, o.init});
    const auto a = load_matrix<R>(run, o.matrix);
    DeepMfOptions options = o.deep;
    options.embedding = o.embedding.value_or(options.k);
    options.centering = o.centering == "mean" ? Centering::mean : Centering::none;
    options.train.optimizer.schedule =
        o.schedule == "cosine" ? Schedule::cosine : Schedule::constant;
    options.train.seed = static_cast<std::uint64_t>(run.common.seed);
    options.train.threads = run.common.threads;
    if (!a->sparse) {
        throw input_error("deepmf learns the entries of a sparse matrix, but ", o.matrix,
                          " is dense; import it with --missing or as triplets");
    }
    std::erase(options.hidden, 0);
    std::vector<std::pair<std::string, std::string>> inputs{{"matrix", digest_text(a->digest)}};
    std::shared_ptr<Factors<R>> init;
    if (!o.init.empty()) {
        init = load_factors<R>(run, o.init);
        if (init->rows.rows() != a->rows() || init->cols.rows() != a->cols()) {
            throw input_error(o.init, " has factors of ", init->rows.rows(), " rows and ",
                              init->cols.rows(), " columns, but ", o.matrix, " is ", a->rows(),
                              " x ", a->cols());
        }
        inputs.emplace_back("init", digest_text(digest(run.comm, init->tensors())));
    }
    if (run.common.dry_run) return;

    auto fitted =
        fit_deep_mf(*a->sparse, options, steer(run, o.loop, std::move(inputs)), init.get());
    auto factors = std::make_shared<Factors<R>>(std::move(fitted.factors));
    factors->ids = a->ids;
    factors->options = run.options.dump();
    factors->history = run.history;
    auto model =
        std::make_shared<NetworkModel<R>>(NetworkModel<R>{.head = Loss::factorization,
                                                          .input = NetworkInput::indices,
                                                          .class_names = {},
                                                          .network = std::move(fitted.network),
                                                          .factors = factors,
                                                          .ids = {},
                                                          .history = run.history});
    {
        const auto phase = run.comm.ledger().phase("write");
        write_network(run.comm, o.out, *model,
                      {.command = "deepmf",
                       .options = run.options.dump(),
                       .input_digest = digest_text(a->digest)});
    }
    run.digest = digest_text(digest(run.comm, model->tensors()));
    auto objective = nlohmann::ordered_json::array();
    for (const auto& row : run.history.rows) {
        objective.push_back({{"block", "network"}, {"value", row[1]}});
    }
    run.result["objective"] = objective;
    if (!run.history.rows.empty()) {
        run.say(fmt::format(
            "{} towers of {} outputs on embeddings of {}: objective {:.6g}, "
            "training RMSE {:.4f} after {} epochs",
            !options.hidden.empty() ? "nonlinear" : "linear", options.k, options.embedding,
            run.history.rows.back()[1], run.history.rows.back()[2], run.history.rows.size()));
    }
    run.say("wrote " + o.out);
    run.handover.leave(o.out, model);
}

}  // namespace

Action declare_deepmf(Options& options) {
    auto o = std::make_shared<DeepMfCommand>();
    options.positional("matrix", o->matrix, "Matrix file (HDF5), sparse");
    options.add("out", o->out, "Network file to write, with the factors in it");
    options.add("factors", o->deep.k, "Outputs of the towers k", Accept::between(1, 65536));
    options.add("embedding", o->embedding, "Width of the free embeddings; default: as --factors",
                Accept::at_least(1));
    options.add("hidden", o->deep.hidden,
                "Widths of the hidden layers of each tower; 0 or none: linear towers",
                Accept::at_least(0));
    options.add("init", o->init, "Factors of the same matrix that the embeddings start from");
    options.add("lambda", o->deep.lambda, "Ridge weight λ, as in als", Accept::at_least(0));
    options.add("lambda-exponent", o->deep.lambda_exponent,
                "ν: λ is scaled by (entries of the row or column)^ν", Accept::at_least(0));
    options.add("implicit", o->deep.implicit,
                "Entries stand for 1, and sampled pairs without one for 0");
    options.add("zeros", o->deep.zeros, "Implicit: sampled pairs, per entry", Accept::at_least(0));
    options.add("centering", o->centering, "Explicit: what is subtracted from the values",
                Accept::one_of({"mean", "none"}));
    options.add("epochs", o->deep.train.epochs, "Passes over the entries", Accept::at_least(1));
    options.add("batch", o->deep.train.batch, "Entries of a global batch", Accept::at_least(1));
    options.add("micro-batches", o->deep.micro_batches, "Blocks of a batch; 0 for the default",
                Accept::at_least(0));
    options.add("learning-rate", o->deep.train.optimizer.learning_rate, "At the start (Adam)",
                Accept::above(0));
    options.add("schedule", o->schedule, "Of the learning rate: cosine falls to 0 at the end",
                Accept::one_of({"cosine", "constant"}));
    o->loop.declare(options);
    options.examples(
        "rankfold deepmf ratings.h5 --factors 16 --out towers.h5\n"
        "mpirun -n 4 rankfold deepmf ratings.h5 --factors 16 --hidden 64,32 --out towers.h5\n"
        "rankfold deepmf clicks.h5 --implicit --zeros 4 --out towers.h5");
    return [o](Run& run) {
        run.common.precision == "float" ? run_deepmf<float>(run, *o) : run_deepmf<double>(run, *o);
    };
}

}  // namespace rankfold::cli
