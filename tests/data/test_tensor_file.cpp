#include <rankfold/data/tensor_file.hpp>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>

#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include <rankfold/data/hdf5_file.hpp>
#include <rankfold/data/verified_write.hpp>

#include "data/small_matrices.hpp"
#include "support/mpi_test.hpp"

namespace rankfold::test {

namespace {

namespace fs = std::filesystem;

class TensorFile : public MpiTest {
protected:
    std::string file(const std::string& name) { return (scratch() / name).string(); }

    Factors<float> make_factors(Index rows, Index cols, Index k) {
        Factors<float> factors;
        factors.rows = filled(rows, k, 1);
        factors.cols = filled(cols, k, 2);
        factors.row_bias = filled(rows, 1, 3);
        factors.col_bias = filled(cols, 1, 4);
        factors.global_mean = 3.5;
        factors.method = "als-explicit";
        factors.options = R"({"lambda":0.1})";
        factors.history = {.columns = {"step", "objective"}, .rows = {{1, 9.5}, {2, 7.25}}};
        return factors;
    }

    BlockRows<float> filled(Index rows, Index cols, Index salt) {
        BlockRows<float> matrix(comm, ShardLayout::even(rows, 64, comm.size()), cols);
        for (Index i = 0; i < matrix.local().rows(); ++i) {
            for (Index j = 0; j < cols; ++j) {
                matrix.local()(i, j) =
                    static_cast<float>(((matrix.first_row() + i) * 31 + j * 7 + salt) % 101) / 8;
            }
        }
        return matrix;
    }

    /// Names below `folder`, on all ranks.
    static std::vector<std::string> listing(const fs::path& folder) {
        std::vector<std::string> names;
        for (const auto& entry : fs::directory_iterator(folder)) {
            names.push_back(entry.path().filename().string());
        }
        std::ranges::sort(names);
        return names;
    }

