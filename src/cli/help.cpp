#include <rankfold/cli/help.hpp>

#include <utility>
#include <vector>

#include <rankfold/cli/options.hpp>
#include <rankfold/core/error.hpp>

namespace rankfold::cli {

/// A name and a text; the build writes these tables from src/cli/help and jobs/examples.
using Page = std::pair<const char*, const char*>;
extern const std::vector<Page> help_pages;
extern const std::vector<Page> example_jobs;

namespace {

std::vector<std::string> names_of(const std::vector<Page>& pages) {
    std::vector<std::string> names;
    for (const auto& page : pages) names.emplace_back(page.first);
    return names;
}

std::string list_of(const std::vector<Page>& pages) {
    std::string all;
    for (const auto& name : names_of(pages)) all += (all.empty() ? "" : ", ") + name;
    return all;
}

std::string text_of(const std::vector<Page>& pages, const std::string& name, const char* kind) {
    for (const auto& page : pages) {
        if (name == page.first) return page.second;
    }
    throw input_error("there is no ", kind, " ", name, did_you_mean(name, names_of(pages)),
                      "; there are ", list_of(pages));
}

}  // namespace

std::string help_topics_line() {
    return list_of(help_pages);
}

std::string help_topic(const std::string& topic) {
    return text_of(help_pages, topic, "help topic");
}

std::string example_job(const std::string& name) {
    return text_of(example_jobs, name, "built-in job");
}

}  // namespace rankfold::cli
