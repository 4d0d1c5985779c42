#include <rankfold/scalapack/full_svd.hpp>

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include <rankfold/linalg/lapack.hpp>

#include "cyclic_matrix.hpp"

// ScaLAPACK's routines in both precisions, and the table that chooses by type.
#define RANKFOLD_ROUTINES(R, p)                                                               \
    extern "C" {                                                                              \
    void p##gebrd_(const int* m, const int* n, R* a, const int* ia, const int* ja,            \
                   const int* desca, R* d, R* e, R* tauq, R* taup, R* work, const int* lwork, \
                   int* info);                                                                \
    void p##geqrf_(const int* m, const int* n, R* a, const int* ia, const int* ja,            \
                   const int* desca, R* tau, R* work, const int* lwork, int* info);           \
    void p##gelqf_(const int* m, const int* n, R* a, const int* ia, const int* ja,            \
                   const int* desca, R* tau, R* work, const int* lwork, int* info);           \
    void p##lacpy_(const char* uplo, const int* m, const int* n, const R* a, const int* ia,   \
                   const int* ja, const int* desca, R* b, const int* ib, const int* jb,       \
                   const int* descb);                                                         \
    void p##gesvd_(const char* jobu, const char* jobvt, const int* m, const int* n, R* a,     \
                   const int* ia, const int* ja, const int* desca, R* s, R* u, const int* iu, \
                   const int* ju, const int* descu, R* vt, const int* ivt, const int* jvt,    \
                   const int* descvt, R* work, const int* lwork, int* info);                  \
    }                                                                                         \
    template <>                                                                               \
    struct Routines<R> {                                                                      \
        static constexpr auto gebrd = p##gebrd_;                                              \
        static constexpr auto geqrf = p##geqrf_;                                              \
        static constexpr auto gelqf = p##gelqf_;                                              \
        static constexpr auto lacpy = p##lacpy_;                                              \
        static constexpr auto gesvd = p##gesvd_;                                              \
    };

namespace rankfold {

namespace {

template <class R>
struct Routines;

}  // namespace

}  // namespace rankfold

namespace rankfold {
namespace {
RANKFOLD_ROUTINES(float, ps)
RANKFOLD_ROUTINES(double, pd)
}  // namespace
}  // namespace rankfold
#undef RANKFOLD_ROUTINES

