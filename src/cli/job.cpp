#include <rankfold/cli/job.hpp>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include <fmt/format.h>

#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

#include <rankfold/cli/program.hpp>

namespace rankfold::cli {

namespace {

const std::set<std::string> stage_keys{"command", "name", "seeds", "each"};

/// The option by which a command is told where to write, if it always writes.
std::string output_option(const std::string& command) {
    if (command == "split") return "prefix";
    const bool writes = command == "import" || command == "generate" || command == "als" ||
                        command == "mlp" || command == "deepmf" || command == "compress" ||
                        command == "hybrid" || command == "fold-in" || command == "svd" ||
                        command == "nmf" || command == "tune";
    return writes ? "out" : "";
}

/// The text of a TOML value as the command line would have it.
std::string value_text(const toml::node& value, const std::string& where) {
    if (const auto* text = value.as_string()) return text->get();
    if (const auto* integer = value.as_integer()) return std::to_string(integer->get());
    if (const auto* number = value.as_floating_point()) return fmt::format("{}", number->get());
    if (const auto* flag = value.as_boolean()) return flag->get() ? "true" : "false";
    throw input_error(where, ": the value must be text, a number, true, false, or a list of these");
}

/// How often a stage runs: once, or for every value of a list.
struct Repeats {
    bool seeds = false;               // the values are seeds; else they stand for {each}
    std::vector<std::string> values;  // empty: once, with the common seed

