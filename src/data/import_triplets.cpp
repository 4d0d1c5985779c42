#include <algorithm>

#include "import_parts.hpp"

namespace rankfold {

namespace {

/// One line of triplets. Returns why it is bad, or "".
template <Real R>
std::string add_triplet(const std::vector<std::string_view>& fields, const ImportOptions& options,
                        Collected<R>& collected, TripletPart& part) {
    if (fields[0].empty() || fields[1].empty()) return "an id is empty";
    double value = 1.0;
    if (fields.size() > 2 && !parse_number(fields[2], value)) {
        return concat("the value `", fields[2], "` is not a number");
    }
    if (!transform(value, options)) return "the value is not finite (after --shift and --value)";
    if (fields.size() > 3) {
        std::int64_t time = 0;
        double real = 0.0;
        if (!parse_number(fields[3], time)) {
            constexpr double most = 9e15;  // integers below are exact in a double
            if (!parse_number(fields[3], real) || real != std::floor(real) ||
                std::abs(real) > most) {
                return concat("the time `", fields[3], "` is not an integer");
            }
            time = static_cast<std::int64_t>(real);
        }
        part.times.push_back(time);
    }
    part.rows.push_back(collected.row_ids.code(fields[0]));
    part.cols.push_back(collected.col_ids.code(fields[1]));
    part.values.push_back(value);
    return "";
}

/// The number whose digits stand at `at`, which is moved behind them: at most 15, and no needless
/// zero in front.
bool plain_integer(const char*& at, const char* end, std::int64_t& number) {
    constexpr std::ptrdiff_t most_digits = 15;
    const char* first = at;
    const char* last = std::min(end, first + most_digits + 1);
    number = 0;
    while (at < last && *at >= '0' && *at <= '9') number = 10 * number + (*at++ - '0');
    const auto digits = at - first;
    return digits > 0 && digits <= most_digits && (*first != '0' || digits == 1);
}

/// A number like 4 or 3.75 of at most 15 digits, as exact as any reader gives it: a quotient of two
/// integers that doubles hold exactly.
bool plain_decimal(const char*& at, const char* end, double& value) {
    constexpr double powers[] = {1e0, 1e1, 1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};
    constexpr std::ptrdiff_t most_digits = 15;
    const char* first = at;
    const char* last = std::min(end, first + most_digits + 2);
    std::int64_t number = 0;
    while (at < last && *at >= '0' && *at <= '9') number = 10 * number + (*at++ - '0');
    const std::ptrdiff_t whole = at - first;
    std::ptrdiff_t places = 0;
    if (at < last && *at == '.') {
        const char* point = ++at;
        while (at < last && *at >= '0' && *at <= '9') number = 10 * number + (*at++ - '0');
        places = at - point;
    }
    if (whole == 0 || whole + places > most_digits) return false;
    value = static_cast<double>(number) / powers[places];
    return true;
}

/// Reads a line of plain integers and a plain number, as almost all lines are. False for any other
/// line, which leaves everything as it was; add_triplet reads it then.
template <Real R>
bool add_plain_triplet(std::string_view line, std::string_view by, std::size_t columns,
                       const ImportOptions& options, Collected<R>& collected, TripletPart& part) {
    const char* at = line.data();
    const char* end = at + line.size();
    const auto next = [&] {
        if (static_cast<std::size_t>(end - at) < by.size()) return false;
        if (std::string_view(at, by.size()) != by) return false;
        at += by.size();
        return true;
    };
    std::int64_t row = 0;
    std::int64_t col = 0;
    std::int64_t time = 0;
    double value = 1.0;
    if (!plain_integer(at, end, row) || !next() || !plain_integer(at, end, col)) return false;
    if (columns > 2 && (!next() || !plain_decimal(at, end, value))) return false;
    if (columns > 3 && (!next() || !plain_integer(at, end, time))) return false;
    if (at != end || !transform(value, options)) return false;
    if (columns > 3) part.times.push_back(time);
    part.rows.push_back(collected.row_ids.code(row));
    part.cols.push_back(collected.col_ids.code(col));
    part.values.push_back(value);
    return true;
}

/// Cuts `(row,item)` into its two ids. False if it is not of this form.
bool parse_pair(std::string_view field, std::string_view& row) {
    if (field.size() < 5 || field.front() != '(' || field.back() != ')') return false;
    const std::size_t comma = field.find(',');
    if (comma == std::string_view::npos) return false;
    row = trimmed(field.substr(1, comma - 1));
    return !row.empty();
}

struct MarketHeader {
    bool coordinate = true;
    bool pattern = false;
    bool symmetric = false;
    double mirror = 1.0;  // −1 for skew-symmetric
    Index rows = 0;
    Index cols = 0;
    Index entries = 0;
    Index skip_bytes = 0;
    Index skip_lines = 0;
    Index comments = 0;
};

MarketHeader parse_banner(std::string_view line, const std::string& path) {
    std::string lower(line);
    std::ranges::transform(lower, lower.begin(), [](unsigned char c) { return std::tolower(c); });
    std::vector<std::string_view> words;
    static_cast<void>(split_fields(lower, {}, words));
    const auto fail = [&](const std::string& why) {
        return input_error(path, ":1: ", why, ": `", std::string(line), "`");
    };
    if (words.size() != 5 || words[0] != "%%matrixmarket" || words[1] != "matrix") {
        throw fail("this is no MatrixMarket heading");
    }
    MarketHeader header;
    header.coordinate = words[2] == "coordinate";
    if (!header.coordinate && words[2] != "array") throw fail("neither coordinate nor array");
    header.pattern = words[3] == "pattern";
    if (!header.pattern && words[3] != "real" && words[3] != "integer" && words[3] != "double") {
        throw fail("only real, integer and pattern matrices can be imported");
    }
    header.symmetric = words[4] != "general";
    header.mirror = words[4] == "skew-symmetric" ? -1.0 : 1.0;
    if (header.symmetric && words[4] != "symmetric" && words[4] != "skew-symmetric") {
        throw fail("only general, symmetric and skew-symmetric matrices can be imported");
    }
    if (!header.coordinate && (header.symmetric || header.pattern)) {
        throw fail("only general real or integer arrays can be imported");
    }
    return header;
}

/// Reads banner, comments and the line of sizes. False if `text` ends before.
bool parse_market_header(std::string_view text, const std::string& path, MarketHeader& header) {
    std::size_t begin = 0;
    for (Index number = 0; begin < text.size(); ++number) {
        const std::size_t end = text.find('\n', begin);
        if (end == std::string_view::npos) return false;
        std::string_view line = text.substr(begin, end - begin);
        if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
        begin = end + 1;
        if (number == 0) {
            header = parse_banner(line, path);
            continue;
        }
        line = trimmed(line);
        if (line.empty()) continue;
        if (line.front() == '%') {
            ++header.comments;
            continue;
        }
        std::vector<std::string_view> fields;
        static_cast<void>(split_fields(line, {}, fields));
        bool good = fields.size() == (header.coordinate ? 3U : 2U) &&
                    parse_number(fields[0], header.rows) && parse_number(fields[1], header.cols);
        if (good && header.coordinate) good = parse_number(fields[2], header.entries);
        constexpr Index most = std::numeric_limits<ColIndex>::max();
        if (!good || header.rows < 1 || header.cols < 1 || header.entries < 0 ||
            header.rows > most || header.cols > most ||
            (header.symmetric && header.rows != header.cols)) {
            throw input_error(path, ":", number + 1, ": this is no line of sizes for such a matrix",
                              ": `", line, "`");
        }
        if (!header.coordinate) header.entries = header.rows * header.cols;
        header.skip_bytes = static_cast<Index>(begin);
        header.skip_lines = number + 1;
        return true;
    }
    return false;
}

MarketHeader read_market_header(const ByteFile& file) {
    MarketHeader header;
    for (Index bytes = 65536;; bytes *= 8) {
        const std::string text = file.head(bytes);
        if (parse_market_header(text, file.path(), header)) return header;
        if (static_cast<Index>(text.size()) == file.size()) {
            throw input_error("'", file.path(), "' ends before the sizes of the matrix");
        }
    }
}

/// One line of coordinates. Returns why it is bad, or "".
std::string add_coordinates(const std::vector<std::string_view>& fields, const MarketHeader& header,
                            const ImportOptions& options, Index first_row,
                            std::vector<Entry>& entries) {
    if (fields.size() != (header.pattern ? 2U : 3U)) {
        return concat(fields.size(), " fields where ", header.pattern ? 2 : 3, " are expected");
    }
    Index row = 0;
    Index col = 0;
    double value = 1.0;
    if (!parse_number(fields[0], row) || !parse_number(fields[1], col)) {
        return "row and column must be integers";
    }
    if (row < 1 || row > header.rows || col < 1 || col > header.cols) {
        return concat("the place is outside of the ", header.rows, " x ", header.cols, " matrix");
    }
    if (!header.pattern && !parse_number(fields[2], value)) {
        return concat("the value `", fields[2], "` is not a number");
    }
    double mirrored = header.mirror * value;
    if (!transform(value, options) || !transform(mirrored, options)) {
        return "the value is not finite (after --shift and --value)";
    }
    entries.push_back({first_row + row - 1, static_cast<ColIndex>(col - 1), 0, value, 0});
    if (header.symmetric && row != col) {
        entries.push_back({first_row + col - 1, static_cast<ColIndex>(row - 1), 0, mirrored, 0});
    }
    return "";
}

/// Values of an array, column by column, as rows: every element goes to the owner of its row.
template <Real R>
DensePart<R> place_array(const Communicator& comm, const MarketHeader& header, Index first_row,
                         const std::vector<double>& values) {
    const ShardLayout layout = ShardLayout::even(header.rows, comm.size(), comm.size());
    const Index first = comm.exclusive_scan(static_cast<Index>(values.size()));
    std::vector<std::vector<Entry>> to(static_cast<std::size_t>(comm.size()));
    for (std::size_t t = 0; t < values.size(); ++t) {
        const Index element = first + static_cast<Index>(t);
        const Index row = element % header.rows;
        to[static_cast<std::size_t>(layout.owner(row))].push_back(
            {row, static_cast<ColIndex>(element / header.rows), 0, values[t], 0});
    }
    std::vector<Entry> send;
    std::vector<Index> counts;
    for (auto& part : to) {
        counts.push_back(static_cast<Index>(part.size()));
        send.insert(send.end(), part.begin(), part.end());
        part = {};
    }
    const auto received = comm.all_to_all(std::span<const Entry>(send), counts);
    const Range mine = layout.rank_rows(comm.rank());
    DensePart<R> part{.first = first_row, .rows = mine.size(), .values = {}};
    part.values.resize(static_cast<std::size_t>(mine.size() * header.cols));
    for (const Entry& e : received) {
        part.values[static_cast<std::size_t>((e.row - mine.begin) * header.cols + e.col)] =
            static_cast<R>(e.value);
    }
    return part;
}

}  // namespace

template <Real R>
void read_triplets(const ByteFile& file, const SourcePlan& plan, const ImportOptions& options,
                   Collected<R>& collected) {
    const std::size_t columns = plan.first.size();
    if (columns < 2 || columns > 4) {
        throw input_error(file.path(), ":", plan.skip_lines + 1, ": ", columns,
                          " fields where row, column, value and time are expected (2 to 4); for a "
                          "matrix written out in full give --format table");
    }
    const std::string text = file.range(file.my_lines(plan.skip_bytes));
    TripletPart part;
    BadLines bad;
    std::vector<std::string_view> fields;
    const std::string& by = plan.delimiter.text;
    for_each_line(text, [&](std::string_view line, Index number) {
        if (!by.empty() && add_plain_triplet(line, by, columns, options, collected, part)) return;
        if (trimmed(line).empty()) return;
        std::string why;
        if (!split_fields(line, plan.delimiter, fields)) {
            why = "quotes are not closed, or doubled";
        } else if (fields.size() != columns) {
            why = concat(fields.size(), " fields where ", columns, " are expected");
        } else {
            why = add_triplet(fields, options, collected, part);
        }
        if (!why.empty()) bad.add(number, line, why);
    });
    bad.check(file.comm(), file.path(), text, plan.skip_lines);
    collected.counts.lines +=
        file.comm().all_reduce(static_cast<Index>(part.rows.size()), Reduce::sum);
    collected.triplets.push_back(std::move(part));
}

template <Real R>
void read_negatives(const ByteFile& file, const SourcePlan& plan, const ImportOptions& options,
                    Collected<R>& collected) {
    const std::string text = file.range(file.my_lines(plan.skip_bytes));
    TripletPart part;
    BadLines bad;
    Index lines = 0;
    std::vector<std::string_view> fields;
    double one = 1.0;
    static_cast<void>(transform(one, options));
    for_each_line(text, [&](std::string_view line, Index number) {
        if (trimmed(line).empty()) return;
        static_cast<void>(split_fields(line, {"\t"}, fields));
        std::string_view row;
        if (!parse_pair(fields[0], row)) {
            bad.add(number, line, "it does not begin with `(row,column)` and a tab");
            return;
        }
        ++lines;
        while (fields.size() > 1 && fields.back().empty()) fields.pop_back();
        const ColIndex code = collected.row_ids.code(row);
        for (std::size_t f = 1; f < fields.size(); ++f) {
            if (fields[f].empty()) {
                bad.add(number, line, concat("field ", f + 1, " is empty"));
                return;
            }
            part.rows.push_back(code);
            part.cols.push_back(collected.col_ids.code(fields[f]));
            part.values.push_back(one);
        }
    });
    bad.check(file.comm(), file.path(), text, plan.skip_lines);
    collected.counts.lines += file.comm().all_reduce(lines, Reduce::sum);
    collected.triplets.push_back(std::move(part));
}

template <Real R>
void read_matrix_market(const ByteFile& file, const ImportOptions& options,
                        Collected<R>& collected) {
    const Communicator& comm = file.comm();
    const MarketHeader header = read_market_header(file);
    collected.expect_cols(header.cols, file.path());
    collected.counts.comments += header.comments;
    const std::string text = file.range(file.my_lines(header.skip_bytes));
    std::vector<Entry> entries;
    std::vector<double> values;
    Index lines = 0;
    BadLines bad;
    std::vector<std::string_view> fields;
    for_each_line(text, [&](std::string_view line, Index number) {
        static_cast<void>(split_fields(line, {}, fields));
        if (fields.empty()) return;
        ++lines;
        std::string why;
        if (header.coordinate) {
            why = add_coordinates(fields, header, options, collected.rows, entries);
        } else {
            double value = 0.0;
            const bool good = fields.size() == 1 && parse_number(fields[0], value) &&
                              transform(value, options) && std::isfinite(static_cast<R>(value));
            if (!good) why = "this is not one number";
            values.push_back(value);
        }
        if (!why.empty()) bad.add(number, line, why);
    });
    bad.check(comm, file.path(), text, header.skip_lines);
    const Index found = comm.all_reduce(lines, Reduce::sum);
    if (found != header.entries) {
        throw input_error("'", file.path(), "' says that it has ", header.entries,
                          " entries, and has ", found,
                          " lines of them; it is truncated or damaged");
    }
    collected.counts.lines += found;
    if (header.coordinate) {
        collected.entries.push_back(std::move(entries));
    } else {
        collected.bytes = false;
        collected.dense.push_back(place_array<R>(comm, header, collected.rows, values));
    }
    collected.rows += header.rows;
}

#define RANKFOLD_INSTANTIATE(R)                                                            \
    template void read_triplets(const ByteFile&, const SourcePlan&, const ImportOptions&,  \
                                Collected<R>&);                                            \
    template void read_negatives(const ByteFile&, const SourcePlan&, const ImportOptions&, \
                                 Collected<R>&);                                           \
    template void read_matrix_market(const ByteFile&, const ImportOptions&, Collected<R>&);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
