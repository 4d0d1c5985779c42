#include <rankfold/hybrid/deep_mf.hpp>

#include "hybrid/small_ratings.hpp"
#include "support/mpi_test.hpp"

namespace rankfold::test {

class DeepMf : public MpiTest {};

TEST_F(DeepMf, LinearTowersReachTheObjectiveOfAls) {
    const auto a = small_ratings<double>(comm);
    const auto reference = als(a, AlsOptions{.k = 3, .sweeps = 200, .lambda = 0.1}, Steering{});
    DeepMfOptions o{.k = 3, .embedding = 6, .lambda = 0.1};
    o.train.epochs = 150;
    o.train.batch = 256;
    o.train.optimizer.learning_rate = 0.02;
    const auto model = fit_deep_mf(a, o, Steering{});
    const double wanted = reference.history.rows.back()[1];
    const double reached = model.factors.history.rows.back()[1];
    EXPECT_LE(reached, 1.01 * wanted);
}

TEST_F(DeepMf, HasTheSameBitsOnAnyRanksAndThreads) {
    Ledger alone_ledger;
    const Communicator alone(MPI_COMM_SELF, alone_ledger);
    for (const auto& hidden : {std::vector<Index>{}, std::vector<Index>{6, 5}}) {
        for (const bool implicit : {false, true}) {
            DeepMfOptions o{.k = 4, .embedding = 5, .hidden = hidden, .implicit = implicit};
            o.train.epochs = 2;
            o.train.batch = 128;
            auto one = fit_deep_mf(small_ratings<float>(alone), o, Steering{});
            o.train.threads = 2;
            auto many = fit_deep_mf(small_ratings<float>(comm), o, Steering{});
            EXPECT_EQ(digest(alone, one.factors.tensors()), digest(comm, many.factors.tensors()));
            EXPECT_EQ(digest(alone, one.network.arena().list()),
                      digest(comm, many.network.arena().list()));
        }
    }
}

TEST_F(DeepMf, ObjectiveFalls) {
    DeepMfOptions o{.k = 4, .embedding = 8, .hidden = {8}};
    o.train.epochs = 10;
    o.train.batch = 128;
    const auto model = fit_deep_mf(small_ratings<float>(comm), o, Steering{});
    const auto& rows = model.factors.history.rows;
    EXPECT_LT(rows.back()[1], 0.9 * rows.front()[1]);
    EXPECT_EQ(model.factors.method, "deepmf");
}

}  // namespace rankfold::test
