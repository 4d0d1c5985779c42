#include <rankfold/data/matrix_file.hpp>
#include <rankfold/data/tensor_file.hpp>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "data/h5_maker.hpp"
#include "data/small_matrices.hpp"
#include "support/mpi_test.hpp"

namespace rankfold::test {

namespace {

using Make = std::function<void(H5Maker&)>;

/// Files that are refused, each with an agreed error that says what is wrong and where.
class BadFile : public MpiTest {
protected:
    std::string file(const std::string& name = "bad.h5") { return (scratch() / name).string(); }

    /// Rank 0 makes the file; reading it must fail on all ranks with all of these words.
    void expect_refused(const Make& make, const std::vector<std::string>& words) {
        const std::string path = file();
        if (comm.is_root()) {
            H5Maker maker(path);
            make(maker);
        }
        comm.barrier();
        expect_words(expect_error(Fault::input, [&] { return read_matrix<float>(comm, path); }),
                     words);
        comm.barrier();
    }

    static void expect_words(const std::string& message, const std::vector<std::string>& words) {
        for (const auto& word : words) {
            EXPECT_NE(message.find(word), std::string::npos) << "`" << word << "` in: " << message;
        }
        EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    }

    void write_text(const std::string& path, const std::string& text) {
        if (comm.is_root()) std::ofstream(path, std::ios::binary) << text;
        comm.barrier();
    }
};

/// A dataset whose data stand in another file.
void external_dataset(H5Maker& maker, const std::string& source) {
    const H5Id plan(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, "H5Pcreate");
    check_hdf5(H5Pset_external(plan.get(), source.c_str(), 0, 16), "H5Pset_external");
    const hsize_t extent[] = {2, 2};
    const H5Id space(H5Screate_simple(2, extent, nullptr), H5Sclose, "H5Screate_simple");
    const H5Id set(H5Dcreate2(maker.id(), "X", H5T_IEEE_F32LE, space.get(), H5P_DEFAULT, plan.get(),
                              H5P_DEFAULT),
                   H5Dclose, "H5Dcreate2");
}

void virtual_dataset(H5Maker& maker, const std::string& source) {
    const H5Id plan(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, "H5Pcreate");
    const hsize_t extent[] = {2, 2};
    const H5Id space(H5Screate_simple(2, extent, nullptr), H5Sclose, "H5Screate_simple");
    check_hdf5(H5Pset_virtual(plan.get(), space.get(), source.c_str(), "X", space.get()),
               "H5Pset_virtual");
    const H5Id set(H5Dcreate2(maker.id(), "X", H5T_IEEE_F32LE, space.get(), H5P_DEFAULT, plan.get(),
                              H5P_DEFAULT),
                   H5Dclose, "H5Dcreate2");
}

}  // namespace

TEST_F(BadFile, MissingFolderAndUnreadableFilesAreNamed) {
    const auto read = [&](const std::string& path) {
        return expect_error(Fault::input, [&] { return read_matrix<float>(comm, path); });
    };
    expect_words(read(file("none.h5")), {file("none.h5"), "No such file"});
    expect_words(read(scratch().string()), {scratch().string(), "folder"});
    if (::geteuid() == 0) return;  // root may read everything
    write_text(file("secret.h5"), "x");
    if (comm.is_root())
        std::filesystem::permissions(file("secret.h5"), std::filesystem::perms::none);
    comm.barrier();
    expect_words(read(file("secret.h5")), {"permission"});
}

TEST_F(BadFile, WhatIsNotHdf5IsRefused) {
    write_text(file("text.h5"), "user,item,rating\n1,2,3\n");
    write_text(file("empty.h5"), "");
    for (const char* name : {"text.h5", "empty.h5"}) {
        expect_words(
            expect_error(Fault::input, [&] { return read_matrix<float>(comm, file(name)); }),
            {name, "not an HDF5 file"});
        expect_words(
            expect_error(Fault::input, [&] { return read_factors<float>(comm, file(name)); }),
            {name, "not an HDF5 file"});
        expect_words(
            expect_error(Fault::input, [&] { static_cast<void>(file_kind(comm, file(name))); }),
            {name, "not an HDF5 file"});
    }
}

TEST_F(BadFile, TruncatedFilesAreRefused) {
    auto data = make_dense<float>(comm, 50, 50);
    write_matrix(file("whole.h5"), data, {}, {.command = "test", .options = "{}"});
    const auto size = std::filesystem::file_size(file("whole.h5"));
    for (const auto left : {size - 1, size / 2, std::uintmax_t{600}, std::uintmax_t{9}}) {
        comm.barrier();
        if (comm.is_root()) {
            std::filesystem::copy_file(file("whole.h5"), file("cut.h5"),
                                       std::filesystem::copy_options::overwrite_existing);
            std::filesystem::resize_file(file("cut.h5"), left);
        }
        comm.barrier();
        const auto text =
            expect_error(Fault::input, [&] { return read_matrix<float>(comm, file("cut.h5")); });
        expect_words(text, {"cut.h5"});
    }
}

TEST_F(BadFile, MissingPartsAreNamed) {
    expect_refused([](H5Maker& m) { m.group("Y"); }, {"no matrix X"});
    expect_refused([](H5Maker& m) { m.group("X"); }, {"encoding-type"});
    expect_refused([](H5Maker& m) { return make_group(m.id(), "X", "csr_matrix", "0.1.0"); },
                   {"shape"});
    expect_refused(
        [](H5Maker& m) {
            const H5Id x = make_group(m.id(), "X", "csr_matrix", "0.1.0");
            write_attribute(x.get(), "shape", {2, 2});
            m.dataset("X/data", std::vector<float>{1});
        },
        {"no dataset X/indices"});
    expect_refused(
        [](H5Maker& m) {
            write_attribute(m.group("").get(), "rankfold", "factors");
            m.dataset("row_factors", std::vector<float>{1}, {1, 1});
        },
        {"holds factors, not a matrix"});
}

TEST_F(BadFile, WrongTypesAndShapesAreNamed) {
    expect_refused(
        [](H5Maker& m) {
            m.dataset("X", std::vector<float>{1, 2});
        },
        {"dataset X", "1 dimensions, not 2"});
    expect_refused([](H5Maker& m) { write_strings(m.id(), "X", 2, [](Index) { return "a"; }); },
                   {"dataset X", "numbers"});
    expect_refused(
        [](H5Maker& m) {
            m.sparse({2, 2}, {1, 2}, {0, 1}, {0, 2});
        },
        {"X/indptr", "3 elements"});
    expect_refused(
        [](H5Maker& m) {
            m.sparse({2, 2}, {1, 2, 3}, {0, 1}, {0, 1, 2});
        },
        {"X/indices", "3 elements"});
    expect_refused(
        [](H5Maker& m) {
            const H5Id x = make_group(m.id(), "X", "csr_matrix", "0.1.0");
            write_attribute(x.get(), "shape", {2, 2});
            m.dataset("X/data", std::vector<float>{1, 2});
            m.dataset("X/indices", std::vector<float>{0, 1});
            m.dataset("X/indptr", std::vector<std::int64_t>{0, 1, 2});
        },
        {"X/indices", "integers"});
}

TEST_F(BadFile, IndptrMustRiseFromZeroToTheEnd) {
    expect_refused(
        [](H5Maker& m) {
            m.sparse({3, 2}, {1, 2}, {0, 1}, {0, 2, 1, 2});
        },
        {"X/indptr", "element 2 is 1"});
    expect_refused(
        [](H5Maker& m) {
            m.sparse({2, 2}, {1, 2}, {0, 1}, {1, 1, 2});
        },
        {"X/indptr", "element 0 is 1"});
    expect_refused(
        [](H5Maker& m) {
            m.sparse({2, 2}, {1, 2}, {0, 1}, {0, 1, 1});
        },
        {"X/indptr", "ends with 1"});
    expect_refused(
        [](H5Maker& m) {
            m.sparse({2, 2}, {1, 2}, {0, 1}, {0, 9, 2});
        },
        {"X/indptr", "element 1 is 9"});
    expect_refused(
        [](H5Maker& m) {
            m.sparse({2, 2}, {1, 2}, {0, 1}, {0, -1, 2});
        },
        {"X/indptr", "element 1 is -1"});
}

TEST_F(BadFile, ColumnsMustBeInRangeAndStandOnce) {
    expect_refused(
        [](H5Maker& m) {
            m.sparse({3, 2}, {1, 2}, {0, 2}, {0, 1, 1, 2});
        },
        {"X/indices", "row 2", "column 2"});
    expect_refused(
        [](H5Maker& m) {
            m.sparse({3, 2}, {1, 2}, {0, -1}, {0, 1, 2, 2});
        },
        {"X/indices", "row 1", "column -1"});
    expect_refused(
        [](H5Maker& m) {
            m.sparse({1, 3}, {1, 2, 3}, {0, 1, 0}, {0, 3});
        },
        {"row 0", "column 0 twice"});
    expect_refused(
        [](H5Maker& m) {
            const H5Id x = make_group(m.id(), "X", "csr_matrix", "0.1.0");
            write_attribute(x.get(), "shape", {1, 2});
            m.dataset("X/data", std::vector<float>{1});
            m.dataset("X/indices", std::vector<std::int64_t>{(std::int64_t{1} << 32) + 1});
            m.dataset("X/indptr", std::vector<std::int64_t>{0, 1});
        },
        {"X/indices", "4294967297"});
}

TEST_F(BadFile, NumbersMustBeFinite) {
    for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
        expect_refused(
            [&](H5Maker& m) {
                m.sparse({3, 2}, {1, 2, bad}, {0, 1, 0}, {0, 1, 2, 3});
            },
            {"X/data", "row 2", "not finite"});
        expect_refused(
            [&](H5Maker& m) {
                m.dataset("X", std::vector<double>{1, 2, 3, bad}, {2, 2});
            },
            {"dataset X", "row 1", "not finite"});
    }
    expect_refused(
        [](H5Maker& m) {
            m.dataset("X", std::vector<double>{1e300, 1}, {1, 2});
        },
        {"--precision double"});
}

