// Text (and other sequential) files read in parallel, plain or compressed with gzip.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <rankfold/comm/communicator.hpp>

namespace rankfold {

/// The bytes of a file that is plain or gzip'd; the ranks read different parts of it.
///
/// A plain file is read in place, each rank its own ranges. A gzip file is inflated by rank 0,
/// which holds all of it and hands out what the others ask for. All calls are collective.
class ByteFile {
public:
    /// @throws Error (Fault::input), agreed: absent, unreadable, damaged or truncated gzip
    ByteFile(const Communicator& comm, const std::string& path);
    ~ByteFile();
    ByteFile(const ByteFile&) = delete;
    ByteFile& operator=(const ByteFile&) = delete;

    [[nodiscard]] const Communicator& comm() const noexcept { return comm_; }
    [[nodiscard]] const std::string& path() const noexcept { return path_; }
    /// Bytes, after inflating.
    [[nodiscard]] Index size() const noexcept { return size_; }

    /// The first `bytes` bytes (or all), on every rank.
    [[nodiscard]] std::string head(Index bytes) const;
    /// The first `lines` whole lines (or all), on every rank.
    [[nodiscard]] std::vector<std::string> first_lines(Index lines) const;
    /// Each rank its own range. @pre within the file
    [[nodiscard]] std::string range(Range mine) const;

    /// Where this rank's lines begin and end when the bytes from `from` on are shared out evenly;
    /// no line is cut, and the ranks' ranges follow each other.
    [[nodiscard]] Range my_lines(Index from) const;

private:
    [[nodiscard]] std::string read_plain(Range part) const;
    [[nodiscard]] Index line_start(Index offset) const;

    const Communicator& comm_;
    std::string path_;
    bool compressed_ = false;
    int file_ = -1;
    std::string inflated_;  // on rank 0 of a compressed file
    Index size_ = 0;
};

/// Calls line(text, number) for every line of `text`, counting from 0; line ends are taken off.
void for_each_line(std::string_view text,
                   const std::function<void(std::string_view line, Index number)>& line);

/// Collects the lines of a file that cannot be read, for one error about all of them.
class BadLines {
public:
    /// @param number  of the line on this rank
    void add(Index number, std::string_view line, const std::string& why);

    /// Throws, if there are bad lines on any rank, an agreed Error (Fault::input) with file and
    /// number of the first, the line, and the count of all.
    ///
    /// @param text    this rank's lines
    /// @param before  lines of the file before those of rank 0
    /// @collective over comm
    void check(const Communicator& comm, const std::string& path, std::string_view text,
               Index before) const;

private:
    Index count_ = 0;
    Index first_ = 0;
    std::string line_;
    std::string why_;
};

/// What separates the fields of a line: a text, or (empty) any run of spaces and tabs.
struct Delimiter {
    std::string text;
};

/// Cuts a line into fields without surrounding spaces; a field in double quotes may hold the
/// delimiter. False if a quote is not closed, or quotes stand inside quotes.
[[nodiscard]] bool split_fields(std::string_view line, const Delimiter& delimiter,
                                std::vector<std::string_view>& fields);

/// The text without surrounding spaces.
[[nodiscard]] std::string_view trimmed(std::string_view text);

/// The number that is the whole of `text`. False if it is none.
[[nodiscard]] bool parse_number(std::string_view text, double& number);
[[nodiscard]] bool parse_number(std::string_view text, std::int64_t& number);

}  // namespace rankfold
