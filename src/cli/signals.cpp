#include <rankfold/cli/signals.hpp>

#include <csignal>
#include <ctime>
#include <initializer_list>

#include <unistd.h>

namespace rankfold::cli {

namespace {

volatile std::sig_atomic_t requested = 0;
timespec first_request;

extern "C" void note_stop(int signal) {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (requested != 0) {
        const auto later = static_cast<double>(now.tv_sec - first_request.tv_sec) +
                           1e-9 * static_cast<double>(now.tv_nsec - first_request.tv_nsec);
        if (later > 0.25) _exit(128 + signal);
        return;
    }
    first_request = now;
    requested = 1;
}

}  // namespace

void catch_stop_signals() {
    struct sigaction action {};
    action.sa_handler = note_stop;
    action.sa_flags = SA_RESTART;
    for (const int signal : {SIGUSR1, SIGUSR2, SIGXCPU, SIGTERM, SIGINT}) {
        sigaddset(&action.sa_mask, signal);
    }
    for (const int signal : {SIGUSR1, SIGUSR2, SIGXCPU, SIGTERM, SIGINT}) {
        sigaction(signal, &action, nullptr);
    }
}

bool stop_requested() {
    return requested != 0;
}

}  // namespace rankfold::cli
