// The one exception type, what its kinds mean, and the contract macro.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace rankfold {

/// Whose fault a failure is; its value is the program's exit code.
enum class Fault {
    check = 1,     ///< a requested check failed, or the numbers broke down (NaN, not definite)
    input = 2,     ///< the input or the options are wrong
    system = 3,    ///< the machine failed: I/O, MPI, memory
    bug = 4,       ///< we are wrong
    stopped = 75,  ///< not a failure: stopped on request, with a checkpoint written
    silent = 79,   ///< the watchdog ended a job that stood still; never thrown
};

/// A failure in one line: problem (where) and what to do.
///
/// No rank throws alone for a reason which others could share: see Communicator::agree. An Error
/// with `agreed()` was thrown by every rank alike, so main() prints it once and ends the job in
/// good order; any other Error may have struck one rank alone, and main() aborts the job.
class Error : public std::runtime_error {
public:
    Error(Fault fault, const std::string& message, bool agreed = false)
        : std::runtime_error(message), fault_{fault}, agreed_{agreed} {}

    [[nodiscard]] Fault fault() const noexcept { return fault_; }
    [[nodiscard]] bool agreed() const noexcept { return agreed_; }

private:
    Fault fault_;
    bool agreed_;
};

/// Concatenates its arguments as text, numbers with up to 17 significant digits as needed.
template <class... Parts>
[[nodiscard]] std::string concat(const Parts&... parts) {
    std::ostringstream text;
    text.precision(9);
    (text << ... << parts);
    return text.str();
}

/// An Error of Fault::input from the concatenated parts: `throw input_error("no row ", i);`
template <class... Parts>
[[nodiscard]] Error input_error(const Parts&... parts) {
    return Error(Fault::input, concat(parts...));
}

/// Throws Error (Fault::bug) naming the broken precondition; used by RANKFOLD_EXPECT.
[[noreturn]] void contract_violation(const char* condition, const char* file, int line);

}  // namespace rankfold

/// A precondition that costs O(1), checked in every build.
#define RANKFOLD_EXPECT(condition) \
    ((condition) ? void(0) : ::rankfold::contract_violation(#condition, __FILE__, __LINE__))
