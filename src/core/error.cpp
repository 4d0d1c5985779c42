#include <rankfold/core/error.hpp>

namespace rankfold {

void contract_violation(const char* condition, const char* file, int line) {
    throw Error(Fault::bug, concat("the precondition `", condition, "` does not hold (", file, ":",
                                   line, "); please report this"));
}

}  // namespace rankfold
