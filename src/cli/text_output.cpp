#include <rankfold/cli/text_output.hpp>

#include <cerrno>
#include <cstring>
#include <filesystem>

namespace rankfold::cli {

std::string csv_field(const std::string& text) {
    if (text.find_first_of(",\"\n\r") == std::string::npos) return text;
    std::string quoted = "\"";
    for (const char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
    return quoted + "\"";
}

TextFile::TextFile(const Communicator& comm, const std::string& path)
    : comm_{comm}, path_{path}, temporary_{path + ".tmp"} {
    if (comm_.is_root()) out_.open(temporary_, std::ios::trunc);
    check();
}

TextFile::~TextFile() {
    std::error_code ignored;
    if (comm_.is_root() && !done_) std::filesystem::remove(temporary_, ignored);
}

void TextFile::write(const std::string& text) {
    if (comm_.is_root()) out_ << text << std::flush;
    check();
}

void TextFile::finish() {
    if (comm_.is_root()) out_.close();
    check();
    comm_.agree([&] {
        std::error_code failure;
        if (comm_.is_root()) std::filesystem::rename(temporary_, path_, failure);
        if (failure) throw Error(Fault::system, path_ + ": " + failure.message());
    });
    done_ = true;
}

void TextFile::check() const {
    comm_.agree([&] {
        if (comm_.is_root() && !out_) {
            throw Error(Fault::system, concat("the output ", path_,
                                              " could not be written: ", std::strerror(errno),
                                              "; nothing stands under its name"));
        }
    });
}

}  // namespace rankfold::cli
