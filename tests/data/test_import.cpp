#include <rankfold/data/import.hpp>

#include <cmath>
#include <cstring>
#include <fstream>
#include <numeric>

#include <zlib.h>

#include <rankfold/data/names.hpp>

#include "data/small_matrices.hpp"
#include "support/mpi_test.hpp"

namespace rankfold::test {

namespace {

class Import : public MpiTest {
protected:
    std::string path(const std::string& name) { return (scratch() / name).string(); }

    /// Writes text, compressed if the name ends with .gz, and returns its path.
    std::string write(const std::string& name, const std::string& text) {
        if (comm.is_root()) {
            if (name.ends_with(".gz")) {
                const gzFile file = gzopen(path(name).c_str(), "wb");
                gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
                gzclose(file);
            } else {
                std::ofstream(path(name), std::ios::binary) << text;
            }
        }
        comm.barrier();
        return path(name);
    }

    Imported<double> read(ImportOptions options, const std::vector<std::string>& sources) {
        options.sources = sources;
        return import_matrix<double>(comm, options);
    }
    Imported<double> read(const std::string& source) { return read({}, {source}); }

    void expect_refused(ImportOptions options, const std::string& source,
                        const std::vector<std::string>& words) {
        options.sources = {source};
        const auto message =
            expect_error(Fault::input, [&] { return import_matrix<double>(comm, options); });
        for (const auto& word : words) {
            EXPECT_NE(message.find(word), std::string::npos) << "`" << word << "` in: " << message;
        }
        comm.barrier();
    }

    /// The names of an axis, on all ranks.
    std::vector<std::string> names(const std::optional<Names>& axis) {
        std::string all;
        for (Index i = 0; comm.is_root() && i < count_of(*axis); ++i) {
            all += name_text(*axis, i) + ",";
        }
        comm.broadcast(all);
        std::vector<std::string> list;
        for (std::size_t begin = 0; begin < all.size();) {
            const auto end = all.find(',', begin);
            list.push_back(all.substr(begin, end - begin));
            begin = end + 1;
        }
        return list;
    }

    static void expect_matrix(const Imported<double>& found, Index rows, Index cols,
                              const std::vector<double>& elements) {
        EXPECT_EQ(found.matrix.rows(), rows);
        EXPECT_EQ(found.matrix.cols(), cols);
        const auto all = whole(found.matrix);
        EXPECT_TRUE(std::ranges::equal(all.data(), elements))
            << ::testing::PrintToString(std::vector<double>(all.data().begin(), all.data().end()));
    }

    static void expect_near(const Imported<double>& found, const std::vector<double>& elements) {
        const auto all = whole(found.matrix);
        EXPECT_EQ(all.data().size(), elements.size());
        for (std::size_t i = 0; i < std::min(elements.size(), all.data().size()); ++i) {
            EXPECT_NEAR(all.data()[i], elements[i], 1e-12);
        }
    }

