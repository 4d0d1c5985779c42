#include <rankfold/cli/options.hpp>

#include <algorithm>
#include <map>
#include <numeric>
#include <type_traits>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

namespace rankfold::cli {

namespace {

/// How far apart two words are: insertions, deletions, substitutions.
std::size_t edit_distance(const std::string& a, const std::string& b) {
    std::vector<std::size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), std::size_t{0});
    for (std::size_t i = 1; i <= a.size(); ++i) {
        std::size_t diagonal = row[0];
        row[0] = i;
        for (std::size_t j = 1; j <= b.size(); ++j) {
            const std::size_t above = row[j];
            row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
            diagonal = above;
        }
    }
    return row[b.size()];
}

std::string number_text(double x) {
    return concat(x);
}

template <class T>
struct IsVector : std::false_type {};
template <class T>
struct IsVector<std::vector<T>> : std::true_type {};
template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};

/// Checks one value given as text; returns what is wrong or nothing.
std::string refuse(const Accept& accept, bool numeric, const std::string& text) {
    if (!accept.choices.empty() &&
        std::ranges::find(accept.choices, text) == accept.choices.end()) {
        std::string all;
        for (const auto& choice : accept.choices) all += (all.empty() ? "" : ", ") + choice;
        return "'" + text + "' is none of " + all + did_you_mean(text, accept.choices);
    }
    if (!numeric) return {};
    char* end = nullptr;
    const double x = std::strtod(text.c_str(), &end);
    if (end == text.c_str() || *end != '\0') return {};  // the conversion will complain
    if (x < accept.least || (accept.exclusive_least && x == accept.least)) {
        return "must be " + std::string(accept.exclusive_least ? "greater than " : "at least ") +
               number_text(accept.least) + ", not " + text;
    }
    if (x > accept.most) return "must be at most " + number_text(accept.most) + ", not " + text;
    if (!(x == x)) return "must be a number, not " + text;
    return {};
}

std::string default_text(const auto& value) {
    using T = std::decay_t<decltype(value)>;
    if constexpr (IsOptional<T>::value) {
        return {};
    } else if constexpr (IsVector<T>::value) {
        std::string all;
        for (const auto& x : value) all += (all.empty() ? "" : ",") + concat(x);
        return all;
    } else {
        return concat(value);
    }
}

}  // namespace

std::optional<std::string> nearest(const std::string& word, const std::vector<std::string>& known) {
    std::optional<std::string> best;
    std::size_t least = std::max<std::size_t>(2, word.size() / 3) + 1;
    for (const auto& candidate : known) {
        const std::size_t distance = edit_distance(word, candidate);
        const bool prefix = word.size() >= 4 && candidate.starts_with(word);
        if (prefix ? least > 1 : distance < least) {
            least = prefix ? 1 : distance;
            best = candidate;
        }
    }
    return best;
}

std::string did_you_mean(const std::string& word, const std::vector<std::string>& known) {
    const auto near = nearest(word, known);
    return near ? " (did you mean " + *near + "?)" : "";
}

struct Options::Parser {
    Parser(const std::string& name, const std::string& summary)
        : command{name}, app{summary, "rankfold " + name} {
        app.set_help_flag("--help,-h", "This text");
        app.allow_extras();
    }

    struct Entry {
        std::string name;
        bool flag = false;
        bool positional = false;
        CLI::Option* option = nullptr;
        std::function<nlohmann::ordered_json()> value;
    };

    Entry& entry(const std::string& name) {
        for (auto& e : entries) {
            if (e.name == name) return e;
        }
        throw Error(Fault::bug, "no option is called " + name);
    }

    std::string command;
    CLI::App app;
    std::vector<Entry> entries;
    const std::string* preset = nullptr;  // what --preset says, and what its names stand for
    std::map<std::string, std::vector<std::string>> meanings;
};

Options::Options(std::string command, std::string summary)
    : parser_{std::make_unique<Parser>(command, summary)} {}

Options::~Options() = default;

void Options::positional(const std::string& name, std::string& value, const std::string& help) {
    auto* option = parser_->app.add_option(name, value, help)->required();
    parser_->entries.push_back(
        {.name = name, .positional = true, .option = option, .value = [&value] {
             return nlohmann::ordered_json(value);
         }});
}

void Options::optional_positional(const std::string& name, std::string& value,
                                  const std::string& help) {
    positional(name, value, help);
    parser_->entries.back().option->required(false);
}

void Options::positional(const std::string& name, std::vector<std::string>& values,
                         const std::string& help) {
    auto* option = parser_->app.add_option(name, values, help)->required();
    parser_->entries.push_back(
        {.name = name, .positional = true, .option = option, .value = [&values] {
             return nlohmann::ordered_json(values);
         }});
}