namespace rankfold {

namespace {

constexpr int one = 1;
constexpr Index int_most = std::numeric_limits<int>::max();
constexpr Index largest_for_divide =
    26754;  // 3 r² + 4 r words of DBDSDC's workspace pass int32 beyond

[[noreturn]] void too_large(const std::string& what, Index words) {
    throw Error(Fault::input,
                concat(what, " would need ", words,
                       " words on one rank, beyond the 32-bit sizes of ScaLAPACK; use more ranks, "
                       "or ask for --factors"),
                true);
}

/// Calls a routine for its workspace, and again with it. @collective
template <Real R, class Call>
void with_workspace(const char* name, const Call& call) {
    R wanted = 0;
    int lwork = -1;
    int info = 0;
    call(&wanted, &lwork, &info);
    // what comes back is rounded to R
    const double words = static_cast<double>(wanted) * (1.0 + 4e-7) + 64.0;
    if (words > static_cast<double>(int_most)) too_large(name, static_cast<Index>(words));
    lwork = static_cast<int>(words);
    AlignedVector<R> work(static_cast<std::size_t>(lwork));
    call(work.data(), &lwork, &info);
    if (info != 0) {
        throw Error(info > 0 ? Fault::check : Fault::bug,
                    concat("ScaLAPACK's ", name, " failed (INFO = ", info, ")"), true);
    }
}

/// Working vectors that hold one element a local row or column.
template <Real R>
AlignedVector<R> along(const CyclicMatrix<R>& a) {
    return AlignedVector<R>(
        static_cast<std::size_t>(a.local_rows() + a.local_cols() + 2 * a.block()));
}

/// B = U diag(s) Vᵀ, for the transpose B of the caller's matrix: row blocks are column blocks of
/// the transpose.
template <Real R>
struct Decomposition {
    std::vector<double> s;
    BlockRows<R> u{};   // empty without vectors
    BlockRows<R> vt{};  // r x columns of B: a vector a row
};

/// Row blocks of the r vectors of `length` elements each, a vector a row.
template <Real R>
BlockRows<R> vector_rows(const Communicator& comm, Index r, Index length) {
    return {comm, ShardLayout::even(r, shard_count(r * length), comm.size()), length};
}

/// Xᵀ in another layout of its rows. @collective
template <Real R>
BlockRows<R> turned(const BlockRows<R>& x, const ShardLayout& layout) {
    return redistribute(transpose(x), layout);
}

/// The first columns of X's rows from a matrix that rank 0 holds. @collective
template <Real R>
void deal_out_rows(const DenseMatrix<double>& whole, BlockRows<R>& x) {
    const Communicator& comm = x.comm();
    const Index r = x.rows();
    std::vector<Index> send_counts(static_cast<std::size_t>(comm.size()), 0);
    std::vector<Index> recv_counts(send_counts);
    for (int q = 0; comm.is_root() && q < comm.size(); ++q) {
        const Index count = x.layout().rank_rows(q).size() * r;
        send_counts[static_cast<std::size_t>(q)] = count;
        if (q != 0) comm.ledger().predict_bytes(static_cast<double>(count) * sizeof(double));
    }
    DenseMatrix<double> mine(x.local().rows(), r);
    recv_counts[0] = mine.rows() * r;
    comm.all_to_all(whole.data(), send_counts, mine.data(), recv_counts);
    for (Index i = 0; i < mine.rows(); ++i) {
        for (Index j = 0; j < r; ++j) x.local()(i, j) = static_cast<R>(mine(i, j));
    }
}

/// The parts of one decomposition by divide and conquer. ScaLAPACK reduces B on the grid; from the
/// bidiagonal matrix on, every rank has whole vectors, and what the reductions left is fetched by
/// panels and applied to them by GEMMs: PxORMBR takes twice as long.
template <Real R>
class Divide {
public:
    Divide(CyclicMatrix<R>& b, const ShardLayout& u_layout, bool vectors)
        : b_{b},
          u_layout_{u_layout},
          vectors_{vectors},
          ledger_{b.grid().comm().ledger()},
          tau_{along(b)},
          rows_{narrow<int>(b.rows())},
          cols_{narrow<int>(b.cols())} {}

    Decomposition<R> run() {
        if (2 * b_.cols() > 3 * b_.rows()) {
            lq_first();
        } else if (2 * b_.rows() > 3 * b_.cols()) {
            qr_first();
        } else {
            bidiagonal(b_);
        }
        if (!vectors_) return {std::move(s_)};
        const auto phase = ledger_.phase("svd bring back");
        return {std::move(s_), turned(ut_, u_layout_), std::move(vt_)};
    }

private:
    void lq_first() {
        CyclicMatrix<R> core(b_.grid(), b_.rows(), b_.rows(), b_.block());
        {
            const auto phase = ledger_.phase("svd first qr");
            with_workspace<R>("PxGELQF", [&](R* work, int* lwork, int* info) {
                Routines<R>::gelqf(&rows_, &cols_, b_.data(), &one, &one, b_.descriptor(),
                                   tau_.data(), work, lwork, info);
            });
            Routines<R>::lacpy("L", &rows_, &rows_, b_.data(), &one, &one, b_.descriptor(),
                               core.data(), &one, &one, core.descriptor());
        }
        bidiagonal(core);
        apply(b_, Line::row, 0, b_.rows(), tau_, vt_);
    }

    void qr_first() {
        CyclicMatrix<R> core(b_.grid(), b_.cols(), b_.cols(), b_.block());
        {
            const auto phase = ledger_.phase("svd first qr");
            with_workspace<R>("PxGEQRF", [&](R* work, int* lwork, int* info) {
                Routines<R>::geqrf(&rows_, &cols_, b_.data(), &one, &one, b_.descriptor(),
                                   tau_.data(), work, lwork, info);
            });
            Routines<R>::lacpy("U", &cols_, &cols_, b_.data(), &one, &one, b_.descriptor(),
                               core.data(), &one, &one, core.descriptor());
        }
        bidiagonal(core);
        apply(b_, Line::column, 0, b_.cols(), tau_, ut_);
    }

