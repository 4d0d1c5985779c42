// A non-blocking exchange.
#pragma once

#include <memory>

namespace rankfold {

/// An exchange under way; finishes in wait() or in its destructor. Its buffers stay untouched by
/// the caller until then.
class PendingExchange {
public:
    PendingExchange();
    PendingExchange(PendingExchange&&) noexcept;
    PendingExchange& operator=(PendingExchange&&) noexcept;
    ~PendingExchange();

    /// Lets MPI make progress (this MPI moves data only inside its calls). True when finished.
    bool test();

    /// Blocks until the buffers may be used again.
    void wait();

private:
    friend class Communicator;
    struct Requests;
    std::unique_ptr<Requests> requests_;
};

}  // namespace rankfold
