#include "finished_parts.hpp"

#include <filesystem>
#include <fstream>

#include <rankfold/cli/report.hpp>

namespace rankfold::cli {

FinishedParts::FinishedParts(const Communicator& comm, const LoopOptions& options)
    : comm_{comm}, file_{options.checkpoint.empty() ? "" : options.checkpoint + "/done.json"} {
    if (file_.empty()) return;
    comm_.agree([&] {
        std::error_code failed;
        if (comm_.is_root()) std::filesystem::create_directories(options.checkpoint, failed);
        if (failed) {
            throw Error(Fault::system, concat("the folder ", options.checkpoint,
                                              " could not be made: ", failed.message()));
        }
    });
    std::string text;
    if (options.resume && comm_.is_root() && std::filesystem::exists(file_)) {
        std::ifstream in(file_);
        text.assign(std::istreambuf_iterator<char>(in), {});
    }
    comm_.broadcast(text);
    const auto found = nlohmann::ordered_json::parse(text, nullptr, false);
    if (found.is_array()) done_ = found;
}

nlohmann::ordered_json FinishedParts::find(const std::string& name,
                                           const nlohmann::ordered_json& key) const {
    for (const auto& entry : done_) {
        if (entry["name"] == name && entry["key"] == key) return entry["report"];
    }
    return nullptr;
}

void FinishedParts::add(const std::string& name, const nlohmann::ordered_json& key,
                        const nlohmann::ordered_json& report) {
    if (file_.empty()) return;
    done_.push_back({{"name", name}, {"key", key}, {"report", report}});
    write_json(comm_, file_, done_);
}

}  // namespace rankfold::cli
