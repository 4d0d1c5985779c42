#include <rankfold/data/text_reader.hpp>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <optional>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

namespace rankfold {

namespace {

constexpr Index most_per_read = Index{1} << 30;
constexpr unsigned inflate_block = 1U << 20;
constexpr Index longest_line_shown = 200;

std::string inflate_all(const std::string& path) {
    const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), gzclose);
    if (!file) throw input_error("cannot read '", path, "': ", std::strerror(errno));
    gzbuffer(file.get(), inflate_block);
    std::string text;
    for (;;) {
        const std::size_t before = text.size();
        text.resize(before + inflate_block);
        const int got = gzread(file.get(), text.data() + before, inflate_block);
        int code = Z_OK;
        const char* reason = gzerror(file.get(), &code);
        if (got < 0 || code != Z_OK) {
            throw input_error("'", path, "' is damaged or truncated gzip (", reason,
                              "); get it anew");
        }
        text.resize(before + static_cast<std::size_t>(got));
        if (got == 0) return text;
    }
}

/// Opens a file and says if it is gzip. @throws Error (Fault::input)
int open_bytes(const std::string& path, bool& compressed, Index& size) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat about {};
    if (file < 0 || ::fstat(file, &about) != 0) {
        throw input_error("cannot read '", path, "': ", std::strerror(errno),
                          "; check the name and its permissions");
    }
    if (!S_ISREG(about.st_mode)) {
        ::close(file);
        throw input_error("cannot read '", path, "': it is not a regular file");
    }
    size = about.st_size;
    unsigned char magic[4] = {};
    const auto got = ::pread(file, magic, sizeof magic, 0);
    compressed = got >= 2 && magic[0] == 0x1f && magic[1] == 0x8b;
    const bool other = got == 4 && (std::memcmp(magic, "BZh", 3) == 0 ||
                                    std::memcmp(magic,
                                                "\xfd"
                                                "7zX",
                                                4) == 0 ||
                                    std::memcmp(magic, "\x28\xb5\x2f\xfd", 4) == 0 ||
                                    std::memcmp(magic, "PK\x03\x04", 4) == 0);
    if (other) {
        ::close(file);
        throw input_error("'", path, "' is compressed, and not with gzip; unpack it first");
    }
    return file;
}

}  // namespace

ByteFile::ByteFile(const Communicator& comm, const std::string& path) : comm_{comm}, path_{path} {
    try {
        comm.agree([&] { file_ = open_bytes(path, compressed_, size_); });
        comm.agree([&] {
            if (compressed_ && comm.is_root()) inflated_ = inflate_all(path);
        });
    } catch (const Error&) {
        if (file_ >= 0) ::close(file_);
        throw;
    }
    if (compressed_) {
        size_ = static_cast<Index>(inflated_.size());
        comm.broadcast(std::span<Index>(&size_, 1));
    }
}

ByteFile::~ByteFile() {
    ::close(file_);
}

std::string ByteFile::read_plain(Range part) const {
    std::string text(static_cast<std::size_t>(part.size()), '\0');
    Index done = 0;
    while (done < part.size()) {
        const auto wanted = static_cast<std::size_t>(std::min(most_per_read, part.size() - done));
        const auto got = ::pread(file_, text.data() + done, wanted, part.begin + done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            throw input_error("cannot read '", path_, "' at byte ", part.begin + done, ": ",
                              got < 0 ? std::strerror(errno) : "it became shorter");
        }
        done += got;
    }
    return text;
}

std::string ByteFile::head(Index bytes) const {
    const Range part{0, std::min(bytes, size_)};
    std::string text;
    comm_.agree([&] {
        if (!comm_.is_root()) return;
        text = compressed_ ? inflated_.substr(0, static_cast<std::size_t>(part.end))
                           : read_plain(part);
    });
    comm_.broadcast(text);
    return text;
}

std::vector<std::string> ByteFile::first_lines(Index lines) const {
    for (Index bytes = 65536;; bytes *= 8) {
        std::string text = head(bytes);
        const bool whole = static_cast<Index>(text.size()) == size_;
        if (!whole && std::ranges::count(text, '\n') < lines) continue;
        std::vector<std::string> found;
        for_each_line(text, [&](std::string_view line, Index number) {
            if (number < lines) found.emplace_back(line);
        });
        return found;
    }
}

std::string ByteFile::range(Range mine) const {
    RANKFOLD_EXPECT(mine.begin >= 0 && mine.begin <= mine.end && mine.end <= size_);
    std::string text;
    if (!compressed_) {
        comm_.agree([&] { text = read_plain(mine); });
        return text;
    }
    const auto wanted = comm_.all_gather(mine);
    std::string send;
    std::vector<Index> send_counts(wanted.size(), 0);
    comm_.agree([&] {
        if (!comm_.is_root()) return;
        for (std::size_t q = 0; q < wanted.size(); ++q) {
            send.append(inflated_, static_cast<std::size_t>(wanted[q].begin),
                        static_cast<std::size_t>(wanted[q].size()));
            send_counts[q] = wanted[q].size();
        }
    });
    std::vector<Index> recv_counts(wanted.size(), 0);
    recv_counts[0] = mine.size();
    text.resize(static_cast<std::size_t>(mine.size()));
    comm_.all_to_all(std::span<const char>(send), send_counts, std::span<char>(text), recv_counts);
    return text;
}