template <class T>
void Options::add(const std::string& name, T& value, const std::string& help, Accept accept) {
    Parser::Entry entry{.name = name, .value = [&value] {
                            if constexpr (IsOptional<T>::value) {
                                return value ? nlohmann::ordered_json(*value)
                                             : nlohmann::ordered_json();
                            } else {
                                return nlohmann::ordered_json(value);
                            }
                        }};
    if constexpr (std::is_same_v<T, bool>) {
        entry.flag = true;
        entry.option = parser_->app.add_flag("--" + name + ",!--no-" + name, value, help);
    } else {
        auto* option = parser_->app.add_option("--" + name, value, help);
        if constexpr (IsVector<T>::value) option->delimiter(',')->allow_extra_args(false);
        option->default_str(default_text(value));
        constexpr bool numeric = !std::is_same_v<T, std::string> &&
                                 !std::is_same_v<T, std::vector<std::string>> &&
                                 !std::is_same_v<T, std::optional<std::string>>;
        option->check(
            [accept, numeric](const std::string& text) { return refuse(accept, numeric, text); });
        std::string kind = "TEXT";
        if constexpr (numeric) kind = "NUMBER";
        if (!accept.choices.empty()) {
            kind.clear();
            for (const auto& choice : accept.choices) kind += (kind.empty() ? "" : "|") + choice;
        }
        option->type_name(IsVector<T>::value ? kind + ",…" : kind);
        entry.option = option;
    }
    parser_->entries.push_back(std::move(entry));
}

void Options::examples(std::string text) {
    while (!text.empty() && text.back() == '\n') text.pop_back();
    std::string indented = "Examples:\n  ";
    for (const char c : text) {
        indented += c;
        if (c == '\n') indented += "  ";
    }
    parser_->app.footer(indented);
}

void Options::presets(std::string& value, const std::string& help,
                      std::map<std::string, std::vector<std::string>> meanings) {
    std::vector<std::string> known;
    for (const auto& [name, arguments] : meanings) known.push_back(name);
    add("preset", value, help, Accept::one_of(known));
    parser_->preset = &value;
    parser_->meanings = std::move(meanings);
}

bool Options::parse(const std::vector<std::string>& arguments) {
    const std::string where = parser_->command + ": ";
    try {
        parser_->app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
        if (parser_->preset != nullptr && given("preset")) {
            auto all = arguments;
            for (const auto& argument : parser_->meanings.at(*parser_->preset)) {
                const auto name = argument.substr(2, argument.find('=') - 2);
                if (!given(name)) all.push_back(argument);
            }
            parser_->app.parse(std::vector<std::string>(all.rbegin(), all.rend()));
        }
    } catch (const CLI::CallForHelp&) {
        return false;
    } catch (const CLI::ParseError& error) {
        std::string message = error.what();
        if (message.ends_with(" is required")) message += ", see --help";
        throw input_error(where, message);
    }
    const std::vector<std::string> extras = parser_->app.remaining();
    if (!extras.empty()) {
        std::string word = extras.front();
        if (!word.starts_with("-")) {
            throw input_error(where, "one argument too many: '", word, "'; see --help");
        }
        word.erase(0, word.find_first_not_of('-'));
        word = word.substr(0, word.find('='));
        const auto near = nearest(word, names());
        throw input_error(where, "there is no option --", word,
                          near ? " (did you mean --" + *near + "?)" : "", "; see --help");
    }
    return true;
}

std::string Options::help() const {
    return parser_->app.help();
}

nlohmann::ordered_json Options::resolved() const {
    auto all = nlohmann::ordered_json::object();
    for (const auto& entry : parser_->entries) all[entry.name] = entry.value();
    return all;
}

bool Options::given(const std::string& name) const {
    return parser_->entry(name).option->count() > 0;
}

std::vector<std::string> Options::names() const {
    std::vector<std::string> all;
    for (const auto& entry : parser_->entries) all.push_back(entry.name);
    return all;
}

bool Options::is_flag(const std::string& name) const {
    return parser_->entry(name).flag;
}

bool Options::is_positional(const std::string& name) const {
    return parser_->entry(name).positional;
}

template void Options::add(const std::string&, bool&, const std::string&, Accept);
template void Options::add(const std::string&, Index&, const std::string&, Accept);
template void Options::add(const std::string&, double&, const std::string&, Accept);
template void Options::add(const std::string&, std::string&, const std::string&, Accept);
template void Options::add(const std::string&, std::vector<Index>&, const std::string&, Accept);
template void Options::add(const std::string&, std::vector<double>&, const std::string&, Accept);
template void Options::add(const std::string&, std::vector<std::string>&, const std::string&,
                           Accept);
template void Options::add(const std::string&, std::optional<Index>&, const std::string&, Accept);
template void Options::add(const std::string&, std::optional<double>&, const std::string&, Accept);
template void Options::add(const std::string&, std::optional<std::string>&, const std::string&,
                           Accept);

double parse_bytes(const std::string& option, const std::string& text) {
    static const std::map<std::string, double> units = {{"", 1.0},   {"B", 1.0},  {"kB", 1e3},
                                                        {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}};
    std::size_t end = 0;
    double number = 0.0;
    try {
        number = std::stod(text, &end);
    } catch (const std::exception&) {
        end = 0;
    }
    const auto unit = units.find(text.substr(end));
    if (end == 0 || unit == units.end() || !(number > 0.0)) {
        throw input_error(option, " ", text,
                          " is not a size: give a number and kB, MB, GB or TB, as 4GB");
    }
    return number * unit->second;
}

}  // namespace rankfold::cli
