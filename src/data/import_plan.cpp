#include <algorithm>
#include <cstring>

#include "import_parts.hpp"

namespace rankfold {

namespace {

using Fields = std::vector<std::string>;

constexpr std::string_view byte_order_mark = "\xEF\xBB\xBF";

/// The first lines of a text: comments counted, then up to two lines with where they begin.
struct Opening {
    Index comments = 0;
    Index lines = 0;  // before the first of `texts`, comments and blank ones
    std::vector<std::string> texts;
    std::vector<Index> begins;   // and, last, where the line after the last begins
    std::vector<Index> numbers;  // lines before each, and before what follows
};

/// False if `text`, which is not the whole file, is too short to tell.
bool scan_opening(std::string_view text, bool whole, Opening& opening) {
    opening = {};
    std::size_t begin = text.starts_with(byte_order_mark) ? byte_order_mark.size() : 0;
    Index number = 0;
    while (begin < text.size() && opening.texts.size() < 2) {
        std::size_t end = text.find('\n', begin);
        if (end == std::string_view::npos) {
            if (!whole) return false;
            end = text.size();
        }
        const std::string_view line = trimmed(text.substr(begin, end - begin));
        const bool comment = opening.texts.empty() && line.starts_with('#');
        if (comment) ++opening.comments;
        if (!comment && !line.empty() && line != "\r") {
            opening.texts.emplace_back(line.back() == '\r' ? line.substr(0, line.size() - 1)
                                                           : line);
            opening.begins.push_back(static_cast<Index>(begin));
            opening.numbers.push_back(number);
        }
        begin = end + 1;
        ++number;
    }
    opening.begins.push_back(static_cast<Index>(std::min(begin, text.size())));
    opening.numbers.push_back(number);
    return whole || opening.texts.size() == 2;
}

Opening read_opening(const ByteFile& file) {
    Opening opening;
    for (Index bytes = 65536;; bytes *= 8) {
        const std::string text = file.head(bytes);
        if (scan_opening(text, static_cast<Index>(text.size()) == file.size(), opening)) {
            return opening;
        }
    }
}

bool has(const std::string& line, const char* what) {
    return line.find(what) != std::string::npos;
}

/// What separates fields: the format may say which of several signs in the line it is.
Delimiter delimiter_of(const std::string& line, Format format) {
    std::vector<const char*> candidates{"::", "\t", ",", ";"};
    if (format == Format::csv) candidates = {",", ";", "\t"};
    if (format == Format::tsv) candidates = {"\t"};
    for (const char* by : candidates) {
        if (has(line, by)) return {by};
    }
    return {};
}

Fields fields_of(const std::string& line, const Delimiter& delimiter) {
    std::vector<std::string_view> parts;
    if (!split_fields(line, delimiter, parts)) return {line};
    return {parts.begin(), parts.end()};
}

bool is_number(const std::string& field) {
    double number = 0.0;
    return parse_number(field, number);
}

bool is_table(const ImportOptions& options, const Fields& fields) {
    return !options.label_column.empty() || options.missing || !options.drop_columns.empty() ||
           !options.labels.empty() || fields.size() < 2 || fields.size() > 4;
}

Format text_format(const ImportOptions& options, const std::string& line,
                   const Delimiter& delimiter) {
    if (line.starts_with('(') && has(line, ")\t")) return Format::ncf;
    if (is_table(options, fields_of(line, delimiter))) return Format::table;
    if (delimiter.text == "::") return Format::movielens;
    return delimiter.text == "\t" ? Format::tsv : Format::csv;
}

/// The rule of Heading::automatic: no number where the next line has one.
bool is_heading(const ImportOptions& options, Format format, const Fields& first,
                const Fields& second) {
    if (options.heading != Heading::automatic) return options.heading == Heading::yes;
    if (format == Format::table) {
        for (std::size_t f = 0; f < std::min(first.size(), second.size()); ++f) {
            const bool no_entry = options.missing && first[f] == *options.missing;
            if (!is_number(first[f]) && !no_entry && is_number(second[f])) return true;
        }
        return false;
    }
    if (first.size() >= 3) return !is_number(first[2]);
    for (std::size_t f = 0; f < std::min(first.size(), second.size()); ++f) {
        if (!is_number(first[f]) && is_number(second[f])) return true;
    }
    return false;
}

/// True for IDX: two zero bytes, an element type and at most four dimensions.
bool is_idx(std::string_view head) {
    return head.size() > 4 && head[0] == 0 && head[1] == 0 && head[2] >= 8 && head[2] <= 14 &&
           head[3] >= 1 && head[3] <= 4;
}

}  // namespace

SourcePlan plan_source(const ByteFile& file, const ImportOptions& options) {
    SourcePlan plan;
    plan.format = options.format;
    if (file.size() == 0) throw input_error("'", file.path(), "' is empty");
    const std::string head = file.head(64);
    if (plan.format == Format::automatic) {
        if (head.starts_with("\x93NUMPY")) plan.format = Format::npy;
        if (is_idx(head)) plan.format = Format::idx;
        if (head.starts_with("%%MatrixMarket")) plan.format = Format::matrix_market;
        if (head.starts_with("\x89HDF\r\n")) {
            throw input_error("'", file.path(),
                              "' is HDF5: it needs no import if it has AnnData's "
                              "layout, and cannot be imported otherwise");
        }
    }
    if (plan.format == Format::npy || plan.format == Format::idx ||
        plan.format == Format::matrix_market) {
        return plan;
    }
    if (std::memchr(head.data(), 0, head.size()) != nullptr) {
        throw input_error("'", file.path(),
                          "' is neither text nor a known binary format; known "
                          "are .npy, IDX, MatrixMarket and delimited text");
    }
    if (plan.format == Format::text) {
        if (head.starts_with(byte_order_mark)) {
            plan.skip_bytes = static_cast<Index>(byte_order_mark.size());
        }
        return plan;
    }
    const Opening opening = read_opening(file);
    if (opening.texts.empty()) throw input_error("'", file.path(), "' has no line of data");
    plan.comments = opening.comments;
    plan.delimiter = delimiter_of(opening.texts[0], options.format);
    if (plan.format == Format::automatic) {
        plan.format = text_format(options, opening.texts[0], plan.delimiter);
    }
    Fields first = fields_of(opening.texts[0], plan.delimiter);
    const bool more = opening.texts.size() > 1;
    const Fields second = more ? fields_of(opening.texts[1], plan.delimiter) : Fields{};
    std::size_t data = 0;
    if (plan.format != Format::ncf && is_heading(options, plan.format, first, second)) {
        if (!more) throw input_error("'", file.path(), "' has a heading but no line of data");
        plan.heading = std::move(first);
        first = second;
        data = 1;
    }
    plan.first = std::move(first);
    plan.skip_bytes = opening.begins[data];
    plan.skip_lines = opening.numbers[data];
    return plan;
}

TableColumns table_columns(const ImportOptions& options, Index fields, const std::string& path) {
    TableColumns columns;
    columns.role.assign(static_cast<std::size_t>(fields), 0);
    const auto set = [&](Index number, Index role) {
        if (number < 1 || number > fields) {
            throw input_error("'", path, "' has ", fields, " columns; there is no column ", number);
        }
        columns.role[static_cast<std::size_t>(number - 1)] = role;
    };
    for (const Index number : options.drop_columns) set(number, TableColumns::dropped);
    if (options.label_column == "first") {
        set(1, TableColumns::label);
    } else if (options.label_column == "last") {
        set(fields, TableColumns::label);
    } else if (!options.label_column.empty()) {
        std::int64_t number = 0;
        if (!parse_number(options.label_column, number)) {
            throw input_error("--label-column is `", options.label_column,
                              "`; it must be first, last or a number from 1");
        }
        set(number, TableColumns::label);
    }
    for (Index& role : columns.role) {
        if (role == 0) role = columns.cols++;
    }
    if (columns.cols == 0) throw input_error("'", path, "': no column is left for the matrix");
    return columns;
}

}  // namespace rankfold