Index ByteFile::line_start(Index offset) const {
    if (offset == 0 || offset >= size_) return std::min(offset, size_);
    if (compressed_) {
        const auto end = inflated_.find('\n', static_cast<std::size_t>(offset - 1));
        return end == std::string::npos ? size_ : static_cast<Index>(end) + 1;
    }
    for (Index from = offset - 1; from < size_; from += 65536) {
        const std::string text = read_plain({from, std::min(size_, from + 65536)});
        const auto end = text.find('\n');
        if (end != std::string::npos) return from + static_cast<Index>(end) + 1;
    }
    return size_;
}

Range ByteFile::my_lines(Index from) const {
    std::vector<Index> starts;
    const auto start_of = [&](int rank) {
        const Index share = even_part(size_ - from, comm_.size(), rank).begin;
        return share == 0 ? from : line_start(from + share);
    };
    if (compressed_) {
        starts.resize(static_cast<std::size_t>(comm_.size()));
        for (int q = 0; comm_.is_root() && q < comm_.size(); ++q) {
            starts[static_cast<std::size_t>(q)] = start_of(q);
        }
        comm_.broadcast(std::span<Index>(starts));
    } else {
        Index mine = 0;
        comm_.agree([&] { mine = start_of(comm_.rank()); });
        starts = comm_.all_gather(mine);
    }
    starts.push_back(size_);
    const auto rank = static_cast<std::size_t>(comm_.rank());
    return {starts[rank], starts[rank + 1]};
}

void for_each_line(std::string_view text,
                   const std::function<void(std::string_view line, Index number)>& line) {
    Index number = 0;
    std::size_t begin = 0;
    while (begin < text.size()) {
        const std::size_t end = std::min(text.find('\n', begin), text.size());
        std::string_view one = text.substr(begin, end - begin);
        if (!one.empty() && one.back() == '\r') one.remove_suffix(1);
        line(one, number++);
        begin = end + 1;
    }
}

void BadLines::add(Index number, std::string_view line, const std::string& why) {
    if (count_++ > 0) return;
    first_ = number;
    line_ = line.substr(0, longest_line_shown);
    if (line.size() > static_cast<std::size_t>(longest_line_shown)) line_ += "…";
    why_ = why;
}

void BadLines::check(const Communicator& comm, const std::string& path, std::string_view text,
                     Index before) const {
    const Index total = comm.all_reduce(count_, Reduce::sum);
    if (total == 0) return;
    const bool open_end = !text.empty() && text.back() != '\n';
    const Index lines = static_cast<Index>(std::ranges::count(text, '\n')) + (open_end ? 1 : 0);
    const Index first = before + comm.exclusive_scan(lines) + first_ + 1;
    std::optional<Error> mine;
    if (count_ > 0) {
        mine = input_error(path, ":", first, ": ", why_, ": `", line_, "` (", total,
                           total == 1 ? " bad line in all)" : " bad lines in all)",
                           "; mend the file or choose another --format");
    }
    comm.agree(mine);
}

bool split_fields(std::string_view line, const Delimiter& delimiter,
                  std::vector<std::string_view>& fields) {
    fields.clear();
    const std::string& by = delimiter.text;
    if (by.empty()) {
        std::size_t at = line.find_first_not_of(" \t");
        while (at != std::string_view::npos) {
            const std::size_t end = std::min(line.find_first_of(" \t", at), line.size());
            fields.push_back(line.substr(at, end - at));
            at = line.find_first_not_of(" \t", end);
        }
        return true;
    }
    std::size_t at = 0;
    for (;;) {
        const std::size_t quote = line.find_first_not_of(' ', at);
        if (quote != std::string_view::npos && line[quote] == '"') {
            const std::size_t close = line.find('"', quote + 1);
            if (close == std::string_view::npos) return false;
            fields.push_back(line.substr(quote + 1, close - quote - 1));
            at = line.find_first_not_of(' ', close + 1);
            if (at == std::string_view::npos) return true;
            if (line.substr(at, by.size()) != by) return false;
            at += by.size();
            continue;
        }
        const std::size_t end = by.size() == 1 ? line.find(by[0], at) : line.find(by, at);
        if (end == std::string_view::npos) {
            fields.push_back(trimmed(line.substr(at)));
            return true;
        }
        fields.push_back(trimmed(line.substr(at, end - at)));
        at = end + by.size();
    }
}

std::string_view trimmed(std::string_view text) {
    while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
    while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
    return text;
}

bool parse_number(std::string_view text, double& number) {
    if (text.size() > 1 && text.front() == '+') text.remove_prefix(1);
    const char* end = text.data() + text.size();
    const auto result = std::from_chars(text.data(), end, number);
    return !text.empty() && result.ec == std::errc{} && result.ptr == end;
}

bool parse_number(std::string_view text, std::int64_t& number) {
    const char* end = text.data() + text.size();
    const auto result = std::from_chars(text.data(), end, number);
    return !text.empty() && result.ec == std::errc{} && result.ptr == end;
}

}  // namespace rankfold
