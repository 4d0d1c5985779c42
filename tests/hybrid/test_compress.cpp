#include <rankfold/hybrid/compress.hpp>

#include <rankfold/core/random.hpp>

#include "support/mpi_test.hpp"

namespace rankfold::test {

class Compress : public MpiTest {
protected:
    /// A network whose weights are low-rank plus a little noise.
    static Network<double> network() {
        Network<double> net(dense_chain(30, {24, 20}, 3, Activation::relu, 0.0));
        net.initialize(3);
        const Philox random(1, Stream::weights);
        for (const auto& tensor : net.arena().tensors()) {
            if (tensor.part != Part::weight) continue;
            const auto w = net.arena().matrix(tensor.path);
            for (Index i = 0; i < w.rows; ++i) {
                for (Index j = 0; j < w.cols; ++j) {
                    w(i, j) = 0.01 * w(i, j) + random.normal(i, 1) * random.normal(j, 2) +
                              0.5 * random.normal(i, 3) * random.normal(j, 4);
                }
            }
        }
        return net;
    }
    static double weights(const std::vector<LayerPlan>& plan) {
        double sum = 0.0;
        for (const auto& layer : plan) sum += static_cast<double>(layer.weights());
        return sum;
    }
};

TEST_F(Compress, AllMethodsKeepTheBudgetAndFindTheLowRankPart) {
    auto net = network();
    const double dense = 30 * 24 + 24 * 20 + 20 * 3;
    for (const auto method : {CompressMethod::svd, CompressMethod::als, CompressMethod::nmf}) {
        std::vector<LayerPlan> plan;
        auto small = compress(comm, net, {.method = method, .size = 0.4, .sweeps = 60}, plan);
        EXPECT_LE(weights(plan), 0.4 * dense);
        EXPECT_EQ(plan.size(), 3U);
        for (const auto& layer : plan) {
            if (layer.inner == 0) continue;
            EXPECT_LT(layer.inner * (layer.out + layer.in), layer.out * layer.in);
            // nonnegative parts need more directions than signed ones
            EXPECT_LT(layer.relative_error, method == CompressMethod::nmf ? 0.8 : 0.05);
        }
        const auto count = [](Network<double>& n) {
            double sum = 0.0;
            for (const auto& t : n.arena().tensors()) {
                if (t.part != Part::bias) sum += static_cast<double>(t.size());
            }
            return sum;
        };
        EXPECT_EQ(count(small), weights(plan));
    }
}

TEST_F(Compress, FactoredLayersComputeAlmostTheSame) {
    auto net = network();
    std::vector<LayerPlan> plan;
    auto small = compress(comm, net, {.size = 0.5}, plan);
    const auto run = [](Network<double>& n) {
        n.prepare(5);
        Workspace<double> ws = n.workspace(5, Purpose::inference);
        ws.rows = 5;
        for (Index i = 0; i < 5; ++i) {
            for (Index j = 0; j < 30; ++j) ws.inputs[0](i, j) = 0.1 * double((i * 7 + j * 3) % 11);
        }
        n.forward(ws);
        const auto z = n.output(ws);
        return std::vector<double>(z.data, z.data + 15);
    };
    const auto before = run(net);
    const auto after = run(small);
    double scale = 0.0;
    for (const double z : before) scale = std::max(scale, std::abs(z));
    for (std::size_t i = 0; i < before.size(); ++i) {
        EXPECT_NEAR(after[i], before[i], 0.02 * scale);
    }
}

TEST_F(Compress, AllocationSpendsTheBudgetWhereItExplainsMost) {
    const std::vector<std::pair<Index, Index>> shapes{{100, 100}, {100, 100}, {4, 3}};
    const std::vector<std::vector<double>> spectra{{10, 1, 0.1, 0.01}, {10, 9, 8, 7}, {1, 1, 1}};
    const auto inner = allocate_ranks(shapes, spectra, 5 * 200 + 12);
    EXPECT_EQ(inner, (std::vector<Index>{1, 4, 0}));  // 4 x 3 cannot get smaller: it stays dense
    const std::string message = expect_error(
        Fault::input, [&] { static_cast<void>(allocate_ranks(shapes, spectra, 300)); });
    EXPECT_NE(message.find("--size"), std::string::npos);
}

TEST_F(Compress, GivesTheSameBitsOnAnyRanks) {
    Ledger alone_ledger;
    const Communicator alone(MPI_COMM_SELF, alone_ledger);
    auto net = network();
    for (const auto method : {CompressMethod::svd, CompressMethod::als, CompressMethod::nmf}) {
        std::vector<LayerPlan> plan;
        auto one = compress(alone, net, {.method = method, .size = 0.4}, plan);
        auto many = compress(comm, net, {.method = method, .size = 0.4}, plan);
        EXPECT_EQ(digest(alone, one.arena().list()), digest(comm, many.arena().list()));
    }
}

}  // namespace rankfold::test