TEST_F(BadFile, EmptyMatricesAreRefused) {
    expect_refused([](H5Maker& m) { m.sparse({2, 2}, {}, {}, {0, 0, 0}); }, {"without any entry"});
    expect_refused([](H5Maker& m) { m.sparse({0, 2}, {}, {}, {0}); }, {"0 x 2"});
    expect_refused(
        [](H5Maker& m) {
            m.dataset("X", std::vector<float>{}, {0, 4});
        },
        {"empty matrix"});
}

TEST_F(BadFile, DataInOtherFilesAreNotFollowed) {
    write_text(file("secret.bin"), "0123456789abcdef");
    auto other = make_dense<float>(comm, 2, 2);
    write_matrix(file("other.h5"), other, {}, {.command = "test", .options = "{}"});
    const std::string target = file("other.h5");
    expect_refused(
        [&](H5Maker& m) {
            check_hdf5(
                H5Lcreate_external(target.c_str(), "X", m.id(), "X", H5P_DEFAULT, H5P_DEFAULT),
                "H5Lcreate_external");
        },
        {"external", "not followed"});
    expect_refused(
        [](H5Maker& m) {
            m.dataset("Y", std::vector<float>{1}, {1, 1});
            check_hdf5(H5Lcreate_soft("/Y", m.id(), "X", H5P_DEFAULT, H5P_DEFAULT),
                       "H5Lcreate_soft");
        },
        {"soft", "not followed"});
    expect_refused([&](H5Maker& m) { external_dataset(m, file("secret.bin")); },
                   {"external storage"});
    expect_refused([&](H5Maker& m) { virtual_dataset(m, target); }, {"virtual dataset"});
}

