// What is in a file, and whether it is whole.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include <rankfold/comm/communicator.hpp>

namespace rankfold {

/// What a rankfold (or AnnData) file holds, as a JSON object: kind, shape, counts, ranges, degree
/// histograms, names, classes; method and history of factors; layers of a network; provenance.
///
/// A degree histogram counts rows (columns) with 0, 1, 2–3, 4–7, … entries.
/// @collective over comm
/// @throws Error (Fault::input), agreed
[[nodiscard]] nlohmann::ordered_json inspect_file(const Communicator& comm,
                                                  const std::string& path);

/// What verify_file did and found.
struct Verification {
    std::vector<std::string> checked;   ///< datasets that were read whole
    std::vector<std::string> problems;  ///< one line each; empty: the file is whole
    bool compared = false;              ///< false: the file has no checksums to compare with
};

/// Reads every numeric dataset, looks for numbers that are not finite, and computes checksums and
/// digest again.
/// @collective over comm
/// @throws Error (Fault::input), agreed: the file cannot even be opened
[[nodiscard]] Verification verify_file(const Communicator& comm, const std::string& path);

}  // namespace rankfold
