#include <rankfold/cli/job.hpp>

#include <algorithm>
#include <map>

#include "support/mpi_test.hpp"

namespace rankfold::test {

using cli::StageRun;

namespace {

std::vector<StageRun> plan(const std::string& text, const std::vector<std::string>& changes = {}) {
    std::string folder;
    return cli::plan_job(text, "job.toml", changes, {"--seed=1", "--threads=2"}, folder);
}

bool has(const StageRun& run, const std::string& argument) {
    return std::ranges::find(run.arguments, argument) != run.arguments.end();
}

std::string refuse(const std::string& text, const std::vector<std::string>& changes = {}) {
    return expect_error(Fault::input, [&] { static_cast<void>(plan(text, changes)); });
}

const std::string chain = R"(
folder = "out"
[[stage]]
command = "split"
matrix = "ratings.h5"
holdout = 0.2
[[stage]]
command = "als"
name = "factors"
matrix = "@split.train"
implicit = true
factors = 8
[[stage]]
command = "evaluate"
model = "@factors"
train = "@split.train"
test = "@split.test"
metrics = ["hr@10", "rmse"]
)";

}  // namespace

TEST(JobFile, ResolvesReferencesAndDefaultOutputs) {
    const auto runs = plan(chain);
    EXPECT_EQ(runs.size(), 3U);
    EXPECT_TRUE(has(runs[0], "ratings.h5"));
    EXPECT_TRUE(has(runs[0], "--prefix=out/split"));
    EXPECT_TRUE(has(runs[1], "out/split.train.h5"));
    EXPECT_TRUE(has(runs[1], "--out=out/factors.h5"));
    EXPECT_TRUE(has(runs[1], "--implicit"));
    EXPECT_TRUE(has(runs[1], "--threads=2"));
    EXPECT_TRUE(has(runs[2], "out/factors.h5"));
    EXPECT_TRUE(has(runs[2], "--test=out/split.test.h5"));
    EXPECT_TRUE(has(runs[2], "--metrics=hr@10,rmse"));
}

TEST(JobFile, AppliesChangesFromTheCommandLine) {
    const auto runs = plan(chain, {"factors.factors=16", "split.matrix=other.h5", "folder=there"});
    EXPECT_TRUE(has(runs[1], "--factors=16"));
    EXPECT_TRUE(has(runs[0], "other.h5"));
    EXPECT_TRUE(has(runs[1], "--out=there/factors.h5"));
}

TEST(JobFile, RepeatsAStageAndItsDependantsForEverySeed) {
    std::string text = chain;
    text.replace(text.find("factors = 8"), 11, "factors = 8\nseeds = [3, 4]");
    const auto runs = plan(text);
    EXPECT_EQ(runs.size(), 5U);
    EXPECT_EQ(runs[1].name, "factors[seed=3]");
    EXPECT_TRUE(has(runs[1], "--seed=3"));
    EXPECT_FALSE(has(runs[1], "--seed=1"));
    EXPECT_TRUE(has(runs[2], "--out=out/factors-seed4.h5"));
    EXPECT_TRUE(has(runs[4], "out/factors-seed4.h5"));
    EXPECT_TRUE(has(runs[4], "--test=out/split.test.h5"));
}

TEST(JobFile, RepeatsAStageForEachValueInItsPlace) {
    const auto runs = plan(R"(
folder = "out"
[[stage]]
command = "split"
matrix = "ratings.h5"
folds = 2
[[stage]]
command = "als"
matrix = "@split.fold{each}.train"
each = [1, 2]
[[stage]]
command = "evaluate"
model = "@als"
train = "@split.fold{each}.train"
test = "@split.fold{each}.test"
)");
    EXPECT_EQ(runs.size(), 5U);
    EXPECT_EQ(runs[2].name, "als[2]");
    EXPECT_EQ(runs[2].stage, "als");
    EXPECT_TRUE(has(runs[1], "out/split.fold1.train.h5"));
    EXPECT_TRUE(has(runs[2], "--out=out/als-2.h5"));
    EXPECT_TRUE(has(runs[2], "--seed=1"));
    EXPECT_TRUE(has(runs[4], "out/als-2.h5"));
    EXPECT_TRUE(has(runs[4], "--test=out/split.fold2.test.h5"));
}

TEST(JobFile, FlatSettingsAreOptionsAsTheCommandLineHasThem) {
    const auto settings = cli::flat_settings("matrix = \"a.h5\"\nlambda = [0.1, 1]\n", "t.toml");
    const std::map<std::string, std::string> found(settings.begin(), settings.end());
    EXPECT_EQ(found.at("matrix"), "a.h5");
    EXPECT_EQ(found.at("lambda"), "0.1,1");
    EXPECT_NE(expect_error(Fault::input,
                           [] { static_cast<void>(cli::flat_settings("[[stage]]\n", "t.toml")); })
                  .find("rankfold run"),
              std::string::npos);
}

TEST(JobFile, RefusesWhatItDoesNotKnowAndNamesTheNearest) {
    EXPECT_NE(refuse("[[stage]]\ncommand = \"alz\"").find("did you mean als?"), std::string::npos);
    EXPECT_NE(refuse("[[stage]]\ncommand = \"als\"\nmatrix = \"a\"\nfactor = 3")
                  .find("did you mean factors?"),
              std::string::npos);
    EXPECT_NE(refuse("[[stages]]\ncommand = \"als\"").find("did you mean stage?"),
              std::string::npos);
    EXPECT_NE(refuse("x = ").find("line 1"), std::string::npos);
    EXPECT_NE(refuse(chain, {"factor.k=3"}).find("did you mean factors?"), std::string::npos);
    std::string text = chain;
    text.replace(text.find("@factors"), 8, "@factorz");
    EXPECT_NE(refuse(text).find("did you mean factors?"), std::string::npos);
    EXPECT_NE(refuse(chain + "[[stage]]\ncommand = \"als\"\nname = \"split\"\nmatrix = \"a\"")
                  .find("two stages"),
              std::string::npos);
    EXPECT_FALSE(refuse("[[stage]]\ncommand = \"als\"\nmatrix = \"a\"\nlambda = -1").empty());
}

}  // namespace rankfold::test
