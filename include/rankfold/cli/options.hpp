// The options of a command: declared once, they give parsing, help, job-file keys and the record
// of what a run was asked to do.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include <rankfold/core/types.hpp>

namespace rankfold::cli {

/// Which values an option accepts beyond its type.
struct Accept {
    double least = -1e300;
    double most = 1e300;
    bool exclusive_least = false;        ///< values must be greater than `least`
    std::vector<std::string> choices{};  ///< if not empty: one of these

    static Accept at_least(double least) { return {.least = least}; }
    static Accept above(double bound) { return {.least = bound, .exclusive_least = true}; }
    static Accept between(double least, double most) { return {.least = least, .most = most}; }
    static Accept one_of(std::vector<std::string> choices) {
        return {.choices = std::move(choices)};
    }
};

/// The table of one command's options, bound to variables that hold the defaults.
///
/// A name is given once, without dashes ("learning-rate"); it is the long option on the command
/// line and the key in a job file. The bound variables must outlive the table.
class Options {
public:
    Options(std::string command, std::string summary);
    ~Options();
    Options(const Options&) = delete;
    Options& operator=(const Options&) = delete;

    /// A positional argument; in a job file its key is `name`.
    void positional(const std::string& name, std::string& value, const std::string& help);
    void positional(const std::string& name, std::vector<std::string>& values,
                    const std::string& help);
    /// One that may be left out.
    void optional_positional(const std::string& name, std::string& value, const std::string& help);

    /// An option with a value. T: bool (a flag; in a job file true or false; `--no-NAME` unsets
    /// one that is on by default), Index, double, std::string, vectors of the last three (comma
    /// separated), or std::optional of Index, double and std::string (no default).
    template <class T>
    void add(const std::string& name, T& value, const std::string& help, Accept accept = {});

    /// Names for sets of option values: `--preset NAME` stands for the arguments in
    /// meanings[NAME], except for options that are given beside it.
    void presets(std::string& value, const std::string& help,
                 std::map<std::string, std::vector<std::string>> meanings);

    /// The examples under --help, one command a line.
    void examples(std::string text);

    /// Parses arguments (without program and command names).
    /// @throws Error (Fault::input): an unknown option (with the nearest known name), a missing or
    ///         unfit value
    /// @return false if help was asked for: help() is to be printed and nothing run
    [[nodiscard]] bool parse(const std::vector<std::string>& arguments);

    [[nodiscard]] std::string help() const;

    /// All options as resolved, by name.
    [[nodiscard]] nlohmann::ordered_json resolved() const;

    /// True if the option was given explicitly.
    [[nodiscard]] bool given(const std::string& name) const;

    /// Names of all options and positionals.
    [[nodiscard]] std::vector<std::string> names() const;

    /// True if `name` is a flag (takes no value), a list or a positional argument.
    [[nodiscard]] bool is_flag(const std::string& name) const;
    [[nodiscard]] bool is_positional(const std::string& name) const;

private:
    struct Parser;
    std::unique_ptr<Parser> parser_;
};

/// The entry of `known` that is nearest to `word` by edit distance, if any is near.
[[nodiscard]] std::optional<std::string> nearest(const std::string& word,
                                                 const std::vector<std::string>& known);

/// " (did you mean NAME?)" or nothing.
[[nodiscard]] std::string did_you_mean(const std::string& word,
                                       const std::vector<std::string>& known);

/// Bytes of a text like 800MB; `option` is named where it is none.
/// @throws Error (Fault::input)
[[nodiscard]] double parse_bytes(const std::string& option, const std::string& text);

}  // namespace rankfold::cli