TEST_F(BadFile, LinksInNamesAndLabelsAreNotFollowedEither) {
    auto other = make_dense<float>(comm, 1, 2);
    add_labels(other, 1);
    write_matrix(file("other.h5"), other, {}, {.command = "test", .options = "{}"});
    const std::string target = file("other.h5");
    for (const char* name : {"obs", "obs/label"}) {
        expect_refused(
            [&](H5Maker& m) {
                m.dataset("X", std::vector<float>{1, 2}, {1, 2});
                if (std::string(name) != "obs") m.group("obs");
                check_hdf5(H5Lcreate_external(target.c_str(), name, m.id(), name, H5P_DEFAULT,
                                              H5P_DEFAULT),
                           "H5Lcreate_external");
            },
            {name, "external"});
    }
}

TEST_F(BadFile, ExtentsThatNoFileCanHoldAreRefused) {
    expect_refused(
        [](H5Maker& m) {
            const hsize_t extent[] = {hsize_t{1} << 30, hsize_t{1} << 20};
            const H5Id space(H5Screate_simple(2, extent, nullptr), H5Sclose, "H5Screate_simple");
            const H5Id set(H5Dcreate2(m.id(), "X", H5T_IEEE_F64LE, space.get(), H5P_DEFAULT,
                                      H5P_DEFAULT, H5P_DEFAULT),
                           H5Dclose, "H5Dcreate2");
        },
        {"more than the file holds"});
}

