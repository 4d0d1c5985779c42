// Text files that commands write for people and other programs.
#pragma once

#include <fstream>
#include <string>

#include <rankfold/comm/communicator.hpp>

namespace rankfold::cli {

/// A field of a CSV file, in quotes where it needs them.
[[nodiscard]] std::string csv_field(const std::string& text);

/// A text file that rank 0 writes beside its final name and renames when all is well.
class TextFile {
public:
    /// @collective over comm, which must outlive the file
    /// @throws Error (Fault::system), agreed
    TextFile(const Communicator& comm, const std::string& path);
    ~TextFile();
    TextFile(const TextFile&) = delete;
    TextFile& operator=(const TextFile&) = delete;

    /// Appends; only rank 0's text counts. @collective @throws Error (Fault::system), agreed
    void write(const std::string& text);

    /// Closes the file and gives it its name. @collective @throws Error (Fault::system), agreed
    void finish();

private:
    void check() const;

    const Communicator& comm_;
    std::string path_;
    std::string temporary_;
    std::ofstream out_;
    bool done_ = false;
};

}  // namespace rankfold::cli