    /// x ← H_1 … H_count x for every row of X. H_t stands in line t of C (a column, or a row) from
    /// element t + offset on, and its τ at the places of the grid that hold the line.
    void apply(CyclicMatrix<R>& c, Line line, Index offset, Index count,
               const AlignedVector<R>& tau, BlockRows<R>& x) {
        if (!vectors_) return;
        const auto phase = ledger_.phase("svd back");
        constexpr Index at_once = 128;
        const std::vector<R> all_tau = gathered(c, line, count, tau);
        const Index length = line == Line::column ? c.rows() : c.cols();
        for (Index end = count; end > 0;) {
            const Index begin = (end - 1) / at_once * at_once;
            const DenseMatrix<R> panel = c.lines(line, {begin, end});
            const Range part{begin + offset, length};
            apply_reflectors<R>(panel.view().col_block(part),
                                std::span(all_tau).subspan(static_cast<std::size_t>(begin),
                                                           static_cast<std::size_t>(end - begin)),
                                x.local().view().col_block(part));
            end = begin;
        }
    }

    /// τ of the first `count` lines, on all ranks.
    static std::vector<R> gathered(const CyclicMatrix<R>& c, Line line, Index count,
                                   const AlignedVector<R>& tau) {
        const BlacsGrid& grid = c.grid();
        const int rank = grid.comm().rank();
        std::vector<R> all(static_cast<std::size_t>(count), R{0});
        const auto& mine = line == Line::column ? c.col_indices() : c.row_indices();
        if ((line == Line::column ? grid.row_of(rank) : grid.col_of(rank)) == 0) {
            for (std::size_t t = 0; t < mine.size() && mine[t] < count; ++t) {
                all[static_cast<std::size_t>(mine[t])] = tau[t];
            }
        }
        grid.comm().all_reduce(std::span<R>(all), Reduce::sum);  // one rank has each
        return all;
    }

    /// The diagonal, and the other diagonal above (offset 1) or below it (−1), on all ranks.
    static std::vector<double> diagonal(CyclicMatrix<R>& c, Index offset, Index count) {
        std::vector<double> d(static_cast<std::size_t>(std::max<Index>(count, 0)), 0.0);
        const auto& rows = c.row_indices();
        for (Index j = 0; j < c.local_cols(); ++j) {
            const Index row = c.col_indices()[static_cast<std::size_t>(j)] - offset;
            const auto found = std::ranges::lower_bound(rows, row);
            const Index at = offset >= 0 ? row : row + offset;
            if (found == rows.end() || *found != row || at < 0 || at >= count) continue;
            d[static_cast<std::size_t>(at)] = static_cast<double>(c.local(found - rows.begin(), j));
        }
        c.grid().comm().all_reduce(std::span<double>(d), Reduce::sum);  // one rank has each
        return d;
    }

    /// C = U diag(s) Vᵀ by way of a bidiagonal matrix; C is B or what its QR left.
    void bidiagonal(CyclicMatrix<R>& c) {
        const Communicator& comm = c.grid().comm();
        const int m = narrow<int>(c.rows());
        const int n = narrow<int>(c.cols());
        const Index r = std::min(c.rows(), c.cols());
        const bool upper = m >= n;
        AlignedVector<R> d = along(c);
        AlignedVector<R> e = along(c);
        AlignedVector<R> tauq = along(c);
        AlignedVector<R> taup = along(c);
        {
            const auto phase = ledger_.phase("svd reduce");
            with_workspace<R>("PxGEBRD", [&](R* work, int* lwork, int* info) {
                Routines<R>::gebrd(&m, &n, c.data(), &one, &one, c.descriptor(), d.data(), e.data(),
                                   tauq.data(), taup.data(), work, lwork, info);
            });
        }
        {
            const auto phase = ledger_.phase("svd bidiagonal");
            auto main = diagonal(c, 0, r);
            auto other = diagonal(c, upper ? 1 : -1, r - 1);
            BidiagonalSvd small;
            comm.agree([&] {
                if (comm.is_root()) small = bidiagonal_svd(upper, main, other, vectors_);
            });
            s_.resize(static_cast<std::size_t>(r));
            if (comm.is_root()) std::ranges::copy(small.s, s_.begin());
            comm.broadcast(std::span<double>(s_));
            if (!vectors_) return;
            const auto dealing = ledger_.phase("svd deal out");
            ut_ = vector_rows<R>(comm, r, b_.rows());
            vt_ = vector_rows<R>(comm, r, b_.cols());
            deal_out_rows(small.u_transposed, ut_);
            deal_out_rows(small.v_transposed, vt_);
        }
        apply(c, Line::column, upper ? 0 : 1, upper ? r : r - 1, tauq, ut_);
        apply(c, Line::row, upper ? 1 : 0, upper ? r - 1 : r, taup, vt_);
    }

