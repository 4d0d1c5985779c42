#include <rankfold/data/matrix_scan.hpp>

#include <algorithm>

#include <nlohmann/json.hpp>

#include <rankfold/data/hdf5_attributes.hpp>
#include <rankfold/data/hdf5_file.hpp>

namespace rankfold {

namespace {

constexpr Index block_elements = Index{1} << 20;

/// One more than the greatest label.
Index count_classes(const Hdf5File& file) {
    const char* name = file.has_dataset("obs/label/codes") ? "obs/label/codes" : "obs/label";
    if (!file.has_group("obs") || !file.has_dataset(name)) return 0;
    const Hdf5Dataset labels = file.dataset(name);
    if (labels.kind() != Hdf5Dataset::Kind::integer) return 0;
    std::vector<Index> values(static_cast<std::size_t>(labels.rows()));
    labels.read({0, labels.rows()}, std::span<Index>(values));
    return values.empty() ? 0 : std::ranges::max(values) + 1;
}

}  // namespace

MatrixShape scan_shape(const std::string& path) {
    const Hdf5File file = Hdf5File::open(path);
    MatrixShape shape;
    shape.classes = count_classes(file);
    if (file.has_dataset("X")) {
        const Hdf5Dataset x = file.dataset("X");
        shape.rows = x.rows();
        shape.cols = x.width();
        shape.nnz = shape.rows * shape.cols;
        return shape;
    }
    if (!file.has_group("X")) {
        throw input_error("'", path, "' holds no matrix X; make one with `rankfold import`");
    }
    const nlohmann::json about = read_attributes(file.group("X").get());
    if (about.value("encoding-type", "") != "csr_matrix") {
        throw input_error("'", path, "' is not stored by rows (csr_matrix); plan reads only those");
    }
    shape.sparse = true;
    shape.rows = about.at("shape").at(0).get<Index>();
    shape.cols = about.at("shape").at(1).get<Index>();
    shape.nnz = file.dataset("X/indices").rows();
    const Hdf5Dataset indptr = file.dataset("X/indptr");
    if (indptr.rows() != shape.rows + 1) {
        throw input_error(indptr.where(), " does not fit the shape; the file is damaged");
    }
    std::vector<Index> ends(static_cast<std::size_t>(indptr.rows()));
    indptr.read({0, indptr.rows()}, std::span<Index>(ends));
    for (std::size_t i = 1; i < ends.size(); ++i) {
        if (ends[i] < ends[i - 1]) throw input_error(indptr.where(), " falls; it is damaged");
        shape.row_counts.push_back(ends[i] - ends[i - 1]);
    }
    return shape;
}

void scan_rows(const std::string& path, const MatrixShape& shape,
               const std::function<void(Index row, std::span<const ColIndex> cols)>& visit) {
    const Hdf5File file = Hdf5File::open(path);
    const Hdf5Dataset indices = file.dataset("X/indices");
    std::vector<ColIndex> cols;
    Index entry = 0;
    for (Index row = 0; row < shape.rows;) {
        Index end = row;
        Index count = 0;
        while (end < shape.rows && (end == row || count < block_elements)) {
            count += shape.row_counts[static_cast<std::size_t>(end++)];
        }
        cols.resize(static_cast<std::size_t>(count));
        indices.read({entry, entry + count}, std::span<ColIndex>(cols));
        const bool good =
            std::ranges::all_of(cols, [&](ColIndex j) { return j >= 0 && Index{j} < shape.cols; });
        if (!good) throw input_error(indices.where(), " has a column that is not in the matrix");
        std::size_t at = 0;
        for (; row < end; ++row) {
            const auto n =
                static_cast<std::size_t>(shape.row_counts[static_cast<std::size_t>(row)]);
            visit(row, std::span<const ColIndex>(cols).subspan(at, n));
            at += n;
        }
        entry += count;
    }
}

}  // namespace rankfold
