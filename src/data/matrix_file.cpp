#include <rankfold/data/matrix_file.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include <nlohmann/json.hpp>

#include <rankfold/core/hash.hpp>
#include <rankfold/data/hdf5_attributes.hpp>
#include <rankfold/data/hdf5_file.hpp>

namespace rankfold {

namespace {

using nlohmann::json;

constexpr Index block_elements = Index{1} << 20;

std::size_t at(Index i) {
    return static_cast<std::size_t>(i);
}

/// What the file says that it holds, before any element is read.
struct Header {
    enum class Layout { csr, csc, dense } layout = Layout::dense;
    Index rows = 0;
    Index cols = 0;
    Index nnz = 0;
    Hdf5Dataset values;
    Hdf5Dataset indices;
    Hdf5Dataset indptr;
};

void expect_integers(const Hdf5Dataset& set, Index length) {
    if (set.kind() != Hdf5Dataset::Kind::integer) {
        throw input_error(set.where(), " must hold integers");
    }
    if (set.shape() != std::vector<Index>{length}) {
        throw input_error(set.where(), " must be a vector of ", length, " elements");
    }
}

void expect_numbers(const Hdf5Dataset& set, std::size_t dimensions) {
    if (set.kind() != Hdf5Dataset::Kind::integer && set.kind() != Hdf5Dataset::Kind::real) {
        throw input_error(set.where(), " must hold real numbers");
    }
    if (set.shape().size() != dimensions) {
        throw input_error(set.where(), " has ", set.shape().size(), " dimensions, not ",
                          dimensions);
    }
}

void read_sparse_header(const Hdf5File& file, Header& header) {
    const json about = read_attributes(file.group("X").get());
    const std::string encoding =
        about.value("encoding-type", json("")).is_string() ? about.value("encoding-type", "") : "";
    if (encoding != "csr_matrix" && encoding != "csc_matrix") {
        throw input_error("'", file.path(), "': the group X has the encoding-type '", encoding,
                          "'; it must be csr_matrix or csc_matrix");
    }
    const json shape = about.value("shape", json());
    if (!shape.is_array() || shape.size() != 2 || !shape[0].is_number_integer() ||
        !shape[1].is_number_integer()) {
        throw input_error("'", file.path(),
                          "': the group X has no attribute `shape` of two "
                          "integers");
    }
    header.rows = shape[0].get<Index>();
    header.cols = shape[1].get<Index>();
    header.layout = encoding == "csr_matrix" ? Header::Layout::csr : Header::Layout::csc;
    constexpr Index most = std::numeric_limits<ColIndex>::max();
    if (header.rows < 1 || header.cols < 1 || header.rows > most || header.cols > most) {
        throw input_error("'", file.path(), "': X has the shape ", header.rows, " x ", header.cols,
                          "; a matrix needs at least one row and one column, and at most ", most);
    }
    header.values = file.dataset("X/data");
    header.indices = file.dataset("X/indices");
    header.indptr = file.dataset("X/indptr");
    expect_numbers(header.values, 1);
    header.nnz = header.values.rows();
    expect_integers(header.indices, header.nnz);
    expect_integers(header.indptr,
                    (header.layout == Header::Layout::csr ? header.rows : header.cols) + 1);
    if (header.nnz == 0) {
        throw input_error("'", file.path(), "': X is ", header.rows, " x ", header.cols,
                          " without any entry; there is nothing to work on");
    }
}

Header read_header(const Hdf5File& file) {
    const json about = read_attributes(file.group("").get());
    const json kind = about.value("rankfold", json("matrix"));
    if (kind != "matrix") {
        throw input_error("'", file.path(), "' holds ",
                          kind.is_string() ? kind.get<std::string>() : "something else",
                          ", not a matrix");
    }
    if (!file.has("X")) {
        throw input_error("'", file.path(),
                          "' holds no matrix X (AnnData's layout); make one with "
                          "`rankfold import`");
    }
    Header header;
    if (file.has_group("X")) {
        read_sparse_header(file, header);
        return header;
    }
    header.values = file.dataset("X");
    expect_numbers(header.values, 2);
    header.rows = header.values.shape()[0];
    header.cols = header.values.shape()[1];
    if (header.rows == 0 || header.cols == 0) {
        throw input_error("'", file.path(), "': X is ", header.rows, " x ", header.cols,
                          ": an empty matrix");
    }
    header.nnz = header.rows * header.cols;
    return header;
}

/// Reads values in file order, converting from the stored type, checks that they are finite and
/// adds what they contribute to the digest.
template <class Stored, Real R>
void read_as(const Hdf5Dataset& set, const std::string& name, Range rows, R* out,
             std::uint64_t& digest, const std::function<std::string(Index)>& place_of) {
    std::vector<Stored> block;
    Index element = rows.begin * set.width();
    in_slices(rows, 1, set.width(), block_elements, [&](Range part, Range) {
        block.resize(at(part.size() * set.width()));
        set.read(part, std::span<Stored>(block));
        digest += digest_sum<Stored>(block, fnv1a(name), element);
        for (const Stored x : block) {
            const R value = static_cast<R>(x);
            if (!std::isfinite(value)) {
                throw input_error(set.where(), ": ", place_of(element), " holds ",
                                  static_cast<double>(x),
                                  std::isfinite(static_cast<double>(x))
                                      ? ", which is too large for float; use --precision double"
                                      : ", which is not finite; mend or remove it");
            }
            *out++ = value;
            ++element;
        }
    });
}

template <Real R>
void read_values(const Hdf5Dataset& set, const std::string& name, Range rows, R* out,
                 std::uint64_t& digest, const std::function<std::string(Index)>& place_of) {
    if (set.is_bytes()) {
        read_as<std::uint8_t>(set, name, rows, out, digest, place_of);
    } else if (set.kind() == Hdf5Dataset::Kind::real && set.element_bytes() == 4) {
        read_as<float>(set, name, rows, out, digest, place_of);
    } else {
        read_as<double>(set, name, rows, out, digest, place_of);
    }
}

/// indptr of rows [rows.begin, rows.end], checked.
std::vector<Index> read_indptr(const Header& header, Range rows) {
    std::vector<Index> indptr(at(rows.size()) + 1);
    header.indptr.read({rows.begin, rows.end + 1}, std::span<Index>(indptr));
    for (std::size_t t = 0; t < indptr.size(); ++t) {
        const Index row = rows.begin + static_cast<Index>(t);
        const Index wanted_first = row == 0 ? 0 : indptr[t];
        if (indptr[t] < 0 || indptr[t] > header.nnz || indptr[t] != wanted_first ||
            (t > 0 && indptr[t] < indptr[t - 1])) {
            throw input_error(header.indptr.where(), " does not rise from 0 to ", header.nnz,
                              ": element ", row, " is ", indptr[t],
                              "; the file is damaged, make it anew");
        }
    }
    if (rows.end + 1 == header.indptr.rows() && indptr.back() != header.nnz) {
        throw input_error(header.indptr.where(), " ends with ", indptr.back(), " where X has ",
                          header.nnz, " entries; the file is damaged, make it anew");
    }
    return indptr;
}

/// Brings the columns of one row into order. @throws Error (Fault::input) for a repeated column
template <Real R>
void sort_row(CsrMatrix<R>& local, Index begin, Index end, const std::string& where, Index row) {
    const auto cols = std::span(local.col_idx).subspan(at(begin), at(end - begin));
    const auto values = std::span(local.values).subspan(at(begin), at(end - begin));
    if (std::ranges::adjacent_find(cols, std::ranges::greater_equal{}) == cols.end()) return;
    std::vector<std::pair<ColIndex, R>> entries;
    for (std::size_t e = 0; e < cols.size(); ++e) entries.emplace_back(cols[e], values[e]);
    std::ranges::stable_sort(entries, {}, &std::pair<ColIndex, R>::first);
    for (std::size_t e = 0; e < cols.size(); ++e) {
        std::tie(cols[e], values[e]) = entries[e];
        if (e > 0 && cols[e] == cols[e - 1]) {
            throw input_error(where, ": row ", row, " has the column ", cols[e],
                              " twice; each entry may stand once");
        }
    }
}

/// This rank's rows of X as it is stored (columns of a csc_matrix count as rows).
template <Real R>
CsrMatrix<R> read_rows(const Header& header, Range rows, Index cols, std::uint64_t& digest) {
    CsrMatrix<R> local;
    local.cols = cols;
    local.row_ptr = read_indptr(header, rows);
    const bool last = rows.end + 1 == header.indptr.rows();
    digest += digest_sum<Index>(
        std::span(local.row_ptr)
            .first(last && rows.size() > 0 ? local.row_ptr.size() : at(rows.size())),
        fnv1a("X/indptr"), rows.begin);
    const Range entries{local.row_ptr.front(), local.row_ptr.back()};
    for (Index& n : local.row_ptr) n -= entries.begin;
    local.col_idx.resize(at(entries.size()));
    local.values.resize(at(entries.size()));
    const auto row_of = [&](Index entry) {
        const auto next = std::ranges::upper_bound(local.row_ptr, entry - entries.begin);
        return rows.begin + static_cast<Index>(next - local.row_ptr.begin()) - 1;
    };
    header.indices.read(entries, std::span<ColIndex>(local.col_idx));
    digest += digest_sum<ColIndex>(local.col_idx, fnv1a("X/indices"), entries.begin);
    for (std::size_t e = 0; e < local.col_idx.size(); ++e) {
        if (local.col_idx[e] < 0 || local.col_idx[e] >= cols) {
            throw input_error(header.indices.where(), ": row ",
                              row_of(entries.begin + static_cast<Index>(e)), " has the column ",
                              local.col_idx[e], ", which is not in 0 … ", cols - 1,
                              "; the file is damaged, make it anew");
        }
    }
    read_values(header.values, "X/data", entries, local.values.data(), digest, [&](Index entry) {
        const Index line = row_of(entry);
        const Index other = local.col_idx[at(entry - entries.begin)];
        const bool csr = header.layout == Header::Layout::csr;
        return concat("row ", csr ? line : other, ", column ", csr ? other : line);
    });
    for (Index i = 0; i < rows.size(); ++i) {
        sort_row(local, local.row_ptr[at(i)], local.row_ptr[at(i) + 1], header.indices.where(),
                 rows.begin + i);
    }
    return local;
}

template <Real R>
BlockRowCsr<R> read_sparse(const Communicator& comm, const Header& header, std::uint64_t& digest) {
    const bool csr = header.layout == Header::Layout::csr;
    const Index rows = csr ? header.rows : header.cols;
    const Index cols = csr ? header.cols : header.rows;
    const Range part = even_part(rows, comm.size(), comm.rank());
    std::vector<Index> counts;
    comm.agree([&] {
        const auto indptr = read_indptr(header, part);
        for (std::size_t t = 1; t < indptr.size(); ++t) counts.push_back(indptr[t] - indptr[t - 1]);
    });
    const ShardLayout layout = balanced_layout(comm, rows, part.begin, counts);
    CsrMatrix<R> local;
    comm.agree([&] { local = read_rows<R>(header, layout.rank_rows(comm.rank()), cols, digest); });
    BlockRowCsr<R> stored(comm, layout, std::move(local));
    return csr ? std::move(stored) : transpose(stored);
}

template <Real R>
BlockRows<R> read_dense(const Communicator& comm, const Header& header, std::uint64_t& digest) {
    BlockRows<R> matrix(comm, ShardLayout::even(header.rows, shard_count(header.nnz), comm.size()),
                        header.cols);
    comm.agree([&] {
        read_values(header.values, "X", matrix.layout().rank_rows(comm.rank()),
                    matrix.local().data().data(), digest, [&](Index element) {
                        return concat("row ", element / header.cols, ", column ",
                                      element % header.cols);
                    });
    });
    return matrix;
}

/// obs/label: integers, or AnnData's categorical column; 0 … classes − 1.
template <Real R>
void read_labels(const Hdf5File& file, MatrixData<R>& data) {
    const Communicator& comm = data.comm();
    bool present = false;
    bool categorical = false;
    std::optional<Hdf5Dataset> set;
    comm.agree([&] {
        categorical = file.has_group("obs/label");
        present = categorical || file.has_dataset("obs/label");
        if (!present) return;
        set = file.dataset(categorical ? "obs/label/codes" : "obs/label");
        expect_integers(*set, data.rows());
        const std::string names = categorical ? "obs/label/categories" : "uns/label_names";
        if (file.has_dataset(names)) {
            const Hdf5Dataset list = file.dataset(names);
            if (list.kind() == Hdf5Dataset::Kind::text) data.class_names = read_strings(list);
        }
    });
    if (!present) return;
    BlockRows<Index> labels(comm, data.layout(), 1);
    const Range mine = data.layout().rank_rows(comm.rank());
    Index most = -1;
    comm.agree([&] {
        set->read(mine, labels.local().data());
        for (Index i = 0; i < mine.size(); ++i) {
            const Index label = labels.local()(i, 0);
            const bool named =
                data.class_names.empty() || label < static_cast<Index>(data.class_names.size());
            if (label < 0 || !named || label > std::numeric_limits<std::int32_t>::max()) {
                throw input_error(set->where(), ": row ", mine.begin + i, " has the label ", label,
                                  ", which is no class; labels count from 0");
            }
            most = std::max(most, label);
        }
    });
    most = comm.all_reduce(most, Reduce::max);
    if (data.class_names.empty() && most < (Index{1} << 20)) {
        for (Index c = 0; c <= most; ++c) data.class_names.push_back(std::to_string(c));
    }
    data.labels = std::move(labels);
}

}  // namespace

template <Real R>
MatrixData<R> read_matrix(const Communicator& comm, const std::string& path) {
    auto phase = comm.ledger().phase("read");
    std::optional<Hdf5File> file;
    std::optional<Header> header;
    bool named = false;
    comm.agree([&] {
        file.emplace(Hdf5File::open(path));
        header.emplace(read_header(*file));
        named = file->has_group("obs") && file->has_group("var");
    });
    MatrixData<R> data;
    data.file = path;
    if (header->layout == Header::Layout::dense) {
        data.dense = read_dense<R>(comm, *header, data.digest);
    } else {
        data.sparse = read_sparse<R>(comm, *header, data.digest);
    }
    data.digest = comm.all_reduce(data.digest, Reduce::sum);
    read_labels(*file, data);
    if (named) data.ids = {path, "/"};
    return data;
}

template <Real R>
std::optional<std::vector<std::int64_t>> read_per_entry(const MatrixData<R>& matrix,
                                                        const std::string& dataset) {
    if (!matrix.sparse || matrix.file.empty()) return std::nullopt;
    const Communicator& comm = matrix.comm();
    const auto& local = matrix.sparse->local();
    const Index first = comm.exclusive_scan(local.nnz());
    std::vector<std::int64_t> numbers(local.col_idx.size());
    bool present = false;
    comm.agree([&] {
        const Hdf5File file = Hdf5File::open(matrix.file);
        present = file.has_dataset(dataset);
        if (!present) return;
        const Range mine{first, first + local.nnz()};
        const Hdf5Dataset set = file.dataset(dataset);
        expect_integers(set, matrix.sparse->nnz());
        std::vector<ColIndex> stored(local.col_idx.size());
        file.dataset("X/indices").read(mine, std::span<ColIndex>(stored));
        if (stored != local.col_idx) {  // a csc_matrix, or rows in disorder: sorted when read
            throw input_error(set.where(),
                              " cannot be matched with the entries, which stand in "
                              "another order; import the matrix anew");
        }
        set.read(mine, std::span<std::int64_t>(numbers));
    });
    if (!present) return std::nullopt;
    return numbers;
}

template <Real R>
std::pair<double, double> value_range(const MatrixData<R>& matrix) {
    double least = std::numeric_limits<double>::infinity();
    double most = -least;
    const std::span<const R> values = matrix.sparse
                                          ? std::span<const R>(matrix.sparse->local().values)
                                          : std::as_const(*matrix.dense).local().data();
    for (const R v : values) {
        least = std::min(least, static_cast<double>(v));
        most = std::max(most, static_cast<double>(v));
    }
    return {matrix.comm().all_reduce(least, Reduce::min),
            matrix.comm().all_reduce(most, Reduce::max)};
}

template std::pair<double, double> value_range(const MatrixData<float>&);
template std::pair<double, double> value_range(const MatrixData<double>&);
template MatrixData<float> read_matrix(const Communicator&, const std::string&);
template MatrixData<double> read_matrix(const Communicator&, const std::string&);
template std::optional<std::vector<std::int64_t>> read_per_entry(const MatrixData<float>&,
                                                                 const std::string&);
template std::optional<std::vector<std::int64_t>> read_per_entry(const MatrixData<double>&,
                                                                 const std::string&);

}  // namespace rankfold
