#include <algorithm>
#include <cmath>

#include <rankfold/data/names.hpp>

#include "import_parts.hpp"

namespace rankfold {

namespace {

/// Letters and digits of ASCII, and all bytes of other alphabets in UTF-8.
bool in_word(char c) {
    const auto byte = static_cast<unsigned char>(c);
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
           (byte >= '0' && byte <= '9') || byte >= 0x80;
}

/// Calls word(text) for every run of at least two letters and digits, in lower case (ASCII's).
template <class Word>
void for_each_word(std::string_view text, const Word& word) {
    std::string lower;
    for (std::size_t i = 0; i <= text.size(); ++i) {
        if (i < text.size() && in_word(text[i])) {
            const char c = text[i];
            lower += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
            continue;
        }
        if (lower.size() > 1) word(lower);
        lower.clear();
    }
}

/// Which of a line's fields is its label; −1 for none.
Index label_field(const std::string& column, std::size_t fields) {
    if (column.empty()) return -1;
    if (column == "first") return 0;
    if (column == "last") return static_cast<Index>(fields) - 1;
    std::int64_t number = 0;
    if (!parse_number(column, number) || number < 1) {
        throw input_error("--label-column is `", column,
                          "`; it must be first, last or a number from 1");
    }
    return number - 1;
}

std::vector<std::string_view> cut_at_tabs(std::string_view line) {
    std::vector<std::string_view> fields;
    for (std::size_t begin = 0;;) {
        const std::size_t tab = line.find('\t', begin);
        fields.push_back(line.substr(begin, tab - begin));
        if (tab == std::string_view::npos) return fields;
        begin = tab + 1;
    }
}

}  // namespace

template <Real R>
void read_documents(const ByteFile& file, const SourcePlan& plan, const ImportOptions& options,
                    Collected<R>& collected) {
    const std::string text = file.range(file.my_lines(plan.skip_bytes));
    LabelPart labels{collected.rows, {}};
    std::vector<Entry> words;
    Index documents = 0;
    BadLines bad;
    for_each_line(text, [&](std::string_view line, Index number) {
        if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
        const auto fields = cut_at_tabs(line);
        const Index label = label_field(options.label_column, fields.size());
        if (label >= std::ssize(fields)) {
            bad.add(number, line, "it has no field for --label-column");
            return;
        }
        if (label >= 0) {
            const auto name = trimmed(fields[static_cast<std::size_t>(label)]);
            if (name.empty()) bad.add(number, line, "its label is empty");
            labels.codes.push_back(collected.classes.code(name));
        }
        for (Index f = 0; f < std::ssize(fields); ++f) {
            if (f == label) continue;
            for_each_word(fields[static_cast<std::size_t>(f)], [&](const std::string& word) {
                words.push_back({documents, collected.col_ids.code(word), 0, 1.0, 0});
            });
        }
        ++documents;
    });
    bad.check(file.comm(), file.path(), text, plan.skip_lines);
    const Index first = collected.rows + file.comm().exclusive_scan(documents);
    for (Entry& word : words) word.row += first;
    const Index all = file.comm().all_reduce(documents, Reduce::sum);
    collected.counts.lines += all;
    collected.rows += all;
    if (!options.label_column.empty()) collected.labels.push_back(std::move(labels));
    collected.documents.push_back(std::move(words));
}

namespace {

/// In how many documents each of `count` words occurs, over all ranks. A document's words stand
/// together, at one rank.
std::vector<Index> document_counts(const Communicator& comm,
                                   const std::vector<std::vector<Entry>>& documents,
                                   const std::vector<Index>& position, Index count) {
    std::vector<Index> found(static_cast<std::size_t>(count), 0);
    std::vector<Index> last(found.size(), -1);
    for (const auto& part : documents) {
        for (const Entry& word : part) {
            const Index at = position[static_cast<std::size_t>(word.col)];
            if (at < 0 || last[static_cast<std::size_t>(at)] == word.row) continue;
            last[static_cast<std::size_t>(at)] = word.row;
            ++found[static_cast<std::size_t>(at)];
        }
    }
    comm.all_reduce(std::span<Index>(found), Reduce::sum);
    return found;
}

}  // namespace

template <Real R>
void number_words(const Communicator& comm, const ImportOptions& options,
                  const std::optional<Names>& known, Collected<R>& collected,
                  std::optional<Names>& names) {
    Numbering words = number_ids(comm, collected.col_ids, known, options.extend_ids);
    collected.col_ids = {};
    collected.counts.unknown_cols = words.unknown;
    if (!known) {  // rare words say nothing about other documents
        const auto found = document_counts(comm, collected.documents, words.position, words.count);
        std::vector<Index> kept(found.size(), -1);
        Names rest;
        Index count = 0;
        for (std::size_t w = 0; w < found.size(); ++w) {
            if (found[w] < options.least_documents) continue;
            kept[w] = count++;
            if (comm.is_root()) {
                rest.text.push_back(name_text(words.names, static_cast<Index>(w)));
            }
        }
        if (count == 0) {
            throw input_error("no word occurs in ", options.least_documents,
                              " documents; lower --least-documents");
        }
        for (Index& at : words.position) {
            if (at >= 0) at = kept[static_cast<std::size_t>(at)];
        }
        words.names = std::move(rest);
        words.count = count;
    }
    Index left_out = 0;
    for (auto& part : collected.documents) {
        std::vector<Entry> entries;
        for (const Entry& word : part) {
            const Index at = words.position[static_cast<std::size_t>(word.col)];
            if (at < 0) {
                ++left_out;
                continue;
            }
            entries.push_back({word.row, static_cast<ColIndex>(at), 0, word.value, 0});
        }
        part = {};
        collected.entries.push_back(std::move(entries));
    }
    collected.cols = words.count;
    collected.counts.left_out = comm.all_reduce(left_out, Reduce::sum);
    names = std::move(words.names);
}

template <Real R>
void weigh_by_rarity(BlockRowCsr<R>& a, const BlockRowCsr<R>* learnt) {
    const BlockRowCsr<R>& from = learnt == nullptr ? a : *learnt;
    std::vector<Index> documents(static_cast<std::size_t>(a.cols()), 0);
    if (from.cols() > a.cols()) {
        throw input_error("--value tfidf: the file given as --ids has ", from.cols(),
                          " columns, more than the ", a.cols(), " at hand");
    }
    const auto& values = from.local();
    for (Index e = 0; e < values.nnz(); ++e) {
        ++documents[static_cast<std::size_t>(values.col_idx[static_cast<std::size_t>(e)])];
    }
    a.comm().all_reduce(std::span<Index>(documents), Reduce::sum);
    std::vector<double> rarity;
    for (const Index n : documents) {
        rarity.push_back(1.0 + std::log((1.0 + static_cast<double>(from.rows())) /
                                        (1.0 + static_cast<double>(n))));
    }
    auto& local = a.local();
    for (Index i = 0; i < local.rows(); ++i) {
        const Index begin = local.row_ptr[static_cast<std::size_t>(i)];
        const Index end = local.row_ptr[static_cast<std::size_t>(i) + 1];
        std::vector<double> weights;
        double square = 0.0;
        for (Index e = begin; e < end; ++e) {
            const auto at = static_cast<std::size_t>(e);
            weights.push_back(static_cast<double>(local.values[at]) *
                              rarity[static_cast<std::size_t>(local.col_idx[at])]);
            square += weights.back() * weights.back();
        }
        const double length = square > 0.0 ? std::sqrt(square) : 1.0;
        for (Index e = begin; e < end; ++e) {
            local.values[static_cast<std::size_t>(e)] =
                static_cast<R>(weights[static_cast<std::size_t>(e - begin)] / length);
        }
    }
}

#define RANKFOLD_INSTANTIATE(R)                                                                    \
    template void read_documents(const ByteFile&, const SourcePlan&, const ImportOptions&,         \
                                 Collected<R>&);                                                   \
    template void number_words(const Communicator&, const ImportOptions&,                          \
                               const std::optional<Names>&, Collected<R>&, std::optional<Names>&); \
    template void weigh_by_rarity(BlockRowCsr<R>&, const BlockRowCsr<R>*);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
