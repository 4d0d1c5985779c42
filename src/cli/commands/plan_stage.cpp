#include "plan_stage.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>

#include <rankfold/bench/mlp_bench.hpp>
#include <rankfold/cli/program.hpp>
#include <rankfold/cli/report.hpp>
#include <rankfold/comm/calibrate.hpp>
#include <rankfold/data/matrix_scan.hpp>
#include <rankfold/dist/synthetic.hpp>
#include <rankfold/factor/als.hpp>
#include <rankfold/nn/network.hpp>
#include <rankfold/nn/samples.hpp>
#include <rankfold/nn/training_cost.hpp>

namespace rankfold::cli {

namespace {

/// Median seconds of a sweep, all of it, on a made matrix with rows and columns like the real one.
/// @param[out] flops  of a rank in it
template <Real R>
double als_sweep_seconds(const Communicator& comm, const MatrixShape& shape, AlsOptions options,
                         double& flops) {
    constexpr double most = 2e6;
    const double part = std::min(1.0, most / static_cast<double>(shape.nnz));
    SyntheticRatings like{
        .rows = std::max<Index>(64, std::llround(part * static_cast<double>(shape.rows))),
        .cols = std::max<Index>(64, std::llround(part * static_cast<double>(shape.cols))),
        .nnz = std::llround(part * static_cast<double>(shape.nnz))};
    like.nnz = std::min(like.nnz, like.rows * like.cols / 2);
    const auto a = generate_ratings<R>(comm, like);
    flops = (half_sweep_flops(a.nnz(), a.rows(), options.k) +
             half_sweep_flops(a.nnz(), a.cols(), options.k)) /
            comm.size();
    options.sweeps = 8;
    std::vector<double> seconds;
    double last = 0.0;
    Steering steering;
    steering.after = [&](const Progress& progress, const TensorList&) {
        const double now = monotonic_seconds();
        if (progress.step > 1) seconds.push_back(comm.all_reduce(now - last, Reduce::max));
        last = now;
        return Verdict::go_on;
    };
    static_cast<void>(als(a, options, steering));
    std::ranges::sort(seconds);
    return seconds[seconds.size() / 2];
}

/// An option's text; empty if it has none.
std::string text_of(const nlohmann::json& options, const char* name) {
    const auto found = options.find(name);
    return found != options.end() && found->is_string() ? found->get<std::string>() : "";
}

/// What else the speed depends on, for its key in a calibration.
std::string kind_of(const nlohmann::json& options) {
    return fmt::format(" {} threads={}", text_of(options, "precision"),
                       options.at("threads").get<Index>());
}

/// The file of a stage's matrix, as it stands in the options.
std::string matrix_of(const nlohmann::json& options) {
    return text_of(options, "matrix");
}

}  // namespace

StagePlanner::StagePlanner(Run& run, std::vector<int> ranks, std::string calibration)
    : run_{run},
      ranks_{std::move(ranks)},
      file_{std::move(calibration)},
      process_bytes_{run.comm.all_reduce(run.process_bytes, Reduce::max)} {
    std::string text;
    if (run.comm.is_root() && !file_.empty() && std::filesystem::exists(file_)) {
        std::ifstream in(file_);
        text.assign(std::istreambuf_iterator<char>(in), {});
    }
    run.comm.broadcast(text);
    calibration_ = nlohmann::ordered_json::parse(text, nullptr, false);
    if (!calibration_.is_object()) {
        if (!text.empty())
            throw input_error(file_, " is no calibration; remove it to measure anew");
        calibration_ = nlohmann::ordered_json::object();
    }
    // one rank cannot measure a network: the defaults stand for a usual one
    exchange_ = run.comm.size() > 1 ? measure_exchange(run.comm) : MachineSpeed{};
    exchange_.seconds_per_message =
        calibration_.value("seconds_per_message", exchange_.seconds_per_message);
    exchange_.seconds_per_byte = calibration_.value("seconds_per_byte", exchange_.seconds_per_byte);
    calibration_["seconds_per_message"] = exchange_.seconds_per_message;
    calibration_["seconds_per_byte"] = exchange_.seconds_per_byte;
}

void StagePlanner::save() const {
    if (!file_.empty()) write_json(run_.comm, file_, calibration_);
}

double StagePlanner::speed_of(const std::string& key, const std::function<double()>& measure) {
    if (calibration_.contains(key)) return calibration_[key];
    const double seconds_per_flop = measure();
    calibration_[key] = seconds_per_flop;
    return seconds_per_flop;
}

void StagePlanner::add_seconds(PlannedStage& stage) const {
    for (StageCost& cost : stage.costs) cost.seconds = cost.step.seconds(stage.speed);
}

PlannedStage StagePlanner::plan(const StageRun& stage) {
    PlannedStage planned;
    if (stage.command == "als" || stage.command == "mlp") {
        Options table(stage.command, "");
        const Action action = command_named(stage.command).declare(table);
        CommonOptions common;
        common.declare(table);
        static_cast<void>(table.parse(stage.arguments));
        const nlohmann::json options = table.resolved();
        const bool there = run_.comm.all_agree(!run_.comm.is_root() ||
                                               std::filesystem::exists(matrix_of(options)));
        if (!there) {
            planned.about = matrix_of(options) + " does not exist yet";
        } else {
            planned = stage.command == "als" ? plan_als(options) : plan_mlp(options);
        }
    } else {
        planned.about = "no plan for " + stage.command;
    }
    planned.name = stage.name;
    return planned;
}

PlannedStage StagePlanner::plan_als(const nlohmann::json& options) {
    const std::string file = matrix_of(options);
    MatrixShape shape;
    AlsSize size;
    std::vector<AlsCost> costs;
    run_.comm.agree([&] {  // every rank reads it: what follows is the same on all
        shape = scan_shape(file);
        if (!shape.sparse) return;
        size = {.rows = shape.rows, .cols = shape.cols, .row_counts = shape.row_counts};
        size.k = options.at("factors").get<Index>() + (options.at("biases").get<bool>() ? 1 : 0);
        size.word = options.at("precision") == "float" ? 4 : 8;
        size.heavy = options.at("solver") == "cholesky";
        size.col_counts.assign(static_cast<std::size_t>(shape.cols), 0);
        scan_rows(file, shape, [&](Index, std::span<const ColIndex> cols) {
            for (const ColIndex j : cols) ++size.col_counts[static_cast<std::size_t>(j)];
        });
        costs = als_costs(size, ranks_, [&](const auto& visit) { scan_rows(file, shape, visit); });
    });
    PlannedStage stage{.about = fmt::format("als, {} x {} matrix with {} entries, k = {}",
                                            shape.rows, shape.cols, shape.nnz, size.k),
                       .unit = "sweep",
                       .steps = options.at("sweeps").get<Index>(),
                       .speed = exchange_};
    if (!shape.sparse) {
        stage.about = "a dense matrix";
        return stage;
    }
    AlsOptions als{.k = options.at("factors").get<Index>(),
                   .implicit = options.at("implicit").get<bool>(),
                   .threads = options.at("threads").get<Index>()};
    const std::string solver = options.at("solver");
    als.solver.solver = solver == "cg"         ? Solver::cg
                        : solver == "subspace" ? Solver::subspace
                                               : Solver::cholesky;
    const std::string key = fmt::format("als {} k={} entries/row={} entries/column={}{}{}", solver,
                                        als.k, shape.nnz / shape.rows, shape.nnz / shape.cols,
                                        als.implicit ? " implicit" : "", kind_of(options));
    stage.speed.seconds_per_flop = speed_of(key, [&] {
        double flops = 0.0;
        const double seconds = size.word == sizeof(float)
                                   ? als_sweep_seconds<float>(run_.comm, shape, als, flops)
                                   : als_sweep_seconds<double>(run_.comm, shape, als, flops);
        return seconds / flops;
    });
    for (const AlsCost& cost : costs) {
        StageCost one{.ranks = cost.ranks,
                      .memory = {{"process", process_bytes_}},
                      .bytes = cost.bytes,
                      .step = cost.sweep,
                      .note = cost.ranks == 1 ? ""
                                              : fmt::format("rows {}, columns {}", cost.row_scheme,
                                                            cost.col_scheme)};
        one.memory.insert(one.memory.end(), cost.memory.begin(), cost.memory.end());
        stage.costs.push_back(std::move(one));
    }
    add_seconds(stage);
    return stage;
}

PlannedStage StagePlanner::plan_mlp(const nlohmann::json& options) {
    MatrixShape shape;
    run_.comm.agree([&] { shape = scan_shape(matrix_of(options)); });
    const std::string head = text_of(options, "head");
    const bool classes = head == "classes" || (head.empty() && shape.classes > 0);
    const bool from_matrix =
        text_of(options, "input") == "matrix" ||
        (text_of(options, "input").empty() && classes && text_of(options, "factors-file").empty());
    PlannedStage stage{.unit = "step", .speed = exchange_};
    if (!from_matrix || (head == "rating")) {
        stage.about = "a network on factors";
        return stage;
    }
    std::vector<Index> hidden = options.at("hidden").get<std::vector<Index>>();
    std::erase(hidden, 0);
    const Index outputs = classes ? shape.classes : shape.cols;
    const Index batch = std::min(shape.rows, options.at("batch").get<Index>());
    const Index given = options.at("micro-batches").get<Index>();
    const Index blocks =
        given > 0 ? given : default_micro_batches(options.at("batch").get<Index>());
    const std::size_t bytes = options.at("precision") == "float" ? 4 : 8;
    const Network<float> network(dense_chain(shape.cols, hidden, outputs, Activation::relu, 0.0));
    const TrainingSize size{
        .parameters = network.arena().summed_size(),
        .step_flops = network.forward_flops(batch) + network.backward_flops(batch),
        .blocks = blocks,
        .word = bytes};
    std::vector<Index> widths{shape.cols};
    widths.insert(widths.end(), hidden.begin(), hidden.end());
    widths.push_back(outputs);
    stage.about = fmt::format("mlp, {} samples, widths {}, batch {}", shape.rows,
                              nlohmann::json(widths).dump(), batch);
    stage.steps = options.at("epochs").get<Index>() * ((shape.rows + batch - 1) / batch);
    const std::string key =
        fmt::format("mlp {} batch={} blocks={}{}", nlohmann::json(widths).dump(), batch, blocks,
                    kind_of(options));
    stage.speed.seconds_per_flop = speed_of(key, [&] {
        const bool large = size.step_flops > 1e10;  // a step is long enough to be timed
        const MlpBenchOptions bench{.layers = widths,
                                    .batch = batch,
                                    .micro_batches = blocks,
                                    .steps = large ? 1 : 5,
                                    .repeats = large ? 1 : 3,
                                    .threads = options.at("threads").get<Index>()};
        const double seconds = (bytes == sizeof(float) ? bench_mlp<float>(run_.comm, bench)
                                                       : bench_mlp<double>(run_.comm, bench))
                                   .median();
        return seconds / training_step_cost(size, run_.comm.size()).flops;
    });
    const auto word = static_cast<double>(bytes);
    double width = 0.0;
    for (const Index w : widths) width += static_cast<double>(w);
    for (const int p : ranks_) {
        StageCost cost{.ranks = p, .step = training_step_cost(size, p)};
        cost.bytes = cost.step.bytes * p;
        const double share = cost.step.flops / size.step_flops;
        const auto n = static_cast<double>(size.parameters);
        const double stored = shape.sparse ? (word + sizeof(ColIndex)) * double(shape.nnz)
                                           : word * double(shape.rows) * double(shape.cols);
        // what a row's columns are to be is kept by entries, besides the rows that are read
        const double entries = (word + sizeof(ColIndex)) * double(shape.nnz);
        const double targets = classes ? 0.0 : shape.sparse ? entries : 2.0 * entries;
        cost.memory = {{"process", process_bytes_},
                       {"matrix", stored * share},
                       {"samples", stored * share},
                       {"targets", targets * share},
                       {"parameters and gradients", word * n * 2.0},
                       {"exchange and moments", word * n * (p > 1 ? 1.0 + 3.0 / p : 2.0)},
                       {"micro-batches", 2.0 * word * width * double(batch) * share}};
        stage.costs.push_back(std::move(cost));
    }
    add_seconds(stage);
    return stage;
}

}  // namespace rankfold::cli
