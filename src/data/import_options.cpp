// The names by which people ask for formats and rules.
#include <algorithm>
#include <array>

#include <rankfold/data/import.hpp>

namespace rankfold {

namespace {

template <class Value, std::size_t n>
using NameTable = std::array<std::pair<const char*, Value>, n>;

constexpr NameTable<Format, 10> formats{{{"auto", Format::automatic},
                                         {"csv", Format::csv},
                                         {"tsv", Format::tsv},
                                         {"movielens", Format::movielens},
                                         {"matrix-market", Format::matrix_market},
                                         {"npy", Format::npy},
                                         {"idx", Format::idx},
                                         {"ncf", Format::ncf},
                                         {"table", Format::table},
                                         {"text", Format::text}}};
constexpr NameTable<ValueRule, 4> value_rules{{{"as-is", ValueRule::as_is},
                                               {"binary", ValueRule::binary},
                                               {"log1p", ValueRule::log1p},
                                               {"tfidf", ValueRule::tfidf}}};
constexpr NameTable<Duplicates, 4> duplicate_rules{{{"error", Duplicates::error},
                                                    {"last", Duplicates::last},
                                                    {"sum", Duplicates::sum},
                                                    {"mean", Duplicates::mean}}};
constexpr NameTable<Heading, 3> headings{
    {{"auto", Heading::automatic}, {"yes", Heading::yes}, {"no", Heading::no}}};

template <class Value, std::size_t n>
Value named(const NameTable<Value, n>& table, const std::string& name) {
    std::string known;
    for (const auto& [text, value] : table) {
        if (name == text) return value;
        known += known.empty() ? text : concat(", ", text);
    }
    throw input_error("`", name, "` is unknown here; known are ", known);
}

}  // namespace

Format format_named(const std::string& name) {
    return named(formats, name);
}

ValueRule value_rule_named(const std::string& name) {
    return named(value_rules, name);
}

Duplicates duplicates_named(const std::string& name) {
    return named(duplicate_rules, name);
}

Heading heading_named(const std::string& name) {
    return named(headings, name);
}

std::string format_name(Format format) {
    const auto found =
        std::ranges::find(formats, format, [](const auto& row) { return row.second; });
    return found->first;
}

}  // namespace rankfold