    friend bool operator==(const Repeats&, const Repeats&) = default;
};

/// One of a stage's runs.
struct Turn {
    bool seed;
    std::string value;
};

struct Stage {
    std::string name;
    std::string command;
    Repeats repeats;
    std::string output;  // the value of the output option
    std::vector<std::pair<std::string, std::vector<std::string>>> values;  // key, one or more
    std::set<std::string> lists;                                           // keys given as lists
};

const std::string each_mark = "{each}";

/// `text` with the turn's value for {each}.
std::string filled_in(const std::string& text, const std::optional<Turn>& turn) {
    if (!turn || turn->seed) return text;
    std::string filled;
    std::size_t begin = 0;
    for (auto at = text.find(each_mark); at != std::string::npos;
         at = text.find(each_mark, begin)) {
        filled.append(text, begin, at - begin).append(turn->value);
        begin = at + each_mark.size();
    }
    return filled.append(text, begin, std::string::npos);
}

/// "out/als.h5" → "out/als-seed3.h5", or "out/als-3.h5" unless {each} stands in it.
std::string output_of(const std::string& path, const std::optional<Turn>& turn) {
    if (!turn) return path;
    if (const std::string filled = filled_in(path, turn); filled != path) return filled;
    const std::string mark = fmt::format("-{}{}", turn->seed ? "seed" : "", turn->value);
    const bool file = path.ends_with(".h5");
    return file ? path.substr(0, path.size() - 3) + mark + ".h5" : path + mark;
}

/// What `seeds` or `each` of a stage says.
void read_repeats(const std::string& key, const toml::node& value, const std::string& where,
                  Repeats& repeats) {
    const auto* list = value.as_array();
    const bool seeds = key == "seeds";
    if (list == nullptr || list->empty() || (seeds && !list->is_homogeneous<int64_t>())) {
        throw input_error(where, ": ", key, " must be a list", seeds ? " of integers" : "");
    }
    if (!repeats.values.empty()) {
        throw input_error(where, ": give seeds or each, not both");
    }
    repeats.seeds = seeds;
    for (const auto& item : *list) repeats.values.push_back(value_text(item, where + "." + key));
}

Stage read_stage(const toml::table& table, const std::string& file, const std::string& folder,
                 const std::vector<Stage>& earlier) {
    Stage stage;
    const auto* command = table.get("command");
    if (command == nullptr || !command->is_string()) {
        throw input_error(file, ", line ", table.source().begin.line,
                          ": a [[stage]] needs command = \"…\"");
    }
    stage.command = command->as_string()->get();
    stage.name = table["name"].value_or(stage.command);
    const std::string where = file + ", stage " + stage.name;
    try {
        if (stage.command == "run") throw input_error("a job cannot run a job");
        static_cast<void>(command_named(stage.command));
    } catch (const Error& error) {
        throw input_error(where, ": ", error.what());
    }
    for (const auto& other : earlier) {
        if (other.name == stage.name) {
            throw input_error(where, ": two stages have this name; give one a name = \"…\"");
        }
    }
    for (const auto& [key, value] : table) {
        const std::string name(key.str());
        if (name == "seeds" || name == "each") read_repeats(name, value, where, stage.repeats);
        if (stage_keys.contains(name)) continue;
        std::vector<std::string> texts;
        if (const auto* list = value.as_array()) {
            for (const auto& item : *list) texts.push_back(value_text(item, where + "." + name));
            stage.lists.insert(name);
        } else {
            texts.push_back(value_text(value, where + "." + name));
        }
        stage.values.emplace_back(name, std::move(texts));
    }
    const std::string output = output_option(stage.command);
    const auto given = std::ranges::find(stage.values, output,
                                         &std::pair<std::string, std::vector<std::string>>::first);
    if (given != stage.values.end()) {
        stage.output = given->second.front();
    } else if (!output.empty()) {
        stage.output = folder + "/" + stage.name + (output == "out" ? ".h5" : "");
        stage.values.push_back({output, {stage.output}});
    } else {
        const auto out = std::ranges::find(
            stage.values, "out", &std::pair<std::string, std::vector<std::string>>::first);
        if (out != stage.values.end()) stage.output = out->second.front();
    }
    return stage;
}

/// The stage that a reference "@name" or "@name.part" means; part is what follows the dot.
const Stage& referenced(const std::string& reference, const std::vector<Stage>& stages,
                        const std::string& where, std::string& part) {
    std::string name = reference.substr(1);
    std::vector<std::string> names;
    for (const auto& stage : stages) {
        names.push_back(stage.name);
        if (stage.name == name || name.starts_with(stage.name + ".")) {
            part = name == stage.name ? "" : name.substr(stage.name.size() + 1);
            if (stage.output.empty()) {
                throw input_error(where, ": stage ", stage.name, " writes no file to refer to");
            }
            return stage;
        }
    }
    throw input_error(where, ": no earlier stage is called ", name, did_you_mean(name, names));
}

/// A value with a reference replaced by the file that it means.
std::string resolve(const std::string& value, const std::vector<Stage>& stages,
                    const std::string& where, const std::optional<Turn>& turn) {
    if (!value.starts_with("@")) return value;
    std::string part;
    const Stage& stage = referenced(value, stages, where, part);
    const std::string output =
        output_of(stage.output, stage.repeats.values.empty() ? std::nullopt : turn);
    if (stage.command == "split") {
        if (part.empty()) {
            throw input_error(where, ": ", value, " has several parts; say ", value, ".train or ",
                              value, ".test");
        }
        return output + "." + part + ".h5";
    }
    if (!part.empty()) throw input_error(where, ": ", value, ": that stage writes one file only");
    return output;
}

std::vector<std::string> arguments_of(const Stage& stage, const std::vector<Stage>& earlier,
                                      const std::string& where, const std::optional<Turn>& turn,
                                      const std::vector<std::string>& common) {
    const bool seed = turn && turn->seed;
    Options options(stage.command, "");
    const Action owner = command_named(stage.command).declare(options);  // of the bound variables
    CommonOptions common_options;
    common_options.declare(options);
    const std::vector<std::string> known = options.names();

    std::vector<std::string> arguments;
    for (const auto& argument : common) {
        const std::string name = argument.substr(2, argument.find('=') - 2);
        const bool own =
            std::ranges::find(stage.values, name,
                              &std::pair<std::string, std::vector<std::string>>::first) !=
            stage.values.end();
        const bool fits = std::ranges::find(known, name) != known.end();
        if (own || !fits || (seed && name == "seed")) continue;
        std::string text = argument;
        if (const auto mark = text.find("@stage"); mark != std::string::npos) {
            text.replace(mark, 6, output_of(stage.name, turn));
        }
        arguments.push_back(std::move(text));
    }
    if (seed) arguments.push_back("--seed=" + turn->value);
    const std::string output = output_option(stage.command);
    for (const auto& [key, texts] : stage.values) {
        if (std::ranges::find(known, key) == known.end()) {
            throw input_error(where, ": there is no option ", key, did_you_mean(key, known));
        }
        std::vector<std::string> resolved;
        for (const auto& text : texts) {
            resolved.push_back(resolve(filled_in(text, turn), earlier, where, turn));
        }
        if (turn && (key == output || key == "out")) {
            resolved.front() = output_of(texts.front(), turn);
        }
        if (options.is_positional(key)) {
            arguments.insert(arguments.end(), resolved.begin(), resolved.end());
        } else if (options.is_flag(key)) {
            if (resolved.front() != "true" && resolved.front() != "false") {
                throw input_error(where, ": ", key, " must be true or false");
            }
            arguments.push_back((resolved.front() == "true" ? "--" : "--no-") + key);
        } else {
            std::string joined;
            for (const auto& text : resolved) joined += (joined.empty() ? "" : ",") + text;
            arguments.push_back("--" + key + "=" + joined);
        }
    }
    if (!options.parse(arguments)) throw input_error(where, ": help is not an option of a stage");
    return arguments;
}

/// Applies "stage.option=value".
void apply_change(const std::string& change, toml::array& stages) {
    const auto equals = change.find('=');
    const auto dot = change.find('.');
    if (equals == std::string::npos || dot == std::string::npos || dot > equals) {
        throw input_error("--set ", change, ": the form is stage.option=value");
    }
    const std::string name = change.substr(0, dot);
    const std::string key = change.substr(dot + 1, equals - dot - 1);
    const std::string text = change.substr(equals + 1);
    std::vector<std::string> names;
    for (auto& node : stages) {
        auto& table = *node.as_table();
        names.push_back(table["name"].value_or(table["command"].value_or(std::string())));
        if (names.back() != name) continue;
        try {
            table.insert_or_assign(key, std::move(*toml::parse("v = " + text).get("v")));
        } catch (const toml::parse_error&) {
            table.insert_or_assign(key, text);
        }
        return;
    }
    throw input_error("--set ", change, ": there is no stage ", name, did_you_mean(name, names));
}

}  // namespace

std::vector<std::pair<std::string, std::string>> flat_settings(const std::string& text,
                                                               const std::string& file) {
    toml::table table;
    try {
        table = toml::parse(text, file);
    } catch (const toml::parse_error& error) {
        throw input_error(file, ", line ", error.source().begin.line, ": ", error.description());
    }
    if (table.contains("stage")) {
        throw input_error(file, " has [[stage]] tables: it is a job for rankfold run");
    }
    std::vector<std::pair<std::string, std::string>> settings;
    for (const auto& [key, value] : table) {
        const std::string name(key.str());
        std::string joined;
        if (const auto* list = value.as_array()) {
            for (const auto& item : *list) {
                if (!joined.empty()) joined += ',';
                joined += value_text(item, file + ", " + name);
            }
        } else {
            joined = value_text(value, file + ", " + name);
        }
        settings.emplace_back(name, std::move(joined));
    }
    return settings;
}

std::string read_job_text(const Communicator& comm, const std::string& file) {
    std::string text;
    comm.agree([&] {
        if (!comm.is_root()) return;
        std::ifstream in(file);
        std::ostringstream all;
        all << in.rdbuf();
        if (!in) throw input_error("the file ", file, " cannot be read; does it exist?");
        text = all.str();
    });
    comm.broadcast(text);
    return text;
}

std::vector<StageRun> plan_job(const std::string& text, const std::string& file,
                               const std::vector<std::string>& changes,
                               const std::vector<std::string>& common, std::string& folder) {
    toml::table job;
    try {
        job = toml::parse(text, file);
    } catch (const toml::parse_error& error) {
        throw input_error(file, ", line ", error.source().begin.line, ": ", error.description());
    }
    for (const auto& [key, value] : job) {
        const std::string name(key.str());
        if (name != "stage" && name != "folder") {
            throw input_error(file, ": unknown key ", name,
                              did_you_mean(name, {"stage", "folder"}));
        }
    }
    auto* list = job["stage"].as_array();
    if (list == nullptr || !list->is_homogeneous<toml::table>()) {
        throw input_error(file, " has no [[stage]]; see rankfold run --example quickstart");
    }
    folder = job["folder"].value_or(std::string("."));
    for (const auto& change : changes) {
        if (change.starts_with("folder=")) {
            folder = change.substr(7);
        } else {
            apply_change(change, *list);
        }
    }
    std::vector<Stage> stages;
    std::vector<StageRun> runs;
    for (const auto& node : *list) {
        Stage stage = read_stage(*node.as_table(), file, folder, stages);
        const std::string where = file + ", stage " + stage.name;
        for (const auto& [key, texts] : stage.values) {  // seeds are inherited through references
            for (const auto& value : texts) {
                if (!value.starts_with("@")) continue;
                std::string part;
                const Stage& source = referenced(value, stages, where, part);
                if (!stage.repeats.values.empty() && !source.repeats.values.empty() &&
                    stage.repeats != source.repeats) {
                    throw input_error(where, ": its seeds (or each) differ from those of stage ",
                                      source.name, ", on which it depends");
                }
                if (stage.repeats.values.empty()) stage.repeats = source.repeats;
            }
        }
        const auto add = [&](const std::optional<Turn>& turn) {
            const std::string mark =
                turn ? fmt::format("[{}{}]", turn->seed ? "seed=" : "", turn->value) : "";
            try {
                runs.push_back({.name = stage.name + mark,
                                .stage = stage.name,
                                .command = stage.command,
                                .arguments = arguments_of(stage, stages, where, turn, common)});
            } catch (const Error& error) {
                const std::string message = error.what();
                throw input_error(message.starts_with(where) ? "" : where + ": ", message);
            }
        };
        if (stage.repeats.values.empty()) add(std::nullopt);
        for (const auto& value : stage.repeats.values) add(Turn{stage.repeats.seeds, value});
        stages.push_back(std::move(stage));
    }
    return runs;
}

}  // namespace rankfold::cli
