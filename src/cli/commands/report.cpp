// rankfold report: the reports of several runs, side by side.
#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

#include <rankfold/cli/job.hpp>
#include <rankfold/cli/run.hpp>

namespace rankfold::cli {

namespace {

using Json = nlohmann::ordered_json;

struct ReportCommand {
    std::vector<std::string> files;
};

/// One run as it stands in a report: a chain has several.
struct ToldRun {
    std::string stage;  ///< its name within a chain; else the command
    Json report;
};

/// One file, and how its column is headed.
struct ToldFile {
    std::string name;
    std::vector<ToldRun> runs;
};

ToldFile read_report(const Communicator& comm, const std::string& path) {
    const Json json = Json::parse(read_job_text(comm, path), nullptr, false);
    if (!json.is_object() || !json.contains("rankfold")) {
        throw input_error(path, " is not a run report, as --report FILE writes it");
    }
    ToldFile file{std::filesystem::path(path).stem().string(), {}};
    if (json.contains("stages") && json["stages"].is_array()) {
        for (const auto& stage : json["stages"]) {
            file.runs.push_back({stage.value("name", std::string("stage")), stage});
            if (!file.runs.back().report.contains("machine") && json.contains("machine")) {
                file.runs.back().report["machine"] = json["machine"];
            }
        }
    } else {
        file.runs.push_back({json.value("command", std::string("run")), json});
    }
    return file;
}

/// The leaves of a JSON value by their paths, "a.b"; a list is one leaf.
void collect_leaves(const Json& json, const std::string& name,
                    std::vector<std::pair<std::string, Json>>& leaves) {
    if (json.is_object()) {
        for (const auto& [key, value] : json.items()) {
            collect_leaves(value, name.empty() ? key : name + "." + key, leaves);
        }
    } else {
        leaves.emplace_back(name, json);
    }
}

std::string leaf_text(const Json& value) {
    if (value.is_null()) return "-";
    if (value.is_string()) return value.get<std::string>();
    if (value.is_number_float()) return fmt::format("{:.6g}", value.get<double>());
    return value.dump();
}

/// A table with one column a file.
class Table {
public:
    explicit Table(const std::vector<ToldFile>& files) {
        std::vector<std::string> header{""};
        for (const auto& file : files) header.push_back(file.name);
        lines_.push_back(std::move(header));
    }

    void add(const std::string& name, std::vector<std::string> values) {
        values.insert(values.begin(), name);
        lines_.push_back(std::move(values));
    }

    [[nodiscard]] bool empty() const { return lines_.size() == 1; }

