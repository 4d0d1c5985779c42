// Where a file comes from; stands in every file that rankfold writes.
#pragma once

#include <string>

namespace rankfold {

/// Root attributes of a written file, besides `rankfold` and `format`. The writer adds the date,
/// the number of ranks and their hosts, the program's version and its git hash.
struct Provenance {
    std::string command{};       ///< e.g. "als"
    std::string options{};       ///< as resolved, JSON
    std::string input_digest{};  ///< digest_text of the input, or empty
};

}  // namespace rankfold
