#include <cmath>
#include <numeric>

#include <nlohmann/json.hpp>

#include <rankfold/data/hdf5_attributes.hpp>
#include <rankfold/data/matrix_file.hpp>
#include <rankfold/data/names.hpp>
#include <rankfold/data/verified_write.hpp>

namespace rankfold {

namespace {

using nlohmann::json;

/// What the tensors of a matrix file point to besides the matrix itself.
struct Buffers {
    std::vector<Index> indptr;
    std::vector<std::uint8_t> bytes;
};

template <Real R>
std::vector<std::uint8_t> to_bytes(const BlockRows<R>& dense) {
    std::vector<std::uint8_t> bytes;
    dense.comm().agree([&] {
        bytes.reserve(dense.local().data().size());
        for (const R x : dense.local().data()) {
            if (!(x >= 0 && x <= 255) || x != std::floor(x)) {
                throw Error(Fault::bug, concat("the value ", x, " cannot be written as a byte"));
            }
            bytes.push_back(static_cast<std::uint8_t>(x));
        }
    });
    return bytes;
}

/// The tensors of X; `x_tensors` of them, before labels and what stands beside each entry.
template <Real R>
TensorList list_x(MatrixData<R>& matrix, Buffers& buffers, bool as_bytes) {
    const Communicator& comm = matrix.comm();
    TensorList list;
    if (matrix.dense) {
        if (!as_bytes) {
            list.add("X", *matrix.dense);
            return list;
        }
        buffers.bytes = to_bytes(*matrix.dense);
        list.tensors.push_back({.path = "X",
                                .shape = {matrix.rows(), matrix.cols()},
                                .local = matrix.layout().rank_rows(comm.rank()),
                                .data = std::span<std::uint8_t>(buffers.bytes)});
        return list;
    }
    auto& local = matrix.sparse->local();
    const Index nnz = matrix.sparse->nnz();
    const Index first = comm.exclusive_scan(local.nnz());
    // every rank writes where its rows begin, the last one also where all end
    const bool last = comm.rank() == comm.size() - 1;
    buffers.indptr.assign(local.row_ptr.begin(), local.row_ptr.end() - (last ? 0 : 1));
    for (Index& n : buffers.indptr) n += first;
    list.add_part("X/data", nnz, first, std::span<R>(local.values));
    list.add_part("X/indices", nnz, first, std::span<ColIndex>(local.col_idx));
    list.add_part("X/indptr", matrix.rows() + 1, matrix.sparse->first_row(),
                  std::span<Index>(buffers.indptr));
    return list;
}

void encode_array(const Hdf5File& file, const std::string& dataset) {
    const H5Id set(H5Dopen2(file.id(), dataset.c_str(), H5P_DEFAULT), H5Dclose, "H5Dopen2");
    write_attribute(set.get(), "encoding-type", "array");
    write_attribute(set.get(), "encoding-version", "0.2.0");
}

void put_axis(const Hdf5File& file, const std::string& axis, const std::optional<Names>& names,
              const IdSource& source, Index count) {
    if (names) {
        RANKFOLD_EXPECT(count_of(*names) == count);
        write_axis(file, "", axis, *names);
        return;
    }
    if (!source.file.empty()) {
        const Hdf5File from = Hdf5File::open(source.file);
        const auto known = read_axis(from, source.group, axis);
        if (known && count_of(*known) == count) {
            copy_axis(from, source.group, file, "", axis, axis);
            return;
        }
    }
    write_axis(file, "", axis, numbered_names(count));
}

/// What rank 0 writes beside the tensors.
template <Real R>
void decorate(const Hdf5File& file, const MatrixData<R>& matrix, const MatrixExtras& extras,
              json root, std::uint64_t digest) {
    root["encoding-type"] = "anndata";
    root["encoding-version"] = "0.1.0";
    root["digest"] = digest_text(digest);
    write_attributes(file.group("").get(), root);
    if (matrix.sparse) {
        const H5Id x = make_group(file.id(), "X", "csr_matrix", "0.1.0");
        write_attribute(x.get(), "shape", {matrix.rows(), matrix.cols()});
    } else {
        encode_array(file, "X");
    }
    if (matrix.labels) {
        encode_array(file, "obs/label");
        const H5Id uns = make_group(file.id(), "uns", "dict", "0.1.0");
        write_strings(uns.get(), "label_names", static_cast<Index>(matrix.class_names.size()),
                      [&](Index i) { return matrix.class_names[static_cast<std::size_t>(i)]; });
    }
    put_axis(file, "obs", extras.row_names, matrix.ids, matrix.rows());
    put_axis(file, "var", extras.col_names, matrix.ids, matrix.cols());
}

}  // namespace

template <Real R>
void write_matrix(const std::string& path, MatrixData<R>& matrix, const MatrixExtras& extras,
                  const Provenance& provenance, bool as_bytes) {
    const Communicator& comm = matrix.comm();
    Buffers buffers;
    TensorList list = list_x(matrix, buffers, as_bytes);
    const std::size_t x_tensors = list.tensors.size();
    if (matrix.labels) list.add("obs/label", *matrix.labels, true);
    auto beside = extras.per_entry;
    for (auto& [name, numbers] : beside) {
        RANKFOLD_EXPECT(matrix.sparse && numbers.size() == matrix.sparse->local().col_idx.size());
        list.add_part(name, matrix.sparse->nnz(),
                      comm.exclusive_scan(static_cast<Index>(numbers.size())),
                      std::span<std::int64_t>(numbers));
    }
    const auto of_x = [&](std::span<const std::uint64_t> sums) {
        return std::accumulate(sums.begin(), sums.begin() + static_cast<std::ptrdiff_t>(x_tensors),
                               std::uint64_t{0});
    };
    const json root = json::parse(root_attributes(comm, "matrix", provenance));
    const auto sums = write_verified(comm, path, list, [&](const Hdf5File& file, auto checksums) {
        decorate(file, matrix, extras, root, of_x(checksums));
    });
    matrix.file = path;
    matrix.ids = {path, "/"};
    matrix.digest = of_x(sums);
}

template void write_matrix(const std::string&, MatrixData<float>&, const MatrixExtras&,
                           const Provenance&, bool);
template void write_matrix(const std::string&, MatrixData<double>&, const MatrixExtras&,
                           const Provenance&, bool);

}  // namespace rankfold
