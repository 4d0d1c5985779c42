// What the outside may do to a loop between two of its steps.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <rankfold/dist/tensor_list.hpp>

namespace rankfold {

/// What a loop has done: shown as progress and kept as history.
struct Progress {
    std::string unit;                                    ///< "sweep", "epoch"
    Index step = 0;                                      ///< steps done
    Index steps = 0;                                     ///< steps asked for
    std::vector<std::pair<std::string, double>> values;  ///< e.g. {"objective", 12.5}
};

enum class Verdict { go_on, stop };

/// Hung into every loop, so that factor and nn know no files, metrics, signals or clocks:
/// progress, validation, early stop, checkpoints and time limits are functions of this kind.
///
/// Both functions are collective: every rank calls them alike and gets the same answer.
struct Steering {
    /// Called once before the first step: may overwrite `state` with that of an earlier run, and
    /// returns the number of steps which that run had done.
    std::function<Index(TensorList& state)> restore = [](TensorList&) { return Index{0}; };

    /// Called after each step with the state as it is then.
    std::function<Verdict(const Progress&, const TensorList& state)> after =
        [](const Progress&, const TensorList&) { return Verdict::go_on; };
};

}  // namespace rankfold
