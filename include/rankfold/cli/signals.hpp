// Requests to stop from outside.
#pragma once

namespace rankfold::cli {

/// From now on USR1, USR2, XCPU, TERM and INT only set a flag on this rank; a second one of them
/// ends the process at once, unless it comes within a quarter of a second: launchers and batch
/// systems may both pass one on.
void catch_stop_signals();

/// True once one of them has arrived on this rank.
[[nodiscard]] bool stop_requested();

}  // namespace rankfold::cli