    std::vector<Index> labels(const Imported<double>& found) {
        if (!found.matrix.labels) return {};
        const auto all = gather_all(*found.matrix.labels);
        return {all.data().begin(), all.data().end()};
    }
};

using Texts = std::vector<std::string>;

std::string big_endian(std::uint32_t x) {
    std::string bytes(4, '\0');
    for (int b = 0; b < 4; ++b)
        bytes[static_cast<std::size_t>(b)] = static_cast<char>(x >> (24 - 8 * b));
    return bytes;
}

template <class T>
std::string raw(const std::vector<T>& values) {
    std::string bytes(values.size() * sizeof(T), '\0');
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
}

std::string numpy(const std::string& type, bool by_columns, const std::string& shape,
                  const std::string& elements) {
    std::string header =
        concat("{'descr': '", type, "', 'fortran_order': ", by_columns ? "True" : "False",
               ", 'shape': ", shape, ", }\n");
    std::string file = std::string("\x93NUMPY\x01", 7) + '\0';
    file += static_cast<char>(header.size() % 256);
    file += static_cast<char>(header.size() / 256);
    return file + header + elements;
}

}  // namespace

TEST_F(Import, CsvWithHeadingAndTimeKeepsIdsAndTimes) {
    const auto found = read(write("r.csv",
                                  "userId,movieId,rating,timestamp\n"
                                  "10,7,3.5,100\n9,30,4,90\n10,30,1,110\n"));
    expect_matrix(found, 2, 2, {0, 4, 3.5, 1});
    EXPECT_EQ(names(found.extras.row_names), (Texts{"9", "10"}));
    EXPECT_EQ(names(found.extras.col_names), (Texts{"7", "30"}));
    EXPECT_EQ(found.counts.headings, 1);
    EXPECT_EQ(found.counts.lines, 3);
    EXPECT_EQ(found.extras.per_entry.at(0).first, "X/time");
    const auto& mine = found.extras.per_entry.at(0).second;
    EXPECT_EQ(comm.all_gather(std::span<const std::int64_t>(mine)),
              (std::vector<std::int64_t>{90, 100, 110}));
}

TEST_F(Import, EveryKindOfTripletGivesTheSameMatrix) {
    const std::vector<double> expected{0, 2, 1, 0, 0, 5};
    for (const auto& source :
         {write("a.tsv", "1\t2\t2\n5\t1\t1\n8\t2\t5\n"),
          write("a.dat", "1::2::2\n5::1::1\n8::2::5\n"), write("a.csv.gz", "1,2,2\n5,1,1\n8,2,5\n"),
          write("b.csv", "1;2;2\r\n5;1;1\r\n8;2;5"),
          write("a.txt", "# a comment\n\n1 2 2\n5 1 1\n\n8  2 5\n"),
          write("c.csv", "\xEF\xBB\xBFuser,item,rating\n1,2,2\n5,1,1\n8,2,5\n"),
          write("d.csv", "\"1\",\"2\",2\n\"5\",\"1\",1\n\"8\",\"2\",5\n")}) {
        const auto found = read(source);
        expect_matrix(found, 3, 2, expected);
        EXPECT_EQ(names(found.extras.row_names), (Texts{"1", "5", "8"})) << source;
        EXPECT_TRUE(found.extras.per_entry.empty());
    }
}

TEST_F(Import, PlainAndOtherLinesOfOneFileAreReadAlike) {
    // leading zeros, quotes, spaces, exponents and long numbers leave the fast path, line by line
    const auto found = read(write("mixed.csv",
                                  "1,2,3.5\n \"3\" ,4,1e1\n5,2,+2\n3,2,0.10\n"
                                  "1,4,1234567890.123456789\n"));
    expect_matrix(found, 3, 2, {3.5, 1234567890.123456789, 0.1, 10.0, 2.0, 0.0});
    EXPECT_EQ(names(found.extras.row_names), (Texts{"1", "3", "5"}));
    EXPECT_EQ(names(read(write("text.csv", "7,1,1\n07,1,1\n70,1,1\n")).extras.row_names),
              (Texts{"07", "7", "70"}));
}

TEST_F(Import, FoldsOfLinesStandBesideTheirEntries) {
    std::string lines;
    std::string folds;
    for (int i = 0; i < 30; ++i) {
        lines += concat((7 * i) % 10, ",", i, ",", i + 1, "\n");
        folds += concat(i % 4 + 1, "\n");
    }
    const auto found = read({.fold_file = write("folds.txt", folds)}, {write("a.csv", lines)});
    EXPECT_EQ(found.extras.per_entry.at(0).first, "X/fold");
    const auto& mine = found.extras.per_entry.at(0).second;
    const auto& values = found.matrix.sparse->local().values;
    EXPECT_EQ(mine.size(), values.size());
    for (std::size_t e = 0; e < mine.size(); ++e) {
        EXPECT_EQ(mine[e], (static_cast<Index>(values[e]) - 1) % 4 + 1);
    }
    expect_refused({.fold_file = write("short.txt", "1\n2\n")}, path("a.csv"),
                   {"2 lines for 30 lines"});
    expect_refused({.fold_file = write("bad.txt", "1\nx\n")}, path("a.csv"), {"bad.txt:2"});
}

TEST_F(Import, PairsWithoutValueCountAsOne) {
    const auto found = read(write("a.csv", "b,x\na,y\na,x\n"));
    expect_matrix(found, 2, 2, {1, 1, 1, 0});
    EXPECT_EQ(names(found.extras.row_names), (Texts{"a", "b"}));
    ImportOptions options{.heading = Heading::yes};
    const auto headed = read(options, {write("b.csv", "package,dependency\na,y\nb,x\n")});
    EXPECT_EQ(names(headed.extras.row_names), (Texts{"a", "b"}));
}

TEST_F(Import, IdsThatAreNotAllIntegersStayTextAndLoseNothing) {
    const auto found = read(write("a.csv", "7,007,1\n10,7,2\nx,+7,3\n-3,7,4\n"));
    EXPECT_EQ(names(found.extras.row_names), (Texts{"-3", "10", "7", "x"}));
    EXPECT_EQ(names(found.extras.col_names), (Texts{"+7", "007", "7"}));
    const auto numbers = read(write("b.csv", "7,0,1\n10,1,2\n-3,7,4\n"));
    EXPECT_EQ(names(numbers.extras.row_names), (Texts{"-3", "7", "10"}));
}

TEST_F(Import, ManyIdsAreNumberedInOrderOnAnyNumberOfRanks) {
    std::string text;
    for (int e = 0; e < 5000; ++e) {
        const int row = (e * 7919) % 1009;
        text += concat("u", row, ",", (e * 104729) % 613, ",", e % 5 + 1, "\n");
    }
    ImportOptions options{.duplicates = Duplicates::last};
    const auto found = read(options, {write("a.csv", text)});
    EXPECT_EQ(found.matrix.rows(), 1009);
    EXPECT_EQ(found.matrix.cols(), 613);
    const auto rows = names(found.extras.row_names);
    const auto cols = names(found.extras.col_names);
    EXPECT_TRUE(std::ranges::is_sorted(rows));
    EXPECT_EQ(cols.at(500), "500");
    // the slow, obvious way
    DenseMatrix<double> expected(1009, 613);
    for (int e = 0; e < 5000; ++e) {
        const std::string name = concat("u", (e * 7919) % 1009);
        const auto row = std::ranges::lower_bound(rows, name) - rows.begin();
        expected(row, (e * 104729) % 613) = e % 5 + 1;
    }
    EXPECT_TRUE(std::ranges::equal(whole(found.matrix).data(), expected.data()));
}

TEST_F(Import, DuplicatesFollowTheOption) {
    const auto source = write("a.csv", "1,1,1\n2,1,9\n1,1,4\n1,1,1\n");
    expect_refused({}, source, {"row 1, column 1", "2 surplus", "--duplicates"});
    const std::vector<std::pair<Duplicates, double>> rules{
        {Duplicates::last, 1}, {Duplicates::sum, 6}, {Duplicates::mean, 2}};
    for (const auto& [rule, value] : rules) {
        const auto found = read({.duplicates = rule}, {source});
        expect_matrix(found, 2, 1, {value, 9});
        EXPECT_EQ(found.counts.duplicates, 2);
    }
}

TEST_F(Import, SeveralSourcesAreJoinedInTheirOrder) {
    const auto found =
        read({.duplicates = Duplicates::last},
             {write("a.csv", "1,1,1\n2,2,2\n"), write("b.csv.gz", "3,1,3\n1,1,5\n")});
    expect_matrix(found, 3, 2, {5, 0, 0, 2, 3, 0});
}

TEST_F(Import, ValuesAreShiftedAndChanged) {
    const auto source = write("a.csv", "1,1,-1\n2,1,3\n");
    expect_matrix(read({.shift = 1.0}, {source}), 2, 1, {0, 4});
    expect_matrix(read({.value = ValueRule::binary}, {source}), 2, 1, {1, 1});
    expect_matrix(read({.shift = 1.0, .value = ValueRule::log1p}, {source}), 2, 1,
                  {0, std::log1p(4.0)});
    expect_refused({.value = ValueRule::log1p}, source, {":1:", "not finite"});
}

TEST_F(Import, GivenIdsKeepTheirPlacesAndUnknownOnesAreCounted) {
    auto train = read(write("train.csv", "5,b,1\n3,a,2\n"));
    write_matrix(path("train.h5"), train.matrix, train.extras, {.command = "import"});
    const auto source = write("test.csv", "3,b,7\n4,a,8\n5,zzz,9\n");
    const auto kept = read({.ids = path("train.h5")}, {source});
    expect_matrix(kept, 2, 2, {0, 7, 0, 0});
    EXPECT_EQ(names(kept.extras.row_names), (Texts{"3", "5"}));
    EXPECT_EQ(kept.counts.unknown_rows, 1);
    EXPECT_EQ(kept.counts.unknown_cols, 1);
    EXPECT_EQ(kept.counts.left_out, 2);
    const auto extended = read({.ids = path("train.h5"), .extend_ids = true}, {source});
    expect_matrix(extended, 3, 3, {0, 7, 0, 0, 0, 9, 8, 0, 0});
    EXPECT_EQ(names(extended.extras.row_names), (Texts{"3", "5", "4"}));
    EXPECT_EQ(extended.counts.left_out, 0);
    const auto named = read({.row_ids = write("rows.txt", "5\n4\n3\n")}, {source});
    EXPECT_EQ(names(named.extras.row_names), (Texts{"5", "4", "3"}));
    EXPECT_EQ(named.matrix.cols(), 3);
}

TEST_F(Import, NcfFilesGiveTrainingAndNegatives) {
    auto train = read({.format = Format::ncf},
                      {write("t.rating", "0\t10\t5\t1\n1\t30\t4\t2\n0\t20\t3\t3\n")});
    expect_matrix(train, 2, 3, {5, 3, 0, 0, 0, 4});
    write_matrix(path("train.h5"), train.matrix, train.extras, {.command = "import"});
    const auto source = write("t.negative", "(0,10)\t30\n(1,30)\t20\t10\n");
    const auto found = read({.ids = path("train.h5")}, {source});
    EXPECT_EQ(found.counts.formats, (Texts{"ncf"}));
    expect_matrix(found, 2, 3, {0, 0, 1, 1, 1, 0});
    expect_refused({.format = Format::ncf}, write("bad.negative", "(0,10)\t30\n(1 30)\t20\n"),
                   {"bad.negative:2", "(1 30)"});
}

TEST_F(Import, MatrixMarketInAllItsForms) {
    expect_matrix(read(write("g.mtx",
                             "%%MatrixMarket matrix coordinate real general\n% c\n2 3 3\n"
                             "1 1 1.5\n2 3 -2\n1 2 4\n")),
                  2, 3, {1.5, 4, 0, 0, 0, -2});
    expect_matrix(read(write("s.mtx.gz",
                             "%%MatrixMarket matrix coordinate integer symmetric\n"
                             "3 3 3\n1 1 1\n3 1 2\n3 2 4\n")),
                  3, 3, {1, 0, 2, 0, 0, 4, 2, 4, 0});
    expect_matrix(read(write("p.mtx",
                             "%%MatrixMarket matrix coordinate pattern general\n\n"
                             "2 2 2\n1 2\n2 1\n")),
                  2, 2, {0, 1, 1, 0});
    expect_matrix(read(write("k.mtx",
                             "%%MatrixMarket matrix coordinate real skew-symmetric\n"
                             "2 2 1\n2 1 3\n")),
                  2, 2, {0, -3, 3, 0});
    expect_matrix(read(write("a.mtx",
                             "%%MatrixMarket matrix array real general\n2 3\n"
                             "1\n2\n3\n4\n5\n6\n")),
                  2, 3, {1, 3, 5, 2, 4, 6});
    expect_refused({},
                   write("b.mtx",
                         "%%MatrixMarket matrix coordinate real general\n2 2 2\n"
                         "1 1 1\n3 1 1\n"),
                   {"b.mtx:4", "outside", "`3 1 1`", "1 bad line in all"});
    expect_refused({},
                   write("c.mtx", "%%MatrixMarket matrix coordinate real general\n2 2 2\n1 1 1\n"),
                   {"2 entries", "1 lines"});
    expect_refused({}, write("d.mtx", "%%MatrixMarket matrix coordinate complex general\n1 1 0\n"),
                   {"d.mtx:1", "complex"});
}

TEST_F(Import, NumpyArraysOfAllTypesAndOrders) {
    const std::vector<double> expected{1, 2, 3, 4, 5, 6};
    const auto check = [&](const std::string& name, const std::string& bytes, bool as_bytes) {
        const auto found = read(write(name, bytes));
        expect_matrix(found, 2, 3, expected);
        EXPECT_EQ(found.as_bytes, as_bytes) << name;
    };
    check("a.npy", numpy("<f8", false, "(2, 3)", raw<double>({1, 2, 3, 4, 5, 6})), false);
    check("b.npy", numpy("<f4", true, "(2, 3)", raw<float>({1, 4, 2, 5, 3, 6})), false);
    check("c.npy", numpy("|u1", false, "(2, 3)", raw<std::uint8_t>({1, 2, 3, 4, 5, 6})), true);
    check("d.npy", numpy("<i8", true, "(2, 3)", raw<std::int64_t>({1, 4, 2, 5, 3, 6})), false);
    check("e.npy.gz", numpy("<i2", false, "(2, 3)", raw<std::int16_t>({1, 2, 3, 4, 5, 6})), false);
    check("f.npy",
          numpy(">i2", false, "(2, 3)", raw<std::int16_t>({256, 512, 768, 1024, 1280, 1536})),
          false);
    expect_refused({}, write("g.npy", numpy("<f8", false, "(2, 3)", raw<double>({1, 2}))),
                   {"g.npy", "damaged or truncated"});
    expect_refused({}, write("h.npy", numpy("<f8", false, "(6,)", raw<double>(expected))),
                   {"two dimensions"});
    expect_refused({}, write("i.npy", numpy("<c8", false, "(1, 1)", raw<double>({1}))), {"<c8"});
    expect_refused({}, write("j.npy", numpy("<f8", false, "(2, 1)", raw<double>({1, NAN}))),
                   {"row 1", "not finite"});
}

TEST_F(Import, IdxImagesWithLabels) {
    const auto images =
        write("i.gz", std::string("\0\0\x08\x03", 4) + big_endian(3) + big_endian(1) +
                          big_endian(2) + raw<std::uint8_t>({0, 255, 7, 8, 9, 10}));
    const auto marks =
        write("l", std::string("\0\0\x08\x01", 4) + big_endian(3) + raw<std::uint8_t>({2, 0, 2}));
    auto found = read({.labels = {marks}}, {images});
    expect_matrix(found, 3, 2, {0, 255, 7, 8, 9, 10});
    EXPECT_TRUE(found.as_bytes);
    EXPECT_EQ(labels(found), (std::vector<Index>{2, 0, 2}));
    EXPECT_EQ(found.matrix.class_names, (Texts{"0", "1", "2"}));
    write_matrix(path("i.h5"), found.matrix, found.extras, {.command = "import"}, found.as_bytes);
    EXPECT_TRUE(Hdf5File::open(path("i.h5")).dataset("X").is_bytes());
    EXPECT_EQ(gather_all(*read_matrix<float>(comm, path("i.h5")).labels)(0, 0), 2);
    const auto two = read({.labels = {marks, marks}}, {images, images});
    EXPECT_EQ(two.matrix.rows(), 6);
    EXPECT_EQ(labels(two), (std::vector<Index>{2, 0, 2, 2, 0, 2}));
    const auto text = read({.labels = {write("l.txt", "cat\ndog\ncat\n")}}, {images});
    EXPECT_EQ(labels(text), (std::vector<Index>{0, 1, 0}));
    expect_refused({.labels = {write("few.txt", "cat\n")}}, images, {"1 labels for 3 rows"});
}

TEST_F(Import, TablesWithLabelsMissingFieldsAndNames) {
    const auto plain = read({.label_column = "last"}, {write("a.csv", "1,2,3,7\n4,5,6,3\n")});
    expect_matrix(plain, 2, 3, {1, 2, 3, 4, 5, 6});
    EXPECT_EQ(labels(plain), (std::vector<Index>{7, 3}));
    const auto letters = read({.label_column = "2"}, {write("b.txt", "2 T 8\n5 I 12\n4 T 11\n")});
    expect_matrix(letters, 3, 2, {2, 8, 5, 12, 4, 11});
    EXPECT_EQ(labels(letters), (std::vector<Index>{1, 0, 1}));
    EXPECT_EQ(letters.matrix.class_names, (Texts{"I", "T"}));
    const auto jokes = read({.drop_columns = {1}, .missing = "99", .shift = 10.0},
                            {write("c.csv.gz", "2,-7.5,99,8\n1,99.0,1,99\n")});
    expect_matrix(jokes, 2, 3, {2.5, 0, 18, 0, 11, 0});
    EXPECT_EQ(jokes.matrix.entries(), 3);
    EXPECT_EQ(jokes.counts.missing, 3);
    const auto named =
        read({.label_column = "first"}, {write("d.csv", "kind,a,b,c\nx,1,2,3\ny,4,5,6\n")});
    EXPECT_EQ(names(named.extras.col_names), (Texts{"a", "b", "c"}));
    expect_matrix(named, 2, 3, {1, 2, 3, 4, 5, 6});
    expect_refused({.label_column = "last"}, write("e.csv", "1,2,3,7\n4,x,6,3\n1,2,3\n"),
                   {"e.csv:2", "field 2 `x`", "2 bad lines in all"});
    expect_refused({.label_column = "9"}, write("f.csv", "1,2,3,7\n"), {"no column 9"});
}

TEST_F(Import, ClassesAreTakenOverFromTheGivenFile) {
    auto train = read({.label_column = "last"}, {write("a.txt", "1 2 x\n3 4 z\n5 6 y\n")});
    write_matrix(path("train.h5"), train.matrix, train.extras, {.command = "import"});
    const auto test =
        read({.label_column = "last", .ids = path("train.h5")}, {write("b.txt", "1 2 z\n3 4 x\n")});
    EXPECT_EQ(labels(test), (std::vector<Index>{2, 0}));
    EXPECT_EQ(test.matrix.class_names, (Texts{"x", "y", "z"}));
    expect_refused({.label_column = "last", .ids = path("train.h5")}, write("c.txt", "1 2 q\n"),
                   {"classes"});
}

TEST_F(Import, TextsBecomeWordCountsAndRarityWeights) {
    const ImportOptions text{.format = Format::text, .label_column = "first"};
    auto train = read(text, {write("train.txt",
                                   "b\tRed apple, red APPLE-pie\na\tgreen apple\nb\tx y z\n"
                                   "a\tgreen leaf")});
    EXPECT_EQ(names(train.extras.col_names), (Texts{"apple", "green"}));  // in 2 documents at least
    expect_matrix(train, 4, 2, {2, 0, 1, 1, 0, 0, 0, 1});
    EXPECT_EQ(labels(train), (std::vector<Index>{1, 0, 1, 0}));
    EXPECT_EQ(train.counts.left_out, 4);
    auto all = text;
    all.least_documents = 1;
    EXPECT_EQ(names(read(all, {path("train.txt")}).extras.col_names),
              (Texts{"apple", "green", "leaf", "pie", "red"}));

    auto weighted = text;
    weighted.value = ValueRule::tfidf;
    train = read(weighted, {path("train.txt")});
    const double same = std::sqrt(0.5);
    expect_near(train, {1, 0, same, same, 0, 0, 0, 1});
    write_matrix(path("train.h5"), train.matrix, train.extras, {.command = "import"});
    weighted.ids = path("train.h5");  // whose words and counts are taken over
    const auto test = read(weighted, {write("test.txt", "a\tleaf green green apple\n")});
    expect_near(test, {1 / std::sqrt(5.0), 2 / std::sqrt(5.0)});
    EXPECT_EQ(test.counts.unknown_cols, 1);
    weighted.label_column = "2";
    expect_refused(weighted, write("short.txt", "a\tgreen\napple\n"), {"short.txt", "field"});
}

TEST_F(Import, BadLinesAreNamedWithFileNumberAndText) {
    std::string text = "user,item,rating\n";
    for (int i = 1; i <= 100; ++i) text += std::to_string(i) + ",1,2\n";
    expect_refused({}, write("a.csv", text + "7,8\n" + "9,9,abc\n"),
                   {"a.csv:102", "2 fields where 3", "`7,8`", "2 bad lines in all"});
    expect_refused({}, write("b.csv.gz", text + "9,9,abc\n"),
                   {"b.csv.gz:102", "`abc` is not a number"});
    expect_refused({}, write("c.csv", "1,2,3,4\n1,2,3,x\n"), {"c.csv:2", "time `x`"});
    expect_refused({}, write("d.csv", "1,2,nan\n"), {"d.csv:1", "not finite"});
    expect_refused({.format = Format::csv}, write("e.csv", "1,2,3,4,5\n"), {"e.csv:1", "table"});
}

TEST_F(Import, SourcesThatHoldNothingOrDoNotFitAreRefused) {
    expect_refused({}, write("a.csv", ""), {"empty"});
    expect_refused({}, write("b.csv", "user,item,rating\n"), {"no line of data"});
    expect_refused({}, path("none.csv"), {"none.csv", "No such file"});
    expect_refused({}, write("c.bin", std::string("a\0b", 3)), {"neither text"});
    expect_refused({.extend_ids = true}, write("d.csv", "1,1,1\n"), {"--extend-ids"});
    ImportOptions options;
    options.sources = {write("e.csv", "1,1,1\n"),
                       write("f.mtx",
                             "%%MatrixMarket matrix coordinate real general\n1 1 1\n"
                             "1 1 1\n")};
    expect_error(Fault::input, [&] { return import_matrix<double>(comm, options); });
    options.sources = {write("g.csv", "1,1,1,5\n"), write("h.csv", "2,1,1\n")};
    expect_error(Fault::input, [&] { return import_matrix<double>(comm, options); });
    EXPECT_THROW(static_cast<void>(format_named("cvs")), Error);
    EXPECT_EQ(format_name(format_named("matrix-market")), "matrix-market");
}

TEST_F(Import, TheDigestOfTheFileDoesNotDependOnTheNumberOfRanks) {
    std::string text;
    for (int e = 0; e < 300; ++e) {
        text += std::to_string(e % 37) + "\t" + std::to_string((e * e) % 41) + "\t0.1\n";
    }
    auto found = read({.duplicates = Duplicates::sum}, {write("a.tsv", text)});
    write_matrix(path("a.h5"), found.matrix, found.extras, {.command = "import"});
    const Communicator alone(MPI_COMM_SELF, ledger);
    ImportOptions options{.sources = {path("a.tsv")}, .duplicates = Duplicates::sum};
    auto single = import_matrix<double>(alone, options);
    write_matrix(path("single" + std::to_string(comm.rank()) + ".h5"), single.matrix, single.extras,
                 {.command = "import"});
    EXPECT_EQ(single.matrix.digest, found.matrix.digest);
}

}  // namespace rankfold::test
