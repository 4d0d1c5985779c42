// rankfold hybrid --form neumf.
#pragma once

#include <string>

#include <rankfold/cli/loop.hpp>
#include <rankfold/hybrid/neumf.hpp>

#include "network_settings.hpp"

namespace rankfold::cli {

struct NeuMfCommand {
    std::string matrix;
    std::string out;
    std::string init;
    std::string validation;
    std::string validation_negatives;
    std::string loss = "logistic";
    Index negatives = 4;
    std::optional<Index> factors;  // those of init unless given
    NeuMfShape shape;
    NetworkSettings settings;
    LoopOptions loop;
};

/// Trains NeuMF on the entries of a matrix and on pairs without one, and writes a network file.
template <Real R>
void run_neumf(Run& run, const NeuMfCommand& o);

}  // namespace rankfold::cli
