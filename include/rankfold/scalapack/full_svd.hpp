// All singular values and vectors of a dense matrix, by ScaLAPACK.
#pragma once

#include <string>
#include <vector>

#include <rankfold/dist/block_rows.hpp>

namespace rankfold {

/// How the singular values of the bidiagonal matrix are found.
enum class FullSvdDriver {
    divide,   ///< divide and conquer on one rank, between ScaLAPACK's reductions
    pdgesvd,  ///< ScaLAPACK's own driver: a QR iteration that every rank repeats
};

struct FullSvdOptions {
    FullSvdDriver driver = FullSvdDriver::divide;
    int grid_rows = 0;  ///< of the process grid; 0: as square as the ranks allow
    int grid_cols = 0;
    bool vectors = true;
};

/// A = U diag(s) Vᵀ with r = min(m, n) triplets.
template <Real R>
struct FullSvd {
    BlockRows<R> u;      ///< m x r in the layout of A; empty without vectors
    std::vector<R> s;    ///< r, decreasing; the same on all ranks
    BlockRows<R> v;      ///< n x r in even shards; empty without vectors
    std::string driver;  ///< what was used and on which grid
    std::string note;    ///< why it is not the driver that was asked for; else empty
};

/// Whether this program was built with ScaLAPACK.
[[nodiscard]] bool has_scalapack();

/// All singular values of a dense m x n matrix and, on request, its vectors.
///
/// The row blocks are dealt out once onto a 2-D block-cyclic grid of all ranks, and the vectors are
/// brought back as row blocks. `divide` is made of parts: ScaLAPACK's LQ or QR first where one side
/// is more than 1.5 times the other, its PxGEBRD, LAPACK's divide and conquer (DBDSDC, in double)
/// on rank 0 with its vectors dealt out, and xORMQR on each rank's vectors with the reflectors of
/// all ranks, a panel at a time. Where r is above 26,754 (the workspace passes int32), or rank 0
/// lacks the memory for 5 r² doubles, pdgesvd does the work; pdgesvd is left for the parts where r
/// is less than twice the number of ranks.
///
/// Signs are those of LAPACK. Unlike everything else, the bits depend on the grid.
///
/// @collective over a.comm()
/// @throws Error, agreed: Fault::input: a grid that does not have as many places as there are
///         ranks, a workspace beyond int32, no ScaLAPACK in this build; Fault::check: it did not
///         converge, a number is not finite
template <Real R>
[[nodiscard]] FullSvd<R> full_svd(const BlockRows<R>& a, const FullSvdOptions& options);

}  // namespace rankfold
