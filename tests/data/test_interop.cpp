#include <cstdlib>
#include <filesystem>

#include <rankfold/data/matrix_file.hpp>
#include <rankfold/data/tensor_file.hpp>

#include "data/small_matrices.hpp"
#include "support/mpi_test.hpp"

namespace rankfold::test {

namespace {

/// Files that go to and come from h5py, scipy and anndata. Without python3-h5py and python3-scipy
/// these tests fail.
class Interop : public MpiTest {
protected:
    std::string file(const std::string& name) { return (scratch() / name).string(); }

    void run_python(const std::string& task) {
        scratch();
        comm.barrier();
        if (comm.is_root()) {
            const std::string line = concat(RANKFOLD_PYTHON, " -B '", RANKFOLD_INTEROP, "' ", task,
                                            " '", scratch().string(), "'");
            EXPECT_EQ(std::system(line.c_str()), 0) << line;
        }
        comm.barrier();
    }
};

}  // namespace

TEST_F(Interop, H5pyAndScipyReadWhatIsWritten) {
    auto sparse = make_sparse<float>(comm, 23, 9);
    add_labels(sparse, 2);
    MatrixExtras extras;
    extras.row_names.emplace();
    extras.col_names.emplace();
    for (int i = 0; i < 23; ++i) {
        extras.row_names->text.push_back(i == 0 ? "zürich" : concat("name ", i));
    }
    for (int j = 0; j < 9; ++j) extras.col_names->numbers.push_back(100 + j);
    write_matrix(file("sparse.h5"), sparse, extras, {.command = "test", .options = "{}"});
    auto dense = make_dense<float>(comm, 20, 30, true);
    write_matrix(file("dense.h5"), dense, {}, {.command = "test", .options = "{}"}, true);
    Factors<float> factors;
    factors.rows = BlockRows<float>(comm, ShardLayout::even(5, 64, comm.size()), 2);
    factors.cols = BlockRows<float>(comm, ShardLayout::even(4, 64, comm.size()), 2);
    factors.method = "als-explicit";
    factors.global_mean = 3.5;
    factors.history = {.columns = {"step", "objective"}, .rows = {{1, 2}}};
    write_factors(file("factors.h5"), factors, {.command = "test", .options = "{}"});
    run_python("check");
}

TEST_F(Interop, WhatH5pyScipyAndAnndataWriteIsRead) {
    run_python("write");
    const auto expected = whole(make_sparse<double>(comm, 23, 9));
    for (const std::string name : {"i4", "i8", "csc", "dense", "u4", "anndata"}) {
        const std::string path = file("py_" + name + ".h5");
        const bool absent = name == "anndata" && !std::filesystem::exists(path);
        if (absent) continue;  // not a dependency: python3-anndata is tested where it is
        const auto found = whole(read_matrix<double>(comm, path));
        const double scale = name == "u4" ? 4.0 : 1.0;
        EXPECT_TRUE(std::ranges::equal(found.data(), expected.data(), [&](double a, double b) {
            return a == scale * b;
        })) << name;
    }
    const auto named = read_matrix<float>(comm, file("py_csc.h5"));
    EXPECT_EQ(find_name(comm, named.ids, "obs", "row 22"), 22);
    EXPECT_EQ(find_name(comm, named.ids, "var", "säule 3"), 3);
    auto copy = read_matrix<float>(comm, file("py_csc.h5"));
    write_matrix(file("copy.h5"), copy, {}, {.command = "test", .options = "{}"});
    EXPECT_EQ(find_name(comm, copy.ids, "var", "säule 3"), 3);
}

}  // namespace rankfold::test