    void print(const Run& run, const std::string& title) const {
        std::vector<std::size_t> widths(lines_.front().size(), 0);
        for (const auto& line : lines_) {
            for (std::size_t c = 0; c < line.size(); ++c) {
                widths[c] = std::max(widths[c], line[c].size());
            }
        }
        run.say(title);
        for (const auto& line : lines_) {
            std::string text = fmt::format("  {:<{}}", line[0], widths[0]);
            for (std::size_t c = 1; c < line.size(); ++c) {
                text += fmt::format("  {:>{}}", line[c], widths[c]);
            }
            run.say(text);
        }
    }

private:
    std::vector<std::vector<std::string>> lines_;
};

/// The runs of one stage, one a file; null where a file has none.
using Row = std::vector<const Json*>;

Row runs_of(const std::vector<ToldFile>& files, const std::string& stage) {
    Row row;
    for (const auto& file : files) {
        const auto found = std::ranges::find(file.runs, stage, &ToldRun::stage);
        row.push_back(found == file.runs.end() ? nullptr : &found->report);
    }
    return row;
}

/// The values under `section` of all runs, line by line in the order of their first appearance.
std::vector<std::pair<std::string, std::vector<Json>>> side_by_side(const Row& row,
                                                                    const std::string& section) {
    std::vector<std::pair<std::string, std::vector<Json>>> lines;
    for (std::size_t c = 0; c < row.size(); ++c) {
        if (row[c] == nullptr || !row[c]->contains(section)) continue;
        std::vector<std::pair<std::string, Json>> leaves;
        collect_leaves((*row[c])[section], "", leaves);
        for (const auto& [name, value] : leaves) {
            auto line = std::ranges::find(lines, name, &decltype(lines)::value_type::first);
            if (line == lines.end()) {
                lines.emplace_back(name, std::vector<Json>(row.size()));
                line = lines.end() - 1;
            }
            line->second[c] = value;
        }
    }
    return lines;
}

bool all_equal(const std::vector<Json>& values) {
    return std::ranges::all_of(values, [&](const Json& v) { return v == values.front(); });
}

void print_options(const Run& run, const std::vector<ToldFile>& files, const Row& row,
                   const std::string& stage) {
    Table table(files);
    for (const char* section : {"options", "machine"}) {
        for (const auto& [name, values] : side_by_side(row, section)) {
            if (all_equal(values)) continue;
            std::vector<std::string> texts;
            for (const auto& value : values) texts.push_back(leaf_text(value));
            table.add(name, std::move(texts));
        }
    }
    if (table.empty()) {
        run.say(stage + ": no option differs");
    } else {
        table.print(run, stage + ": what differs");
    }
}

Json print_results(const Run& run, const std::vector<ToldFile>& files, const Row& row,
                   const std::string& stage) {
    Table table(files);
    auto result = Json::object();
    for (const auto& [name, values] : side_by_side(row, "result")) {
        const bool numbers =
            std::ranges::all_of(values, [](const Json& v) { return v.is_number() || v.is_null(); });
        if (!numbers) continue;
        std::vector<std::string> texts;
        for (const auto& value : values) texts.push_back(leaf_text(value));
        table.add(name, std::move(texts));
        result[name] = values;
    }
    if (!table.empty()) table.print(run, stage + ": results");
    return result;
}

/// Seconds of each phase on the slowest rank, and its flop rate.
void print_phases(const Run& run, const std::vector<ToldFile>& files, const Row& row,
                  const std::string& stage) {
    std::vector<std::pair<std::string, std::vector<std::string>>> lines;
    const auto put = [&](const std::string& name, std::size_t c, std::string text) {
        auto line = std::ranges::find(lines, name, &decltype(lines)::value_type::first);
        if (line == lines.end()) {
            lines.emplace_back(name, std::vector<std::string>(row.size(), "-"));
            line = lines.end() - 1;
        }
        line->second[c] = std::move(text);
    };
    std::vector<std::string> walls(row.size(), "-");
    for (std::size_t c = 0; c < row.size(); ++c) {
        if (row[c] == nullptr || !row[c]->contains("phases")) continue;
        for (const auto& phase : (*row[c])["phases"]) {
            const double seconds = phase["seconds"].value("max", 0.0);
            const double rate =
                phase.value("gflops", Json(0.0)).is_number() ? phase.value("gflops", 0.0) : 0.0;
            put(phase.value("name", std::string("?")), c,
                rate > 0.0 ? fmt::format("{:.3f} s {:7.1f} GF/s", seconds, rate)
                           : fmt::format("{:.3f} s             ", seconds));
        }
        walls[c] = fmt::format("{:.3f} s             ", row[c]->value("wall_seconds", 0.0));
    }
    Table table(files);
    for (auto& [name, texts] : lines) table.add(name, std::move(texts));
    table.add("wall", std::move(walls));
    table.print(run, stage + ": phases");
}

/// "identical", "different", or nothing if fewer than two runs have a digest.
std::string verdict_on(const Row& row) {
    std::vector<std::string> digests;
    for (const Json* report : row) {
        const std::string digest = report == nullptr ? "" : report->value("digest", std::string());
        if (!digest.empty()) digests.push_back(digest);
    }
    if (digests.size() < 2) return {};
    const bool same = std::ranges::all_of(digests, [&](auto& d) { return d == digests.front(); });
    return same ? "identical" : "different";
}

void run_report_command(Run& run, const ReportCommand& o) {
    std::vector<ToldFile> files;
    for (const auto& path : o.files) files.push_back(read_report(run.comm, path));
    if (run.common.dry_run) return;
    std::vector<std::string> stages;
    for (const auto& file : files) {
        for (const auto& told : file.runs) {
            if (std::ranges::find(stages, told.stage) == stages.end()) stages.push_back(told.stage);
        }
    }
    for (const auto& stage : stages) {
        const Row row = runs_of(files, stage);
        print_options(run, files, row, stage);
        const Json results = print_results(run, files, row, stage);
        print_phases(run, files, row, stage);
        const std::string verdict = verdict_on(row);
        if (!verdict.empty()) run.say(fmt::format("{}: digests {}", stage, verdict));
        run.say("");
        run.result[stage] = {{"digests", verdict}, {"results", results}};
    }
}

}  // namespace

Action declare_report(Options& options) {
    auto o = std::make_shared<ReportCommand>();
    options.positional("reports", o->files, "Run reports (JSON), as --report FILE writes them");
    options.examples(
        "rankfold report one-rank.json four-ranks.json\n"
        "rankfold report before.json after.json\n"
        "rankfold report runs/*.json --report table.json");
    return [o](Run& run) { run_report_command(run, *o); };
}

}  // namespace rankfold::cli
