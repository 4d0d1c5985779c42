// Requests to stop from outside.
#pragma once

namespace rankfold::cli {

/// From now on USR1, USR2, XCPU, TERM and INT only set a flag on this rank; a second one of them
/// ends the process at once. Later calls do nothing.
void catch_stop_signals();

/// True once one of them has arrived on this rank.
[[nodiscard]] bool stop_requested();

}  // namespace rankfold::cli
