#include <rankfold/cli/signals.hpp>

#include <csignal>
#include <initializer_list>

#include <unistd.h>

namespace rankfold::cli {

namespace {

volatile std::sig_atomic_t requested = 0;

extern "C" void note_stop(int signal) {
    if (requested != 0) _exit(128 + signal);
    requested = 1;
}

}  // namespace

void catch_stop_signals() {
    struct sigaction action {};
    action.sa_handler = note_stop;
    action.sa_flags = SA_RESTART;
    for (const int signal : {SIGUSR1, SIGUSR2, SIGXCPU, SIGTERM, SIGINT}) {
        sigaction(signal, &action, nullptr);
    }
}

bool stop_requested() {
    return requested != 0;
}

}  // namespace rankfold::cli
