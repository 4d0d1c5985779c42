#include <rankfold/data/text_reader.hpp>

#include <filesystem>
#include <fstream>

#include <zlib.h>

#include "support/mpi_test.hpp"

namespace rankfold::test {

namespace {

class TextReader : public MpiTest {
protected:
    std::string write(const std::string& name, const std::string& text, bool compressed) {
        const std::string path = (scratch() / name).string();
        if (comm.is_root()) {
            if (compressed) {
                const gzFile file = gzopen(path.c_str(), "wb");
                gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
                gzclose(file);
            } else {
                std::ofstream(path, std::ios::binary) << text;
            }
        }
        comm.barrier();
        return path;
    }

    /// All lines as the ranks see them, in rank order.
    std::string lines_of(const ByteFile& file, Index from) {
        const Range share = file.my_lines(from);
        const std::string mine = file.range(share);
        EXPECT_TRUE(mine.empty() || mine.back() == '\n' || share.end == file.size());
        std::string all;
        for (const auto& part : comm.all_gather(mine)) all += part;
        return all;
    }
};

}  // namespace

TEST_F(TextReader, EveryLineIsReadByExactlyOneRank) {
    std::string text = "head\n";
    for (int i = 0; i < 200; ++i) text += std::string(static_cast<std::size_t>(i % 13), 'x') + "\n";
    for (const bool open_end : {false, true}) {
        for (const bool compressed : {false, true}) {
            const auto path = write("t", open_end ? text + "last" : text, compressed);
            const ByteFile file(comm, path);
            EXPECT_EQ(file.size(), static_cast<Index>(text.size()) + (open_end ? 4 : 0));
            EXPECT_EQ(lines_of(file, 5), text.substr(5) + (open_end ? "last" : ""));
            comm.barrier();
        }
    }
}

TEST_F(TextReader, LinesLongerThanARanksShareStayWhole) {
    const std::string text = "a\n" + std::string(200000, 'b') + "\nc\n";
    for (const bool compressed : {false, true}) {
        const ByteFile file(comm, write("t", text, compressed));
        EXPECT_EQ(lines_of(file, 0), text);
        EXPECT_EQ(file.first_lines(3).size(), 3U);
        comm.barrier();
    }
}

TEST_F(TextReader, BadLinesAreCountedAndTheFirstIsShown) {
    std::string text;
    for (int i = 1; i <= 50; ++i)
        text += (i % 20 == 0 ? "oops " : "fine ") + std::to_string(i) + "\n";
    const auto path = write("t", text, false);
    const ByteFile file(comm, path);
    const std::string mine = file.range(file.my_lines(0));
    BadLines bad;
    for_each_line(mine, [&](std::string_view line, Index number) {
        if (line.starts_with("oops")) bad.add(number, line, "not fine");
    });
    const auto message = expect_error(Fault::input, [&] { bad.check(comm, path, mine, 0); });
    EXPECT_NE(message.find(path + ":20: not fine: `oops 20` (2 bad lines in all)"),
              std::string::npos)
        << message;
}

TEST_F(TextReader, DamagedAndForeignCompressionIsNamed) {
    std::string text;
    for (int i = 0; i < 5000; ++i) text += std::to_string(i * 7919) + "\n";
    const auto path = write("t.gz", text, true);
    if (comm.is_root()) {
        std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
    }
    const auto other = write("t.bz2", "BZh91AY&SY", false);
    EXPECT_NE(expect_error(Fault::input, [&] { ByteFile(comm, path); }).find("truncated gzip"),
              std::string::npos);
    EXPECT_NE(expect_error(Fault::input, [&] { ByteFile(comm, other); }).find("not with gzip"),
              std::string::npos);
    EXPECT_NE(expect_error(Fault::input, [&] { ByteFile(comm, path + ".none"); }).find("No such"),
              std::string::npos);
}

TEST(Fields, AreCutAtTheDelimiterWithoutSpacesAndQuotes) {
    std::vector<std::string_view> f;
    EXPECT_TRUE(split_fields("1::22::3", {"::"}, f));
    EXPECT_EQ(f, (std::vector<std::string_view>{"1", "22", "3"}));
    EXPECT_TRUE(split_fields(" a , \"b,c\" ,, d", {","}, f));
    EXPECT_EQ(f, (std::vector<std::string_view>{"a", "b,c", "", "d"}));
    EXPECT_TRUE(split_fields("  1 \t 2  ", {}, f));
    EXPECT_EQ(f, (std::vector<std::string_view>{"1", "2"}));
    EXPECT_FALSE(split_fields("\"a,b", {","}, f));
    EXPECT_FALSE(split_fields("\"a\"\"b\",c", {","}, f));
}

TEST(Numbers, AreTheWholeFieldOrNone) {
    double real = 0;
    std::int64_t whole = 0;
    EXPECT_TRUE(parse_number("-1.5e3", real));
    EXPECT_EQ(real, -1500.0);
    EXPECT_TRUE(parse_number("+2", real));
    EXPECT_FALSE(parse_number("2x", real));
    EXPECT_FALSE(parse_number("", real));
    EXPECT_FALSE(parse_number("1e999", real));
    EXPECT_TRUE(parse_number("9223372036854775807", whole));
    EXPECT_FALSE(parse_number("9223372036854775808", whole));
    EXPECT_FALSE(parse_number("1.0", whole));
}

}  // namespace rankfold::test
