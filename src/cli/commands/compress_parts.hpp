// What `rankfold compress` measures of networks, and how it tells.
#pragma once

#include <optional>
#include <vector>

#include <rankfold/cli/network_file.hpp>
#include <rankfold/eval/ranking.hpp>
#include <rankfold/hybrid/compress.hpp>

namespace rankfold::cli {

/// Seconds of the forward pass for 1,000 samples in batches of `batch`: the median of 9. The
/// slowest rank's. @collective
template <Real R>
[[nodiscard]] double forward_seconds(const Communicator& comm, Network<R>& network, Index batch);

/// What each stack costs in seconds for 1,000 samples: dense, and by measurements of two sizes
/// factored. One that is not faster factored costs the same. The same on all ranks. @collective
template <Real R>
[[nodiscard]] std::vector<LayerPrice> time_prices(const Communicator& comm,
                                                  const std::vector<StackShape>& stacks,
                                                  Index batch);

/// What a network is measured by: accuracy, rmse or hr@10.
template <Real R>
[[nodiscard]] std::string metric_name(const NetworkModel<R>& model);
/// Whether a greater metric is better.
[[nodiscard]] inline bool greater_is_better(const std::string& metric) {
    return metric != "rmse";
}

/// How often every row of a network's tables is read: the entries of the rows or columns.
/// @collective
template <Real R>
[[nodiscard]] std::vector<LayerStatistics> table_visits(const Graph& graph,
                                                        const BlockRowCsr<R>& entries);

/// The network's metric on a matrix. @collective
/// @param data  what its rows are known by, if it ranks columns
template <Real R>
[[nodiscard]] Estimate measure_network(Run& run, NetworkModel<R>& model, const std::string& metric,
                                       const MatrixData<R>& data, const MatrixData<R>& test);
/// That of factors of these names.
template <Real R>
[[nodiscard]] Estimate measure_factors(Run& run, const Factors<R>& factors, const IdSource& names,
                                       const std::string& metric, const MatrixData<R>& data,
                                       const MatrixData<R>& test);

/// A network's size and speed.
struct NetworkFigures {
    Index parameters = 0;    ///< numbers
    double flops = 0.0;      ///< of a sample's forward pass
    double seconds = 0.0;    ///< of the forward pass for 1,000 samples, on one rank
    double megabytes = 0.0;  ///< of its numbers in a file
};

/// One line of the table: what a method makes of a network. The first line is the network itself.
struct CompressionRow {
    std::string method;
    double size = 1.0;  ///< the budget, in what the prices count
    std::vector<LayerPlan> plan{};
    NetworkFigures figures{};
    std::optional<Estimate> truncated{};  ///< on the test matrix
    std::optional<Estimate> tuned{};
    std::optional<double> validation_truncated{};
    std::optional<double> validation_tuned{};
};

/// @collective
template <Real R>
[[nodiscard]] NetworkFigures network_figures(const Communicator& comm, Network<R>& network,
                                             Index batch);

/// Prints what became of every layer.
void tell_plan(Run& run, const CompressionRow& row);

/// Prints the table of all methods, and puts it in the report.
void tell_rows(Run& run, const std::vector<CompressionRow>& rows, const std::string& metric);

}  // namespace rankfold::cli
