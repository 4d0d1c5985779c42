// Checkpoints: the state of a loop, so that it can stop and go on, on any number of ranks.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <rankfold/dist/factors.hpp>
#include <rankfold/dist/tensor_list.hpp>

namespace rankfold {

/// What must be the same for a run to go on from a checkpoint.
struct JobIdentity {
    std::string command;
    std::string options;  ///< those that decide the result, as the text of a JSON object
    std::vector<std::pair<std::string, std::string>> inputs;  ///< role and digest of every input
};

/// The checkpoints of one run in one folder: step-<number>.h5, the last two of them.
///
/// A checkpoint is a file of kind "checkpoint" with the whole state in global layout, a checksum a
/// tensor, the step, the history and the identity of the job. It is written beside its final name,
/// read back, and renamed, so a killed writer leaves the older ones as they were.
/// All members are collective over the communicator.
class Checkpoints {
public:
    /// @param warn  is told on rank 0 of damaged checkpoints that are passed over
    Checkpoints(const Communicator& comm, std::string folder, JobIdentity identity,
                std::function<void(const std::string&)> warn);

    /// Writes the state after `step`, then removes all but the last two checkpoints.
    /// @throws Error, agreed: Fault::check if the state is not finite; Fault::system if it cannot
    ///         be written. What stood there before stays.
    void save(const TensorList& state, Index step, const History& history) const;

    struct Restored {
        Index step;
        History history;
    };
    /// Reads the newest good checkpoint into `state`; nothing if the folder holds none at all.
    /// @throws Error (Fault::input), agreed: it is another job's (which option or input differs),
    /// or
    ///         every checkpoint is damaged
    [[nodiscard]] std::optional<Restored> restore(TensorList& state) const;

private:
    [[nodiscard]] std::vector<std::string> newest_first() const;
    void check_identity(const std::string& file, const std::string& attributes) const;

    const Communicator& comm_;
    std::string folder_;
    JobIdentity identity_;
    std::function<void(const std::string&)> warn_;
};

}  // namespace rankfold
