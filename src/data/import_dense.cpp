#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "import_parts.hpp"

namespace rankfold {

namespace {

std::size_t at(Index i) {
    return static_cast<std::size_t>(i);
}

/// The layout of numbers in a binary file.
struct ArrayHeader {
    char kind = 'f';    // f: real, i: signed, u: unsigned integer
    Index bytes = 4;    // of an element
    bool swap = false;  // stored in the other byte order
    bool by_columns = false;
    Index rows = 0;
    Index cols = 1;
    Index offset = 0;  // of the first element
};

constexpr bool little = std::endian::native == std::endian::little;

/// The text behind 'key': in NumPy's header, up to the next comma outside of parentheses.
std::string numpy_field(const std::string& text, const std::string& key) {
    std::size_t begin = text.find("'" + key + "'");
    if (begin == std::string::npos) return "";
    begin = text.find(':', begin);
    if (begin == std::string::npos) return "";
    const std::size_t first = text.find_first_not_of(' ', begin + 1);
    if (first == std::string::npos) return "";
    const std::size_t end =
        text[first] == '(' ? text.find(')', first) : text.find_first_of(",}", first);
    return end == std::string::npos ? "" : text.substr(first, end - first);
}

ArrayHeader parse_numpy(const ByteFile& file) {
    const std::string head = file.head(65536 + 12);
    const auto fail = [&](const std::string& why) {
        return input_error("'", file.path(), "' cannot be read as .npy: ", why);
    };
    if (head.size() < 12 || !head.starts_with("\x93NUMPY")) throw fail("it does not begin so");
    const bool first_version = head[6] == 1;
    const auto byte = [&](std::size_t i) {
        return static_cast<Index>(static_cast<unsigned char>(head[i]));
    };
    const Index length =
        byte(8) + 256 * byte(9) + (first_version ? 0 : 65536 * byte(10) + 16777216 * byte(11));
    ArrayHeader header;
    header.offset = (first_version ? 10 : 12) + length;
    if (header.offset > static_cast<Index>(head.size())) throw fail("its header is cut off");
    const std::string about = head.substr(first_version ? 10 : 12, at(length));
    const std::string type = numpy_field(about, "descr");  // e.g. '<f4'
    if (type.size() != 5 || type.front() != '\'') {
        throw fail("the element type " + type + " is none of f4, f8, i1 … i8, u1 … u8");
    }
    header.kind = type[2] == 'b' ? 'u' : type[2];
    header.bytes = type[3] - '0';
    header.swap = type[1] == (little ? '>' : '<');
    const bool real = header.kind == 'f' && (header.bytes == 4 || header.bytes == 8);
    const bool whole = (header.kind == 'i' || header.kind == 'u') &&
                       std::has_single_bit(static_cast<unsigned>(header.bytes));
    if (!real && !whole) {
        throw fail("the element type " + type + " is none of f4, f8, i1 … i8, u1 … u8");
    }
    header.by_columns = numpy_field(about, "fortran_order") == "True";
    std::vector<std::string_view> sizes;
    const std::string shape = numpy_field(about, "shape");
    if (!shape.empty())
        static_cast<void>(split_fields(std::string_view(shape).substr(1), {","}, sizes));
    while (!sizes.empty() && sizes.back().empty()) sizes.pop_back();
    if (sizes.size() != 2 || !parse_number(sizes[0], header.rows) ||
        !parse_number(sizes[1], header.cols)) {
        throw fail("the shape " + shape + ") is not that of a matrix (two dimensions)");
    }
    return header;
}

ArrayHeader parse_idx(const ByteFile& file) {
    const std::string head = file.head(4 + 4 * 255);
    const auto byte = [&](std::size_t i) {
        return static_cast<Index>(static_cast<unsigned char>(head[i]));
    };
    const auto fail = [&](const std::string& why) {
        return input_error("'", file.path(), "' cannot be read as IDX: ", why);
    };
    if (head.size() < 8 || byte(0) != 0 || byte(1) != 0) throw fail("it does not begin so");
    ArrayHeader header;
    switch (byte(2)) {
        case 0x08:
            header.kind = 'u', header.bytes = 1;
            break;
        case 0x09:
            header.kind = 'i', header.bytes = 1;
            break;
        case 0x0B:
            header.kind = 'i', header.bytes = 2;
            break;
        case 0x0C:
            header.kind = 'i', header.bytes = 4;
            break;
        case 0x0D:
            header.kind = 'f', header.bytes = 4;
            break;
        case 0x0E:
            header.kind = 'f', header.bytes = 8;
            break;
        default:
            throw fail(concat("unknown element type ", byte(2)));
    }
    header.swap = little;
    header.offset = 4 + 4 * byte(3);
    if (byte(3) == 0 || static_cast<Index>(head.size()) < header.offset)
        throw fail("it is cut off");
    for (std::size_t d = 0; d < at(byte(3)); ++d) {
        const std::size_t i = 4 + 4 * d;
        const Index size = (byte(i) << 24) + (byte(i + 1) << 16) + (byte(i + 2) << 8) + byte(i + 3);
        if (d == 0) {
            header.rows = size;
        } else {
            header.cols *= size;
        }
        if (header.cols > (Index{1} << 40)) throw fail("its dimensions are too large");
    }
    return header;
}

void check_extent(const ByteFile& file, const ArrayHeader& header) {
    constexpr Index most = std::numeric_limits<ColIndex>::max();
    if (header.rows < 1 || header.cols < 1 || header.rows > most || header.cols > most) {
        throw input_error("'", file.path(), "' is ", header.rows, " x ", header.cols,
                          "; a matrix needs at least one row and one column, and at most ", most);
    }
    const auto wanted = static_cast<WideIndex>(header.rows) * header.cols * header.bytes;
    if (wanted != file.size() - header.offset) {
        throw input_error("'", file.path(), "' should hold ", header.rows, " x ", header.cols,
                          " elements of ", header.bytes, " bytes and holds ",
                          file.size() - header.offset,
                          " bytes of them; it is damaged or truncated");
    }
}

template <class T>
double load(const char* from, bool swap) {
    char bytes[sizeof(T)];
    std::memcpy(bytes, from, sizeof(T));
    if (swap) std::reverse(bytes, bytes + sizeof(T));
    T value;
    std::memcpy(&value, bytes, sizeof(T));
    return static_cast<double>(value);
}

using Loader = double (*)(const char*, bool);

Loader loader(const ArrayHeader& header) {
    switch (header.kind == 'f' ? header.bytes + 16 : header.bytes + (header.kind == 'u' ? 32 : 0)) {
        case 20:
            return load<float>;
        case 24:
            return load<double>;
        case 1:
            return load<std::int8_t>;
        case 2:
            return load<std::int16_t>;
        case 4:
            return load<std::int32_t>;
        case 8:
            return load<std::int64_t>;
        case 33:
            return load<std::uint8_t>;
        case 34:
            return load<std::uint16_t>;
        case 36:
            return load<std::uint32_t>;
        default:
            return load<std::uint64_t>;
    }
}

/// Rows [mine) of the array as it is stored, still before --shift and --value.
template <class T>
std::vector<T> load_rows(const ByteFile& file, const ArrayHeader& header, Range mine, Index width) {
    const Index row_bytes = width * header.bytes;
    const std::string raw =
        file.range({header.offset + mine.begin * row_bytes, header.offset + mine.end * row_bytes});
    std::vector<T> values;
    values.reserve(raw.size() / at(header.bytes));
    const Loader next = loader(header);
    for (std::size_t i = 0; i < raw.size(); i += at(header.bytes)) {
        values.push_back(static_cast<T>(next(raw.data() + i, header.swap)));
    }
    return values;
}

template <Real R>
void transform_all(const ByteFile& file, const ArrayHeader& header, const ImportOptions& options,
                   Index first_row, std::vector<R>& values) {
    file.comm().agree([&] {
        for (std::size_t i = 0; i < values.size(); ++i) {
            auto value = static_cast<double>(values[i]);
            const bool good = std::isfinite(value) && transform(value, options);
            values[i] = static_cast<R>(value);
            if (!good || !std::isfinite(values[i])) {
                throw input_error("'", file.path(), "': row ",
                                  first_row + static_cast<Index>(i) / header.cols,
                                  " holds a value that is not finite (after --shift and --value)");
            }
        }
    });
}

/// Rows of a matrix that is stored column by column.
template <Real R>
std::vector<R> load_by_columns(const ByteFile& file, const ArrayHeader& header, Index& first) {
    const Communicator& comm = file.comm();
    BlockRows<R> stored(comm, ShardLayout::even(header.cols, comm.size(), comm.size()),
                        header.rows);
    const auto values =
        load_rows<R>(file, header, stored.layout().rank_rows(comm.rank()), header.rows);
    std::ranges::copy(values, stored.local().data().begin());
    const BlockRows<R> rows = transpose(stored);
    first = rows.first_row();
    return {rows.local().data().begin(), rows.local().data().end()};
}

/// What one line of a table gives, besides its label.
template <Real R>
struct TableRows {
    Index rows = 0;
    Index missing = 0;
    std::vector<R> values;       // of a table without missing fields
    std::vector<Entry> entries;  // of one with
};

bool is_missing(std::string_view field, const ImportOptions& options) {
    if (!options.missing) return false;
    if (field == *options.missing) return true;
    double number = 0.0;
    double missing = 0.0;
    return parse_number(*options.missing, missing) && parse_number(field, number) &&
           number == missing;
}

/// One line of a table. Returns why it is bad, or "".
template <Real R>
std::string add_row(const std::vector<std::string_view>& fields, const TableColumns& columns,
                    const ImportOptions& options, IdTable& classes, LabelPart& labels,
                    TableRows<R>& table) {
    if (fields.size() != columns.role.size()) {
        return concat(fields.size(), " fields where ", columns.role.size(), " are expected");
    }
    for (std::size_t f = 0; f < fields.size(); ++f) {
        const Index role = columns.role[f];
        if (role == TableColumns::dropped) continue;
        if (role == TableColumns::label) {
            if (fields[f].empty()) return "the label is empty";
            labels.codes.push_back(classes.code(fields[f]));
            continue;
        }
        if (is_missing(fields[f], options)) {
            ++table.missing;
            continue;
        }
        double value = 0.0;
        if (!parse_number(fields[f], value)) {
            return concat("field ", f + 1, " `", fields[f],
                          "` is not a number (if it stands for no entry, give it as --missing)");
        }
        if (!transform(value, options) || !std::isfinite(static_cast<R>(value))) {
            return concat("field ", f + 1, " is not finite (after --shift and --value)");
        }
        if (options.missing) {
            table.entries.push_back({table.rows, static_cast<ColIndex>(role), 0, value, 0});
        } else {
            table.values.push_back(static_cast<R>(value));
        }
    }
    ++table.rows;
    return "";
}

std::vector<std::string> names_from_heading(const SourcePlan& plan, const TableColumns& columns) {
    std::vector<std::string> names;
    for (std::size_t f = 0; f < std::min(plan.heading.size(), columns.role.size()); ++f) {
        if (columns.role[f] >= 0) names.push_back(plan.heading[f]);
    }
    return names;
}

}  // namespace

template <Real R>
void read_table(const ByteFile& file, const SourcePlan& plan, const ImportOptions& options,
                Collected<R>& collected) {
    const Communicator& comm = file.comm();
    const auto columns = table_columns(options, static_cast<Index>(plan.first.size()), file.path());
    collected.expect_cols(columns.cols, file.path());
    const std::string text = file.range(file.my_lines(plan.skip_bytes));
    TableRows<R> table;
    LabelPart labels{.first = collected.rows, .codes = {}};
    BadLines bad;
    std::vector<std::string_view> fields;
    for_each_line(text, [&](std::string_view line, Index number) {
        if (trimmed(line).empty()) return;
        std::string why = "quotes are not closed, or doubled";
        if (split_fields(line, plan.delimiter, fields)) {
            why = add_row(fields, columns, options, collected.classes, labels, table);
        }
        if (!why.empty()) bad.add(number, line, why);
    });
    bad.check(comm, file.path(), text, plan.skip_lines);
    if (!plan.heading.empty() && collected.col_names.empty()) {
        collected.col_names = names_from_heading(plan, columns);
    }
    if (!options.label_column.empty()) collected.labels.push_back(std::move(labels));
    const Index before = comm.exclusive_scan(table.rows);
    const Index total = comm.all_reduce(table.rows, Reduce::sum);
    if (options.missing) {
        for (Entry& e : table.entries) e.row += collected.rows + before;
        collected.entries.push_back(std::move(table.entries));
        collected.counts.missing += comm.all_reduce(table.missing, Reduce::sum);
    } else {
        collected.bytes = false;
        collected.dense.push_back({collected.rows, table.rows, std::move(table.values)});
    }
    collected.rows += total;
    collected.counts.lines += total;
}

template <Real R>
void read_array(const ByteFile& file, Format format, const ImportOptions& options,
                Collected<R>& collected) {
    const Communicator& comm = file.comm();
    const ArrayHeader header = format == Format::npy ? parse_numpy(file) : parse_idx(file);
    check_extent(file, header);
    collected.expect_cols(header.cols, file.path());
    const bool is_bytes = header.kind == 'u' && header.bytes == 1;
    collected.bytes =
        collected.bytes && is_bytes && options.shift == 0.0 && options.value == ValueRule::as_is;
    DensePart<R> part;
    Index first = 0;
    if (header.by_columns) {
        part.values = load_by_columns<R>(file, header, first);
    } else {
        const Range mine = even_part(header.rows, comm.size(), comm.rank());
        first = mine.begin;
        part.values = load_rows<R>(file, header, mine, header.cols);
    }
    transform_all(file, header, options, first, part.values);
    part.first = collected.rows;
    part.rows = static_cast<Index>(part.values.size()) / header.cols;
    collected.dense.push_back(std::move(part));
    collected.rows += header.rows;
}

void read_labels(const ByteFile& file, Index first, IdTable& classes, LabelPart& labels) {
    const Communicator& comm = file.comm();
    labels.first = first;
    const std::string head = file.head(8);
    if (head.size() == 8 && head[0] == 0 && head[1] == 0) {
        const ArrayHeader header = parse_idx(file);
        check_extent(file, header);
        if (header.cols != 1 || header.kind == 'f') {
            throw input_error("'", file.path(), "' must hold one integer label a row");
        }
        const Range mine = even_part(header.rows, comm.size(), comm.rank());
        for (const std::int64_t label : load_rows<std::int64_t>(file, header, mine, 1)) {
            labels.codes.push_back(classes.code(std::to_string(label)));
        }
        return;
    }
    const std::string text = file.range(file.my_lines(0));
    for_each_line(text, [&](std::string_view line, Index) {
        const auto label = trimmed(line);
        if (!label.empty()) labels.codes.push_back(classes.code(label));
    });
}

#define RANKFOLD_INSTANTIATE(R)                                                        \
    template void read_table(const ByteFile&, const SourcePlan&, const ImportOptions&, \
                             Collected<R>&);                                           \
    template void read_array(const ByteFile&, Format, const ImportOptions&, Collected<R>&);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