    CyclicMatrix<R>& b_;
    const ShardLayout& u_layout_;
    bool vectors_;
    Ledger& ledger_;
    AlignedVector<R> tau_;
    int rows_;
    int cols_;
    std::vector<double> s_;
    BlockRows<R> ut_;
    BlockRows<R> vt_;
};

/// What PxGESVD needs at least, by its own documentation, at the place that has most.
Index gesvd_words(const BlacsGrid& grid, Index m, Index n, Index nb, bool vectors) {
    const Index size = std::min(m, n);
    const Index mp = cyclic_count(m, nb, 0, grid.rows());
    const Index nq = cyclic_count(n, nb, 0, grid.cols());
    const Index sizep = cyclic_count(size, nb, 0, grid.rows());
    const Index sizeq = cyclic_count(size, nb, 0, grid.cols());
    const int ranks = grid.rows() * grid.cols();
    const Index want = vectors ? 1 : 0;
    const Index nru = cyclic_count(m, 1, 0, ranks);
    const Index ncvt = cyclic_count(n, 1, 0, ranks);
    const Index reduce = std::max({mp, nb * (mp + nq + 1) + nq, nq});
    const Index iterate = std::max<Index>(1, 2 * size + (2 * size - 4) * want) + 4 * size;
    const Index left = std::max(nb * (nb - 1) / 2, (sizeq + mp) * nb) + nb * nb;
    const Index right = std::max(nb * (nb - 1) / 2, (sizep + nq) * nb) + nb * nb;
    const Index solve = size * want * (nru + ncvt) + std::max({iterate, want * left, want * right});
    return 1 + 6 * std::max(m, n) + std::max(reduce, solve) + 64;
}

template <Real R>
Decomposition<R> by_pdgesvd(CyclicMatrix<R>& b, const ShardLayout& u_layout, bool vectors) {
    const Communicator& comm = b.grid().comm();
    const auto phase = comm.ledger().phase("svd pdgesvd");
    const Index r = std::min(b.rows(), b.cols());
    const int m = narrow<int>(b.rows());
    const int n = narrow<int>(b.cols());
    const Index words = gesvd_words(b.grid(), m, n, b.block(), vectors);
    if (words > int_most) too_large("PxGESVD", words);
    CyclicMatrix<R> u(b.grid(), b.rows(), r, b.block());
    CyclicMatrix<R> vt(b.grid(), r, b.cols(), b.block());
    std::vector<R> s(static_cast<std::size_t>(r));
    const char* job = vectors ? "V" : "N";
    int info = 0;
    const auto call = [&](R* work, int* lwork) {
        Routines<R>::gesvd(job, job, &m, &n, b.data(), &one, &one, b.descriptor(), s.data(),
                           u.data(), &one, &one, u.descriptor(), vt.data(), &one, &one,
                           vt.descriptor(), work, lwork, &info);
    };
    R wanted = 0;  // rounded to R, so our own count is the least that it gets
    int lwork = -1;
    call(&wanted, &lwork);
    const Index asked = static_cast<Index>(static_cast<double>(wanted) * (1.0 + 4e-7)) + 64;
    if (asked > int_most) too_large("PxGESVD", asked);
    lwork = static_cast<int>(std::max(asked, words));
    AlignedVector<R> work(static_cast<std::size_t>(lwork));
    call(work.data(), &lwork);
    if (info == r + 1) {
        throw Error(Fault::check,
                    "PxGESVD found that the ranks computed different singular values: their "
                    "processors or libraries differ",
                    true);
    }
    if (info != 0) {
        throw Error(
            info > 0 ? Fault::check : Fault::bug,
            concat("PxGESVD failed (INFO = ", info, ")",
                   info > 0 ? ": its QR iteration did not converge; use --driver divide" : ""),
            true);
    }
    Decomposition<R> result{{s.begin(), s.end()}};
    if (!vectors) return result;
    const auto back = comm.ledger().phase("svd bring back");
    result.u = BlockRows<R>(comm, u_layout, r);
    result.vt = vector_rows<R>(comm, r, b.cols());
    u.bring_back(result.u);
    vt.bring_back(result.vt);
    return result;
}

/// The grid that was asked for, or the squarest.
std::pair<int, int> choose_grid(int ranks, const FullSvdOptions& options) {
    if (options.grid_rows > 0 || options.grid_cols > 0) {
        if (options.grid_rows * options.grid_cols != ranks) {
            throw Error(Fault::input,
                        concat("--grid ", options.grid_rows, "x", options.grid_cols, " has ",
                               options.grid_rows * options.grid_cols, " places, but there are ",
                               ranks, " ranks"),
                        true);
        }
        return {options.grid_rows, options.grid_cols};
    }
    int rows = 1;
    for (int p = 1; p * p <= ranks; ++p) {
        if (ranks % p == 0) rows = p;
    }
    return {rows, ranks / rows};
}

/// Why the driver that was asked for will not do; empty if it will. The same on all ranks.
std::string objection(const Communicator& comm, Index r, FullSvdDriver driver) {
    if (driver == FullSvdDriver::pdgesvd) {
        return r < 2 * comm.size() ? "pdgesvd is not trusted with so few rows or columns a rank"
                                   : "";
    }
    if (r > largest_for_divide) {
        return concat("divide and conquer on more than ", largest_for_divide,
                      " values passes LAPACK's 32-bit workspace");
    }
    const double needed = 5.0 * static_cast<double>(r) * static_cast<double>(r) * 8.0;
    const double free =
        static_cast<double>(sysconf(_SC_AVPHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
    const bool fits = comm.all_agree(!comm.is_root() || needed < 0.8 * free);
    return fits ? "" : concat("rank 0 lacks the ", needed * 1e-9, " GB of divide and conquer");
}

template <Real R>
void check_finite(const BlockRows<R>& a) {
    const bool finite =
        std::ranges::all_of(std::as_const(a).local().data(), [](R x) { return std::isfinite(x); });
    if (!a.comm().all_agree(finite)) {
        throw Error(Fault::check, "the matrix holds a number that is not finite", true);
    }
}

}  // namespace

bool has_scalapack() {
    return true;
}

template <Real R>
FullSvd<R> full_svd(const BlockRows<R>& a, const FullSvdOptions& options) {
    const Communicator& comm = a.comm();
    const Index r = std::min(a.rows(), a.cols());
    RANKFOLD_EXPECT(r > 0);
    check_finite(a);
    const auto [grid_rows, grid_cols] = choose_grid(comm.size(), options);
    FullSvd<R> result;
    FullSvdDriver driver = options.driver;
    result.note = objection(comm, r, driver);
    if (!result.note.empty()) {
        driver = driver == FullSvdDriver::divide ? FullSvdDriver::pdgesvd : FullSvdDriver::divide;
    }
    // small matrices are cut finer, so that every place of the grid has some of them
    const Index block = std::clamp<Index>(r / (2 * std::max(grid_rows, grid_cols)), 1, 64);
    const Index most =
        cyclic_count(a.cols(), block, 0, grid_rows) * cyclic_count(a.rows(), block, 0, grid_cols);
    if (most > int_most) too_large("the matrix", most);
    const BlacsGrid grid(comm, grid_rows, grid_cols);
    CyclicMatrix<R> b(grid, a.cols(), a.rows(), block);
    {
        const auto phase = comm.ledger().phase("svd deal out");
        b.deal_out_transposed(a);
    }
    const ShardLayout v_layout =
        ShardLayout::even(a.cols(), shard_count(a.rows() * a.cols()), comm.size());
    Decomposition<R> found = driver == FullSvdDriver::divide
                                 ? Divide<R>(b, v_layout, options.vectors).run()
                                 : by_pdgesvd(b, v_layout, options.vectors);
    result.s.assign(found.s.begin(), found.s.end());
    result.driver = concat(driver == FullSvdDriver::divide ? "divide" : "pdgesvd", " on a grid of ",
                           grid_rows, " x ", grid_cols);
    if (!options.vectors) return result;
    const auto phase = comm.ledger().phase("svd bring back");
    result.u = turned(found.vt, a.layout());  // Aᵀ = U diag(s) Vᵀ makes A = V diag(s) Uᵀ
    result.v = std::move(found.u);
    return result;
}

template FullSvd<float> full_svd(const BlockRows<float>&, const FullSvdOptions&);
template FullSvd<double> full_svd(const BlockRows<double>&, const FullSvdOptions&);

}  // namespace rankfold