TEST_F(BadFile, LabelsMustBeClasses) {
    const auto with_labels = [](H5Maker& m, const std::vector<std::int64_t>& labels) {
        m.dataset("X", std::vector<float>{1, 2, 3, 4}, {2, 2});
        m.group("obs");
        m.dataset("obs/label", labels);
    };
    expect_refused([&](H5Maker& m) { with_labels(m, {0, -1}); }, {"obs/label", "row 1", "-1"});
    expect_refused([&](H5Maker& m) { with_labels(m, {0, 1, 2}); }, {"obs/label", "2 elements"});
}

TEST_F(BadFile, FactorsMustFitTogether) {
    const auto refuse = [&](const Make& make, const std::vector<std::string>& words) {
        if (comm.is_root()) {
            H5Maker maker(file());
            write_attribute(maker.group("").get(), "rankfold", "factors");
            make(maker);
        }
        comm.barrier();
        expect_words(expect_error(Fault::input, [&] { return read_factors<float>(comm, file()); }),
                     words);
        comm.barrier();
    };
    refuse([](H5Maker&) {}, {"row_factors"});
    refuse(
        [](H5Maker& m) {
            m.dataset("row_factors", std::vector<float>{1, 2, 3, 4}, {2, 2});
            m.dataset("col_factors", std::vector<float>{1, 2, 3}, {3, 1});
        },
        {"2 columns and col_factors 1"});
    refuse(
        [](H5Maker& m) {
            m.dataset("row_factors", std::vector<float>{1, 2, 3, NAN}, {2, 2});
            m.dataset("col_factors", std::vector<float>{1, 2}, {1, 2});
        },
        {"row_factors", "row 1", "not finite"});
    refuse(
        [](H5Maker& m) {
            m.dataset("row_factors", std::vector<float>{1, 2, 3, 4}, {2, 2});
            m.dataset("col_factors", std::vector<float>{1, 2}, {1, 2});
            m.dataset("row_bias", std::vector<float>{1, 2, 3});
        },
        {"row_bias", "shape 3 where 2"});
    auto matrix = make_dense<float>(comm, 2, 2);
    write_matrix(file("matrix.h5"), matrix, {}, {.command = "test", .options = "{}"});
    expect_words(
        expect_error(Fault::input, [&] { return read_factors<float>(comm, file("matrix.h5")); }),
        {"matrix.h5", "holds a matrix"});
}

}  // namespace rankfold::test
