// The bytes of each scheme of exchange are those predicted. Run on many ranks too.
#include "als_problems.hpp"
#include "support/mpi_test.hpp"

namespace rankfold::test {

using ExchangeBytes = MpiTest;

TEST_F(ExchangeBytes, ExchangesSendWhatWasPredictedAndTheLeastIsChosen) {
    const auto a = sparse_rows<float>(comm, small_matrix(300, 40, 0.1, true));
    const auto transposed = transpose(a);
    const AlsOptions options{.k = 6, .implicit = true};
    BlockRows<float> x(comm, a.layout(), options.k);
    BlockRows<float> y(comm, transposed.layout(), options.k);
    y.local().fill(1.0F);
    const auto measured = [&](Exchange exchange) {
        SparseSide<float> side(
            a, {.problem = row_problem(options, 0.0, a.cols()), .exchange = exchange, .heavy = 4},
            transposed.layout(), options.k, &transposed);
        const auto sent = [&] {
            double bytes = 0.0;
            for (const auto& phase : ledger.phases()) {
                if (phase.name.starts_with("als exchange") || phase.name == "als partial sums") {
                    bytes += phase.bytes_sent;
                }
            }
            return bytes;
        };
        const double before = sent();
        side.solve(y, x);
        const auto bytes = double(comm.all_reduce(Index(sent() - before), Reduce::sum));
        const auto at = static_cast<std::size_t>(side.exchange()) - 1;
        EXPECT_EQ(bytes, side.exchange_bytes().at(at));
        return bytes;
    };
    const double least = std::min(
        {measured(Exchange::all), measured(Exchange::needed), measured(Exchange::reduced)});
    EXPECT_EQ(measured(Exchange::automatic), least);
}

}  // namespace rankfold::test
