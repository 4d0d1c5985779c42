#include <rankfold/data/checkpoint.hpp>

#include <algorithm>
#include <filesystem>
#include <sstream>

#include <nlohmann/json.hpp>

#include <rankfold/data/tensor_file.hpp>

namespace rankfold {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr std::size_t kept = 2;

std::string file_name(Index step) {
    const std::string digits = std::to_string(step);
    return "step-" + std::string(digits.size() < 8 ? 8 - digits.size() : 0, '0') + digits + ".h5";
}

json inputs_json(const JobIdentity& identity) {
    json inputs = json::object();
    for (const auto& [role, digest] : identity.inputs) inputs[role] = digest;
    return inputs;
}

}  // namespace

Checkpoints::Checkpoints(const Communicator& comm, std::string folder, JobIdentity identity,
                         std::function<void(const std::string&)> warn)
    : comm_{comm},
      folder_{std::move(folder)},
      identity_{std::move(identity)},
      warn_{std::move(warn)} {
    comm_.agree([&] {
        std::error_code failed;
        if (comm_.is_root()) fs::create_directories(folder_, failed);
        if (failed) {
            throw Error(Fault::system, concat("the checkpoint folder ", folder_,
                                              " cannot be made: ", failed.message()));
        }
    });
}

std::vector<std::string> Checkpoints::newest_first() const {
    std::string names;
    if (comm_.is_root()) {
        std::vector<std::string> found;
        std::error_code ignored;
        for (const auto& entry : fs::directory_iterator(folder_, ignored)) {
            const std::string name = entry.path().filename().string();
            if (name.starts_with("step-") && name.ends_with(".h5")) found.push_back(name);
        }
        std::ranges::sort(found, std::greater<>());
        for (const auto& name : found) names += name + "\n";
    }
    comm_.broadcast(names);
    std::vector<std::string> files;
    std::istringstream lines(names);
    for (std::string name; std::getline(lines, name);) files.push_back(folder_ + "/" + name);
    return files;
}

void Checkpoints::save(const TensorList& state, Index step, const History& history) const {
    if (!all_finite(comm_, state)) {
        throw Error(Fault::check,
                    concat("the state after step ", step,
                           " holds a number that is not finite; no checkpoint is written, and the "
                           "older ones stay"),
                    true);
    }
    const json attributes{{"step", step},
                          {"job_command", identity_.command},
                          {"job_options", identity_.options},
                          {"job_inputs", inputs_json(identity_).dump()}};
    FileNotes notes{.kind = "checkpoint",
                    .attributes = {{"", attributes.dump()}},
                    .histories = {{"", history}},
                    .ids = {}};
    write_state(comm_, folder_ + "/" + file_name(step), state, notes,
                {.command = identity_.command, .options = identity_.options, .input_digest = {}});
    const auto files = newest_first();
    if (!comm_.is_root()) return;
    std::error_code ignored;
    for (std::size_t i = kept; i < files.size(); ++i) fs::remove(files[i], ignored);
    for (const auto& entry : fs::directory_iterator(folder_, ignored)) {  // of killed writers
        if (entry.path().filename().string().find(".h5.tmp") != std::string::npos) {
            fs::remove(entry.path(), ignored);
        }
    }
}

void Checkpoints::check_identity(const std::string& file, const std::string& attributes) const {
    const json found = json::parse(attributes);
    const auto refuse = [&](const std::string& what, const json& then, const json& now) {
        throw Error(Fault::input,
                    concat("the checkpoint ", file, " is another job's: ", what, " was ",
                           then.dump(), " and is now ", now.dump(),
                           "; give the same one, or another --checkpoint folder"),
                    true);
    };
    if (found.value("job_command", "") != identity_.command) {
        refuse("the command", found.value("job_command", ""), identity_.command);
    }
    const auto compare = [&](const json& then, const json& now, const std::string& kind) {
        for (const auto& [name, value] : now.items()) {
            const json before = then.contains(name) ? then[name] : json();
            if (before != value) refuse(kind + name, before, value);
        }
    };
    compare(json::parse(found.value("job_options", "{}")), json::parse(identity_.options),
            "option ");
    compare(json::parse(found.value("job_inputs", "{}")), inputs_json(identity_), "the digest of ");
}

std::optional<Checkpoints::Restored> Checkpoints::restore(TensorList& state) const {
    const auto files = newest_first();
    for (const auto& path : files) {
        std::string attributes;
        std::string trouble;
        std::optional<StateFile> file;
        try {
            file.emplace(comm_, path);
            attributes = file->attributes();
        } catch (const Error& error) {
            trouble = error.what();
        }
        if (trouble.empty()) check_identity(path, attributes);
        try {
            if (trouble.empty()) {
                file->read(state);
                for (const Tensor& tensor : state.tensors) {
                    const auto now = digest_text(digest(comm_, TensorList{{tensor}, {}}));
                    if (file->checksum(tensor.path) != now) {
                        trouble = tensor.path + " has a wrong checksum";
                    }
                }
            }
        } catch (const Error& error) {
            trouble = error.what();
        }
        if (trouble.empty()) {
            return Restored{json::parse(attributes).at("step").get<Index>(), file->history()};
        }
        if (comm_.is_root()) warn_("the checkpoint " + path + " is damaged: " + trouble);
    }
    if (files.empty()) return std::nullopt;
    throw Error(Fault::input,
                concat("every checkpoint in ", folder_,
                       " is damaged; remove the folder to start from the beginning"),
                true);
}

}  // namespace rankfold
