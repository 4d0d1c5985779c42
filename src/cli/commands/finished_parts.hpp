// What a job of several parts remembers of those that are finished, so that it can go on.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include <rankfold/cli/loop.hpp>

namespace rankfold::cli {

/// The finished parts of a job with --checkpoint: <folder>/done.json. All members are collective.
class FinishedParts {
public:
    /// Makes the folder; with --resume reads what an earlier run remembered.
    FinishedParts(const Communicator& comm, const LoopOptions& options);

    /// What was kept of this part if it was finished with the same `key`, else null.
    [[nodiscard]] nlohmann::ordered_json find(const std::string& name,
                                              const nlohmann::ordered_json& key) const;

    /// Does nothing without --checkpoint.
    void add(const std::string& name, const nlohmann::ordered_json& key,
             const nlohmann::ordered_json& report);

private:
    const Communicator& comm_;
    std::string file_;
    nlohmann::ordered_json done_ = nlohmann::ordered_json::array();
};

}  // namespace rankfold::cli
