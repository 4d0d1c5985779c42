// The base of tests that run under mpirun, and what they share.
#pragma once

#include <filesystem>
#include <string>

#include <gtest/gtest.h>

#include <rankfold/comm/communicator.hpp>

namespace rankfold::test {

/// Gives each test a fresh communicator over all ranks and a ledger of its own.
///
/// Use EXPECT, never ASSERT, before the last collective of a test: a rank that leaves early would
/// hang the others. A failure on any rank fails the test on all (see mpi_main.cpp).
class MpiTest : public ::testing::Test {
protected:
    Ledger ledger;
    Communicator comm{ledger};

    /// The same scratch folder on all ranks, empty, removed at the end of the test.
    const std::filesystem::path& scratch();

    void TearDown() override;

private:
    std::filesystem::path scratch_;
};

/// Runs `work`, expects an Error of this kind on every rank, and returns its message.
template <class Work>
std::string expect_error(Fault fault, Work&& work) {
    try {
        work();
    } catch (const Error& error) {
        EXPECT_EQ(static_cast<int>(error.fault()), static_cast<int>(fault)) << error.what();
        return error.what();
    }
    ADD_FAILURE() << "no error was thrown";
    return {};
}

}  // namespace rankfold::test
