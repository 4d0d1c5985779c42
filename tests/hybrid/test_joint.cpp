#include <rankfold/hybrid/joint_entries.hpp>

#include <map>

#include <rankfold/core/random.hpp>
#include <rankfold/hybrid/prior.hpp>

#include "hybrid/small_ratings.hpp"
#include "support/mpi_test.hpp"

namespace rankfold::test {

class Joint : public MpiTest {
protected:
    static JointOptions options(bool implicit) {
        return {.als = {.k = 6, .lambda = 0.2, .implicit = implicit, .alpha = 5.0},
                .rounds = 5,
                .hidden = {8},
                .embedding = 4,
                .epochs = 2,
                .batch = 128};
    }

    /// Two columns of numbers a row of the factors.
    static BlockRows<double> features(const Communicator& c, const ShardLayout& layout) {
        BlockRows<double> f(c, layout, 2);
        const Philox random(5, Stream::weights);
        for (Index i = 0; i < f.local().rows(); ++i) {
            for (Index j = 0; j < 2; ++j) f.local()(i, j) = random.normal(f.first_row() + i, j);
        }
        return f;
    }
};

TEST_F(Joint, NoBlockOfLeastSquaresRaisesTheObjective) {
    for (const bool implicit : {false, true}) {
        for (const bool rendle : {false, true}) {
            if (rendle && !implicit) continue;
            JointOptions o = options(implicit);
            if (rendle) o.als.unobserved_weight = 0.1;
            const auto model =
                fit_joint(small_ratings<double>(comm), o, SideFeatures<double>{}, Steering{});
            double before = model.start_objective;
            for (const auto& round : model.factors.history.rows) {
                EXPECT_LE(round[1], before * (1.0 + 1e-12)) << implicit << rendle;
                EXPECT_LE(round[2], round[1] * (1.0 + 1e-12)) << implicit << rendle;
                before = round[3];
            }
            const auto& last = model.factors.history.rows.back();
            EXPECT_LT(last[3], model.start_objective);
        }
    }
}

TEST_F(Joint, WithoutNetworkAndPriorIsPlainAlsBitForBit) {
    for (const bool implicit : {false, true}) {
        JointOptions o = options(implicit);
        o.hidden.clear();
        const auto a = small_ratings<float>(comm);
        auto joint = fit_joint(a, o, SideFeatures<float>{}, Steering{});
        o.als.sweeps = o.rounds;
        auto plain = als(a, o.als, Steering{});
        EXPECT_EQ(digest(comm, joint.factors.tensors()), digest(comm, plain.tensors()));
        EXPECT_FALSE(joint.network.has_value());
    }
}

TEST_F(Joint, HasTheSameBitsOnAnyRanksAndThreads) {
    Ledger alone_ledger;
    const Communicator alone(MPI_COMM_SELF, alone_ledger);
    for (const bool implicit : {false, true}) {
        JointOptions o = options(implicit);
        auto one = fit_joint(small_ratings<float>(alone), o, SideFeatures<float>{}, Steering{});
        o.als.threads = 2;
        auto many = fit_joint(small_ratings<float>(comm), o, SideFeatures<float>{}, Steering{});
        EXPECT_EQ(digest(alone, one.factors.tensors()), digest(comm, many.factors.tensors()));
        EXPECT_EQ(digest(alone, one.network->arena().list()),
                  digest(comm, many.network->arena().list()));
        EXPECT_EQ(one.factors.history.rows, many.factors.history.rows);
    }
}

TEST_F(Joint, ObjectiveIsTheDefinitionOverAllPairs) {
    JointOptions o = options(false);
    const auto a = small_ratings<double>(comm);
    const auto model = fit_joint(a, o, SideFeatures<double>{}, Steering{});
    const auto x = gather_all(model.factors.rows);
    const auto y = gather_all(model.factors.cols);
    auto network = Network<double>(model.network->graph());
    std::ranges::copy(model.network->arena().values(), network.arena().values().begin());
    network.prepare(1);
    Workspace<double> ws = network.workspace(1, Purpose::inference);
    ws.rows = 1;
    std::vector<double> counts(60, 0.0);
    double sum = 0.0;
    const auto rows = a.local().view();
    for (Index i = 0; i < rows.rows; ++i) {
        const Index row = a.first_row() + i;
        for (std::size_t e = 0; e < rows.row_cols(i).size(); ++e) {
            const Index col = rows.row_cols(i)[e];
            ws.indices[0][0] = row;
            ws.indices[1][0] = col;
            network.forward(ws);
            double error =
                rows.row_values(i)[e] - model.factors.global_mean - network.output(ws)(0, 0);
            for (Index f = 0; f < o.als.k; ++f) error -= x(row, f) * y(col, f);
            sum += error * error;
            for (Index f = 0; f < o.als.k; ++f) {
                sum += o.als.lambda * (x(row, f) * x(row, f) + y(col, f) * y(col, f));
            }
        }
    }
    sum = comm.all_reduce(sum, Reduce::sum);
    EXPECT_NEAR(model.factors.history.rows.back()[3], sum, 1e-9 * sum);
}

TEST_F(Joint, APriorPullsTheFactorsTowardsItsNetwork) {
    const auto a = small_ratings<double>(comm);
    const auto f = features(comm, a.layout());
    JointOptions o = options(false);
    o.prior_hidden = {8};
    double distance[2];
    for (const double weight : {0.1, 1000.0}) {
        o.prior_weight = weight;
        auto model = fit_joint(a, o, SideFeatures<double>{.rows = &f}, Steering{});
        double before = model.start_objective;
        for (const auto& round : model.factors.history.rows) {
            EXPECT_LE(round[1], before * (1.0 + 1e-12));
            EXPECT_LE(round[2], round[1] * (1.0 + 1e-12));
            before = round[3];
        }
        EXPECT_TRUE(model.row_prior.has_value());
        EXPECT_FALSE(model.col_prior.has_value());
        BlockRows<double> predicted(comm, model.factors.rows.layout(), o.als.k);
        apply_to_rows(*model.row_prior, f, predicted);
        double sums[2] = {0.0, 0.0};  // ‖X − e(S)‖² and ‖X‖²
        const auto x = model.factors.rows.local().data();
        for (std::size_t i = 0; i < x.size(); ++i) {
            const double apart = x[i] - predicted.local().data()[i];
            sums[0] += apart * apart;
            sums[1] += x[i] * x[i];
        }
        comm.all_reduce(std::span<double>(sums), Reduce::sum);
        distance[weight > 1.0 ? 1 : 0] = sums[0] / sums[1];
    }
    EXPECT_LT(distance[1], 0.1 * distance[0]);
}

TEST_F(Joint, FactorsTravelAsExchangedRowsAlone) {
    // with twice the factors, twice the bytes in the exchange of rows, and the same in all else
    std::map<std::string, double> sent[2];
    for (const Index k : {4, 8}) {
        Ledger account;
        const Communicator own(MPI_COMM_WORLD, account);
        JointOptions o = options(false);
        o.als.k = k;
        static_cast<void>(
            fit_joint(small_ratings<float>(own), o, SideFeatures<float>{}, Steering{}));
        for (const auto& phase : account.phases()) {
            sent[k == 8][phase.name] += phase.bytes_sent;
            if (phase.name.starts_with("als exchange") || phase.name == "residual network") {
                EXPECT_EQ(phase.bytes_sent, phase.bytes_predicted) << phase.name;
            }
        }
    }
    double rows = 0.0;
    for (const auto& [phase, bytes] : sent[0]) {
        const bool exchange = phase.starts_with("als exchange");
        EXPECT_EQ(sent[1].at(phase), exchange ? 2.0 * bytes : bytes) << phase;
        rows += exchange ? bytes : 0.0;
    }
    EXPECT_EQ(rows > 0.0, comm.size() > 1);
}

TEST_F(Joint, ResidualsAreWhatTheFactorsLeaveOfThePreferences) {
    for (const bool implicit : {false, true}) {
        JointOptions o = options(implicit);
        if (implicit) o.als.unobserved_weight = 0.1;
        const auto a = small_ratings<double>(comm);
        const auto model = fit_joint(a, o, SideFeatures<double>{}, Steering{});
        const auto samples = residual_samples(a, o, model.factors, Index{4});
        const auto entries = joint_entries(a, o);
        EXPECT_EQ(samples.samples(), entries.nnz());
        EXPECT_EQ(entries.nnz() > a.nnz(), implicit);
        // entries in global row-major order, on all ranks
        std::vector<double> expected;
        const auto x = gather_all(model.factors.rows);
        const auto y = gather_all(model.factors.cols);
        const CsrView<double> local = entries.local().view();
        for (Index i = 0; i < local.rows; ++i) {
            for (std::size_t e = 0; e < local.row_cols(i).size(); ++e) {
                const double v = local.row_values(i)[e];
                double rest = implicit ? (v > 0.0 ? 1.0 : 0.0) : v - model.factors.global_mean;
                for (Index f = 0; f < o.als.k; ++f) {
                    rest -= x(entries.first_row() + i, f) * y(local.row_cols(i)[e], f);
                }
                expected.push_back(rest);
            }
        }
        expected = comm.all_gather(std::span<const double>(expected));
        std::vector<Index> ids;
        const Range blocks = even_part(samples.blocks(), comm.size(), comm.rank());
        for (Index b = blocks.begin; b < blocks.end; ++b) {
            const Range block = even_part(samples.samples(), samples.blocks(), b);
            for (Index id = block.begin; id < block.end; ++id) ids.push_back(id);
        }
        std::vector<Index> rows(ids.size());
        std::vector<Index> cols(ids.size());
        MicroBatch<double> batch;
        batch.samples = ids;
        batch.indices = {rows, cols};
        samples.fill(batch);
        ASSERT_EQ(batch.targets.values.size(), ids.size());
        for (std::size_t t = 0; t < ids.size(); ++t) {
            EXPECT_NEAR(batch.targets.values[t], expected[static_cast<std::size_t>(ids[t])], 1e-10);
        }
        EXPECT_EQ(batch.targets.weights.empty(), !implicit);
    }
}

TEST_F(Joint, GoesOnFromASavedStateToTheSameBits) {
    const JointOptions o = options(true);
    std::vector<std::vector<double>> saved;
    std::map<std::string, double> scalars;
    Steering saving;
    saving.after = [&](const Progress& progress, const TensorList& state) {
        if (progress.step != 2) return Verdict::go_on;
        scalars = state.scalars;
        for (const Tensor& tensor : state.tensors) {
            saved.emplace_back();
            std::visit([&](const auto& data) { saved.back().assign(data.begin(), data.end()); },
                       tensor.data);
        }
        return Verdict::go_on;
    };
    const auto a = small_ratings<float>(comm);
    auto whole = fit_joint(a, o, SideFeatures<float>{}, saving);
    Steering resuming;
    resuming.restore = [&](TensorList& state) {
        EXPECT_EQ(state.tensors.size(), saved.size());
        for (std::size_t t = 0; t < saved.size(); ++t) {
            std::visit(
                [&](auto& data) {
                    for (std::size_t e = 0; e < data.size(); ++e) {
                        data[e] = static_cast<std::decay_t<decltype(data[e])>>(saved[t][e]);
                    }
                },
                state.tensors[t].data);
        }
        state.scalars = scalars;
        return Index{2};
    };
    auto resumed = fit_joint(a, o, SideFeatures<float>{}, resuming);
    EXPECT_EQ(digest(comm, whole.factors.tensors()), digest(comm, resumed.factors.tensors()));
    EXPECT_EQ(whole.start_objective, resumed.start_objective);
    EXPECT_EQ(digest(comm, whole.network->arena().list()),
              digest(comm, resumed.network->arena().list()));
}

}  // namespace rankfold::test
