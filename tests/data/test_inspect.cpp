#include <rankfold/data/inspect.hpp>

#include <fstream>

#include <nlohmann/json.hpp>

#include <rankfold/data/tensor_file.hpp>

#include "data/h5_maker.hpp"
#include "data/small_matrices.hpp"
#include "support/mpi_test.hpp"

namespace rankfold::test {

namespace {

class Inspect : public MpiTest {
protected:
    std::string file(const std::string& name) { return (scratch() / name).string(); }

    /// Changes one byte of the data of a contiguous dataset.
    void damage(const std::string& path, const std::string& dataset) {
        comm.barrier();
        if (comm.is_root()) {
            haddr_t where = 0;
            {
                const Hdf5File opened = Hdf5File::open(path);
                where = H5Dget_offset(opened.dataset(dataset).id());
            }
            std::fstream bytes(path, std::ios::in | std::ios::out | std::ios::binary);
            bytes.seekg(static_cast<std::streamoff>(where));
            const char old = static_cast<char>(bytes.get());
            bytes.seekp(static_cast<std::streamoff>(where));
            bytes.put(static_cast<char>(old ^ 1));
        }
        comm.barrier();
    }
};

}  // namespace

TEST_F(Inspect, SparseMatrixIsDescribed) {
    auto data = make_sparse<float>(comm, 7, 6);
    add_labels(data, 2);
    write_matrix(file("a.h5"), data, {},
                 {.command = "split", .options = "{}", .input_digest = "x"});
    const auto about = inspect_file(comm, file("a.h5"));
    EXPECT_EQ(about["kind"], "matrix");
    EXPECT_EQ(about["rows"], 7);
    EXPECT_EQ(about["entries"], 12);
    EXPECT_EQ(about["row_degrees"].dump(), R"({"0":1,"1":0,"2-3":6})");
    EXPECT_EQ(about["column_degrees"].dump(), R"({"0":0,"1":2,"2-3":4})");
    EXPECT_EQ(about["classes"].dump(), R"({"class 0":4,"class 1":3})");
    EXPECT_EQ(about["names"]["obs"]["count"], 7);
    EXPECT_EQ(about["provenance"]["command"], "split");
    EXPECT_EQ(about["provenance"]["digest"], digest_text(data.digest));
}

TEST_F(Inspect, FactorsAreDescribed) {
    Factors<float> factors;
    factors.rows = BlockRows<float>(comm, ShardLayout::even(6, 64, comm.size()), 2);
    factors.cols = BlockRows<float>(comm, ShardLayout::even(4, 64, comm.size()), 2);
    factors.method = "svd";
    factors.options = "{}";
    factors.history = {.columns = {"step", "objective"}, .rows = {{1, 4}, {2, 3.5}}};
    write_factors(file("f.h5"), factors, {.command = "svd"});
    const auto about = inspect_file(comm, file("f.h5"));
    EXPECT_EQ(about["kind"], "factors");
    EXPECT_EQ(about["method"], "svd");
    EXPECT_EQ(about["tensors"]["row_factors"].dump(), "[6,2]");
    EXPECT_EQ(about["last_step"]["objective"], 3.5);
}

TEST_F(Inspect, WholeFilesPassAndEveryDamagedDatasetIsNamed) {
    auto data = make_sparse<float>(comm, 40, 30);
    add_labels(data, 2);
    for (const char* dataset : {"X/data", "X/indices", "X/indptr", "obs/label"}) {
        write_matrix(file("a.h5"), data, {}, {.command = "test"});
        const auto good = verify_file(comm, file("a.h5"));
        EXPECT_TRUE(good.problems.empty()) << ::testing::PrintToString(good.problems);
        EXPECT_TRUE(good.compared);
        damage(file("a.h5"), dataset);
        const auto bad = verify_file(comm, file("a.h5"));
        EXPECT_FALSE(bad.problems.empty());
        EXPECT_NE(bad.problems.at(0).find(dataset), std::string::npos) << bad.problems.at(0);
        comm.barrier();
    }
}

TEST_F(Inspect, ForeignFilesHaveNothingToCompareWith) {
    if (comm.is_root()) H5Maker(file("a.h5")).sparse({2, 2}, {1, 2}, {0, 1}, {0, 1, 2});
    comm.barrier();
    const auto found = verify_file(comm, file("a.h5"));
    EXPECT_TRUE(found.problems.empty());
    EXPECT_FALSE(found.compared);
    EXPECT_EQ(found.checked.size(), 3U);
}

}  // namespace rankfold::test
