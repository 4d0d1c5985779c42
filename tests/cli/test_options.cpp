#include <rankfold/cli/options.hpp>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "support/mpi_test.hpp"

namespace rankfold::test {

using cli::Accept;
using cli::Options;

namespace {

/// A command with one option of every kind.
struct Sample {
    std::string matrix;
    Index factors = 64;
    double lambda = 0.1;
    bool implicit = false;
    bool shuffle = true;
    std::string solver = "cholesky";
    std::vector<Index> hidden{256, 128};
    std::vector<std::string> metrics;
    std::optional<double> alpha0;
    Options options{"als", "Factorise"};

    Sample() {
        options.positional("matrix", matrix, "Matrix file");
        options.add("factors", factors, "k", Accept::at_least(1));
        options.add("lambda", lambda, "Ridge", Accept::at_least(0));
        options.add("implicit", implicit, "Implicit");
        options.add("shuffle", shuffle, "Shuffle");
        options.add("solver", solver, "Solver", Accept::one_of({"cholesky", "cg"}));
        options.add("hidden", hidden, "Widths", Accept::at_least(1));
        options.add("metrics", metrics, "Metrics");
        options.add("unobserved-weight", alpha0, "α0", Accept::above(0));
    }
    std::string refuse(const std::vector<std::string>& arguments) {
        return expect_error(Fault::input, [&] { static_cast<void>(options.parse(arguments)); });
    }
};

}  // namespace

TEST(OptionTable, ParsesEveryKindAndKeepsDefaults) {
    Sample s;
    EXPECT_TRUE(s.options.parse({"a.h5", "--factors", "8", "--lambda=1e-3", "--implicit",
                                 "--no-shuffle", "--hidden=64,32", "--metrics", "rmse,hr@10",
                                 "--unobserved-weight", "0.3"}));
    EXPECT_EQ(s.matrix, "a.h5");
    EXPECT_EQ(s.factors, 8);
    EXPECT_EQ(s.lambda, 1e-3);
    EXPECT_TRUE(s.implicit);
    EXPECT_FALSE(s.shuffle);
    EXPECT_EQ(s.solver, "cholesky");
    EXPECT_EQ(s.hidden, (std::vector<Index>{64, 32}));
    EXPECT_EQ(s.metrics, (std::vector<std::string>{"rmse", "hr@10"}));
    EXPECT_EQ(s.alpha0, 0.3);
    EXPECT_TRUE(s.options.given("lambda"));
    EXPECT_FALSE(s.options.given("solver"));
    const auto resolved = s.options.resolved();
    EXPECT_EQ(resolved["factors"], 8);
    EXPECT_EQ(resolved["solver"], "cholesky");
    EXPECT_EQ(resolved["hidden"], nlohmann::json({64, 32}));
}

TEST(OptionTable, NamesTheNearestOptionForAnUnknownOne) {
    Sample s;
    EXPECT_NE(s.refuse({"a.h5", "--factor", "8"}).find("did you mean --factors?"),
              std::string::npos);
    EXPECT_NE(s.refuse({"a.h5", "--lamda=8"}).find("did you mean --lambda?"), std::string::npos);
    EXPECT_EQ(s.refuse({"a.h5", "--zzzzzz=8"}).find("did you mean"), std::string::npos);
}

TEST(OptionTable, RefusesValuesThatDoNotFit) {
    for (const std::vector<std::string>& bad :
         std::vector<std::vector<std::string>>{{"a.h5", "--factors", "0"},
                                               {"a.h5", "--factors", "many"},
                                               {"a.h5", "--factors", "2.5"},
                                               {"a.h5", "--lambda", "-1"},
                                               {"a.h5", "--lambda", "nan"},
                                               {"a.h5", "--solver", "magic"},
                                               {"a.h5", "--hidden", "3,0"},
                                               {"a.h5", "--unobserved-weight", "0"},
                                               {"a.h5", "b.h5"},
                                               {}}) {
        Sample s;
        EXPECT_FALSE(s.refuse(bad).empty());
    }
    Sample s;
    EXPECT_NE(s.refuse({"a.h5", "--solver", "cgg"}).find("did you mean cg?"), std::string::npos);
}

TEST(OptionTable, HelpShowsDefaultsAndAsksForNothingToRun) {
    Sample s;
    s.options.examples("rankfold als a.h5\nrankfold als b.h5");
    EXPECT_FALSE(s.options.parse({"--help"}));
    const std::string help = s.options.help();
    for (const char* part : {"--factors", "64", "256,128", "cholesky|cg", "rankfold als b.h5"}) {
        EXPECT_NE(help.find(part), std::string::npos) << part;
    }
}

}  // namespace rankfold::test