    /// A state of 8 MiB, more than the test leaves room for.
    void expect_write_failure(const std::string& path) {
        BlockRows<double> big(comm, ShardLayout::even(1024, 64, comm.size()), 1024);
        big.local().fill(1.5);
        TensorList state;
        state.add("big", big);
        const auto message = expect_error(Fault::system, [&] {
            write_state(comm, path, state, {.kind = "checkpoint"}, {.command = "test"});
        });
        EXPECT_NE(message.find(path), std::string::npos) << message;
        EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    }
};

/// Takes away this process's right to write long files until it dies.
class FileSizeLimit {
public:
    explicit FileSizeLimit(rlim_t bytes) {
        getrlimit(RLIMIT_FSIZE, &before_);
        const rlimit lowered{bytes, before_.rlim_max};
        setrlimit(RLIMIT_FSIZE, &lowered);
    }
    ~FileSizeLimit() { setrlimit(RLIMIT_FSIZE, &before_); }
    FileSizeLimit(const FileSizeLimit&) = delete;
    FileSizeLimit& operator=(const FileSizeLimit&) = delete;

private:
    rlimit before_{};
};

}  // namespace

TEST_F(TensorFile, FactorsAreReadAsTheyWereWritten) {
    auto factors = make_factors(19, 11, 4);
    factors.singular_values = {4, 3, 2, 1};
    write_factors(file("f.h5"), factors, {.command = "als", .options = R"({"factors":4})"});
    auto back = read_factors<float>(comm, file("f.h5"));
    EXPECT_EQ(digest(comm, back.tensors()), digest(comm, factors.tensors()));
    EXPECT_EQ(back.singular_values, factors.singular_values);
    EXPECT_EQ(back.method, "als-explicit");
    EXPECT_EQ(back.options, factors.options);
    EXPECT_EQ(back.global_mean, 3.5);
    EXPECT_EQ(back.history.columns, factors.history.columns);
    EXPECT_EQ(back.history.rows, factors.history.rows);
    EXPECT_TRUE(back.ids.file.empty());
    EXPECT_EQ(file_kind(comm, file("f.h5")), "factors");
    const auto about = nlohmann::json::parse(StateFile(comm, file("f.h5")).attributes());
    EXPECT_EQ(about["digest"], digest_text(digest(comm, factors.tensors())));
    EXPECT_EQ(about["command_options"], R"({"factors":4})");
    auto doubled = read_factors<double>(comm, file("f.h5"));
    EXPECT_EQ(gather_all(doubled.rows)(7, 2), gather_all(factors.rows)(7, 2));
}

TEST_F(TensorFile, FactorsTakeTheNamesOfTheirMatrixAlong) {
    auto matrix = make_sparse<float>(comm, 3, 2);
    MatrixExtras extras;
    extras.row_names = Names{.text = {"a", "b", "c"}, .numbers = {}};
    write_matrix(file("m.h5"), matrix, extras, {.command = "test"});
    auto factors = make_factors(3, 2, 2);
    factors.ids = matrix.ids;
    write_factors(file("f.h5"), factors, {.command = "als"});
    fs::remove(file("m.h5"));
    const auto back = read_factors<float>(comm, file("f.h5"));
    EXPECT_EQ(find_name(comm, back.ids, "obs", "b"), 1);
    EXPECT_EQ(find_name(comm, back.ids, "var", "1"), 1);
}

TEST_F(TensorFile, NetworkFileHoldsFactorsInAGroup) {
    auto factors = make_factors(9, 5, 3);
    std::vector<double> weight(6);
    std::iota(weight.begin(), weight.end(), 0.5);
    TensorList state = factors.tensors("factors/");
    state.add_replicated("layers/hidden/weight", {2, 3}, std::span<double>(weight));
    state.scalars["step"] = 12.0;
    FileNotes notes{.kind = "network", .attributes = {}, .histories = {}, .ids = {}};
    notes.attributes[""] =
        R"({"head":"classes","width":3,"rate":0.5,"bias":true,"graph":{"layers":[1,"x"]}})";
    note_factors(notes, "factors", factors);
    write_state(comm, file("n.h5"), state, notes, {.command = "deepmf", .options = "{}"});

    const StateFile back(comm, file("n.h5"));
    EXPECT_EQ(back.kind(), "network");
    const auto about = nlohmann::json::parse(back.attributes());
    EXPECT_EQ(about["head"], "classes");
    EXPECT_EQ(about["width"], 3);
    EXPECT_EQ(about["rate"], 0.5);
    EXPECT_EQ(about["bias"], true);
    EXPECT_EQ(about["graph"], R"({"layers":[1,"x"]})");
    EXPECT_EQ(back.tensors(), (std::vector<std::string>{"factors/col_bias", "factors/col_factors",
                                                        "factors/row_bias", "factors/row_factors",
                                                        "layers/hidden/weight"}));
    EXPECT_EQ(back.shape("layers/hidden/weight"), (std::vector<Index>{2, 3}));
    EXPECT_EQ(back.attributes("nothing"), "{}");
    EXPECT_EQ(back.history("factors").rows, factors.history.rows);
    std::vector<double> again(6, 0.0);
    TensorList read;
    read.add_replicated("layers/hidden/weight", {2, 3}, std::span<double>(again));
    read.scalars["step"] = 0.0;
    back.read(read);
    EXPECT_EQ(again, weight);
    EXPECT_EQ(read.scalars["step"], 12.0);
    auto inside = read_factors<float>(comm, file("n.h5"));
    EXPECT_EQ(digest(comm, inside.tensors()), digest(comm, factors.tensors()));
}

TEST_F(TensorFile, SlicesOfAnySizeGiveTheSameTensors) {
    auto factors = make_factors(40, 12, 5);
    for (const Index bytes : {4, 24, 1000}) {
        set_slice_limit(bytes);
        write_factors(file("f.h5"), factors, {.command = "als"});
        auto back = read_factors<float>(comm, file("f.h5"));
        EXPECT_EQ(digest(comm, back.tensors()), digest(comm, factors.tensors()));
    }
    set_slice_limit(Index{1} << 30);
}

TEST_F(TensorFile, MissingFolderIsAnAgreedErrorAndLeavesNothing) {
    auto factors = make_factors(4, 4, 2);
    const auto message = expect_error(
        Fault::system, [&] { write_factors(file("none/f.h5"), factors, {.command = "als"}); });
    EXPECT_NE(message.find("none"), std::string::npos) << message;
    EXPECT_TRUE(listing(scratch()).empty());
}

TEST_F(TensorFile, UnreadableSourceOfNamesLeavesNothingUnderTheName) {
    auto factors = make_factors(4, 4, 2);
    factors.ids = {file("gone.h5"), "/"};
    expect_error(Fault::input, [&] { write_factors(file("f.h5"), factors, {.command = "als"}); });
    comm.barrier();
    EXPECT_TRUE(listing(scratch()).empty());
}

TEST_F(TensorFile, FileSizeLimitOnAnyRankIsAnErrorAndTheOldFileStays) {
    auto factors = make_factors(4, 4, 2);
    write_factors(file("f.h5"), factors, {.command = "als"});
    const auto before = digest(comm, read_factors<float>(comm, file("f.h5")).tensors());
    comm.barrier();
    for (const bool foreseen : {true, false}) {
        set_space_check(foreseen);
        // the last rank alone, so that the others do not notice it by themselves; then all
        for (const int first : {comm.size() - 1, 0}) {
            const FileSizeLimit limit(comm.rank() >= first ? rlim_t{1} << 20 : RLIM_INFINITY);
            expect_write_failure(file("f.h5"));
            comm.barrier();
        }
    }
    set_space_check(true);
    EXPECT_EQ(listing(scratch()), std::vector<std::string>{"f.h5"});
    EXPECT_EQ(digest(comm, read_factors<float>(comm, file("f.h5")).tensors()), before);
}

TEST_F(TensorFile, FullDiskIsAnErrorAndLeavesNothing) {
    // needs the right to mount: without it the file-size limit above stands for a full disk
    int mounted = 0;
    const fs::path disk = scratch() / "disk";
    if (comm.is_root()) {
        fs::create_directory(disk);
        mounted = mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=7500k") == 0 ? 1 : 0;
        if (mounted == 0) {
            std::printf("cannot mount a tmpfs (%s): only the file-size limit is tested here\n",
                        std::strerror(errno));
        }
    }
    comm.broadcast(std::span<int>(&mounted, 1));
    if (mounted == 0) return;
    expect_write_failure((disk / "f.h5").string());  // told before anything is written
    EXPECT_TRUE(listing(disk).empty());
    set_space_check(false);
    expect_write_failure((disk / "f.h5").string());  // told by the writes
    set_space_check(true);
    comm.barrier();
    EXPECT_TRUE(listing(disk).empty());
    comm.barrier();
    if (comm.is_root()) {
        EXPECT_EQ(umount(disk.c_str()), 0);
    }
}

}  // namespace rankfold::test
