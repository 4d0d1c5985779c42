#include <rankfold/factor/row_solver.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

#include <rankfold/linalg/row_kernels.hpp>

namespace rankfold {

namespace {

/// How many entries of a row are gathered at a time: equal parts of at most `most`.
std::size_t panel_size(std::size_t count, Index most) {
    const std::size_t panels =
        (count + static_cast<std::size_t>(most) - 1) / static_cast<std::size_t>(most);
    return panels == 0 ? 0 : (count + panels - 1) / panels;
}

/// The columns after the first `done` entries of a row: in the row itself, or else behind it.
template <Real R>
std::span<const ColIndex> upcoming(const RowData<R>& row, std::size_t done, std::size_t most) {
    const auto next = done < row.cols.size() ? row.cols.subspan(done) : row.following;
    return next.first(std::min(next.size(), most));
}

/// A row's columns but the first few, to be fetched a little before they are read.
template <Real R>
std::span<const ColIndex> later_columns(const RowData<R>& row) {
    constexpr std::size_t near = 32;
    return row.cols.subspan(std::min(row.cols.size(), near));
}

/// As many columns as a row has from those behind it, at most what the second-level cache holds
/// beside them: to be fetched while the row is passed over again.
template <Real R>
std::span<const ColIndex> next_columns(const RowData<R>& row) {
    constexpr std::size_t most = 1024;
    return row.following.first(std::min({row.cols.size(), row.following.size(), most}));
}

template <Real R>
R square(std::span<const R> x) {
    return dot<R>(x, x);
}

}  // namespace

template <Real R>
RowSolver<R>::RowSolver(const RowProblem& problem, Index k, const SolverOptions& options)
    : problem_{problem},
      k_{k},
      options_{options},
      panel_{std::clamp<Index>(24576 / (padded(k) * Index{sizeof(R)}), 32, 96)},
      batch_{options.solver == Solver::subspace ? std::min(k, options.block) : k},
      duals_{options.solver == Solver::cholesky && problem.alpha0 == 0.0 ? k : 0},
      plain_(panel_, padded(batch_.k())),
      scaled_(panel_, padded(batch_.k())),
      zeros_(static_cast<std::size_t>(panel_), R{0}) {
    for (auto& work : work_) work.assign(static_cast<std::size_t>(padded(k)), R{0});
    scores_.resize(static_cast<std::size_t>(batch_.capacity()));
}

template <Real R>
void RowSolver<R>::begin(MatrixView<const R> y, MatrixView<const R> gram,
                         std::span<const R> offsets) {
    y_ = y;
    gram_ = gram;
    offsets_ = offsets;
    first_bad_ = none;
    duals_.begin(y);
}

template <Real R>
void RowSolver<R>::add(const RowData<R>& row, std::span<R> x) {
    if (row.cols.empty() && (row.prior.empty() || problem_.prior_weight == 0.0)) {
        std::ranges::fill(x, R{0});
        return;
    }
    if (options_.solver == Solver::cg) {
        solve_cg(row, x);
        return;
    }
    if (is_dual(row)) {
        add_dual(row, x);
        return;
    }
    if (options_.solver == Solver::cholesky) {
        const auto slot = static_cast<Index>(pending_.size());
        const MatrixView<R> normal = batch_.matrix(slot);
        const Update first =
            problem_.alpha0 == 0.0 && !row.cols.empty() ? Update::assign : Update::add;
        start_system(row, first, normal, batch_.vector(slot));
        gather_entries(row, normal, batch_.vector(slot), first);
        add_ridge(row, normal);
    }
    take(row, x);
}

/// Whether its entries and the ridge are all there is of a row, and its dual system is smaller.
template <Real R>
bool RowSolver<R>::is_dual(const RowData<R>& row) const {
    return options_.solver == Solver::cholesky && problem_.alpha0 == 0.0 && problem_.lambda > 0.0 &&
           row.prior.empty() && row.targets.empty() && duals_.pays(std::ssize(row.cols));
}

/// w (x·y)² − 2 b x·y is (√w x·y − b / √w)² but for a constant.
template <Real R>
void RowSolver<R>::add_dual(const RowData<R>& row, std::span<R> x) {
    const std::size_t count = row.cols.size();
    const auto [s, t] = duals_.next(std::ssize(row.cols));
    weigh(row);
    for (std::size_t e = 0; e < count; ++e) {
        const R root = std::sqrt(weights_[e]);
        s[e] = root;
        t[e] = root > R{0} ? targets_[e] / root : R{0};
    }
    duals_.add(row.cols, static_cast<R>(ridge(row)), row.index, x,
               {y_, upcoming(row, count, static_cast<std::size_t>(panel_))});
}

template <Real R>
void RowSolver<R>::take(const RowData<R>& row, std::span<R> x) {
    pending_.push_back({row, x});
    if (static_cast<Index>(pending_.size()) == batch_.capacity()) solve_pending();
}

template <Real R>
void RowSolver<R>::add_system(const RowData<R>& row, MatrixView<const R> normal,
                              std::span<const R> rhs, std::span<R> x) {
    RANKFOLD_EXPECT(options_.solver == Solver::cholesky);
    const auto slot = static_cast<Index>(pending_.size());
    const MatrixView<R> to = batch_.matrix(slot);
    start_system(row, Update::add, to, batch_.vector(slot));
    add_ridge(row, to);
    for (Index i = 0; i < k_; ++i) {
        for (Index j = i; j < k_; ++j) to(i, j) += normal(i, j);
        batch_.vector(slot)[static_cast<std::size_t>(i)] += rhs[static_cast<std::size_t>(i)];
    }
    take(row, x);
}

template <Real R>
void RowSolver<R>::finish() {
    duals_.finish();
    solve_pending();
}

template <Real R>
void RowSolver<R>::solve_pending() {
    if (options_.solver == Solver::subspace) {
        solve_blocks();
    } else if (!pending_.empty()) {
        const auto count = static_cast<Index>(pending_.size());
        // without a ridge, a pivot at the level of rounding means a singular system
        const bool ridged = problem_.lambda > 0.0 || problem_.prior_weight > 0.0;
        const R tiny = ridged ? R{0} : static_cast<R>(k_) * std::numeric_limits<R>::epsilon();
        const unsigned bad = batch_.solve(count, tiny);
        for (Index s = 0; s < count; ++s) {
            const Pending& pending = pending_[static_cast<std::size_t>(s)];
            if ((bad >> s & 1U) != 0) first_bad_ = std::min(first_bad_, pending.row.index);
            std::ranges::copy(batch_.vector(s), pending.x.begin());
        }
    }
    pending_.clear();
}

/// w and b of a row's entries, into weights_ and targets_, and its ridge.
template <Real R>
void RowSolver<R>::weigh(const RowData<R>& row) {
    const std::size_t count = row.cols.size();
    ridge_ = ridge(row);
    if (weights_.size() < count) {
        weights_.resize(count);
        targets_.resize(count);
    }
    const RowProblem problem = problem_;
    R* const w = weights_.data();
    R* const b = targets_.data();
    for (std::size_t e = 0; e < count; ++e) {
        b[e] = static_cast<R>(problem.b0 + problem.b1 * static_cast<double>(row.values[e]));
    }
    if (problem.w1 == 0.0) {
        std::fill_n(w, count, static_cast<R>(problem.w0));
    } else {
        for (std::size_t e = 0; e < count; ++e) {
            w[e] = static_cast<R>(problem.weight(static_cast<double>(row.values[e])));
        }
    }
    if (problem.preference) {
        for (std::size_t e = 0; e < count; ++e) b[e] = row.values[e] > R{0} ? b[e] : R{0};
    }
    for (std::size_t e = 0; e < row.confidences.size(); ++e) {
        w[e] *= row.confidences[e];
        b[e] *= row.confidences[e];
    }
    std::ranges::copy(row.targets, b);
    if (offsets_.empty()) return;
    for (std::size_t e = 0; e < count; ++e) {
        b[e] -= w[e] * offsets_[static_cast<std::size_t>(row.cols[e])];
    }
}

template <Real R>
double RowSolver<R>::ridge(const RowData<R>& row) const {
    return problem_.row_lambda(row.count) + (row.prior.empty() ? 0.0 : problem_.prior_weight);
}

/// What of a row's system comes neither from its entries nor from its ridge; of the matrix nothing,
/// where the entries' will be assigned.
template <Real R>
void RowSolver<R>::start_system(const RowData<R>& row, Update entries, MatrixView<R> normal,
                                std::span<R> rhs) const {
    const auto mu = static_cast<R>(problem_.prior_weight);
    for (std::size_t f = 0; f < rhs.size(); ++f) {
        rhs[f] = row.prior.empty() ? R{0} : mu * row.prior[f];
    }
    for (Index i = 0; i < k_ && entries == Update::add; ++i) {
        R* const to = normal.data + i * normal.ld;
        if (problem_.alpha0 != 0.0) {
            std::copy_n(gram_.data + i * gram_.ld, k_, to);
            std::fill(to + k_, to + padded(k_), R{0});
        } else {
            std::fill_n(to, padded(k_), R{0});
        }
    }
}

template <Real R>
void RowSolver<R>::add_ridge(const RowData<R>& row, MatrixView<R> normal) const {
    const auto own = static_cast<R>(ridge(row));
    for (Index i = 0; i < k_; ++i) normal(i, i) += own;
}

template <Real R>
void RowSolver<R>::add_entries(const RowData<R>& row, MatrixView<R> normal, std::span<R> rhs) {
    gather_entries(row, normal, rhs, Update::add);
}

/// Adds Σ w y yᵀ to N, or assigns it, and adds Σ b y to r.
template <Real R>
void RowSolver<R>::gather_entries(const RowData<R>& row, MatrixView<R> normal, std::span<R> rhs,
                                  Update update) {
    weigh(row);
    const bool weighted = problem_.w1 != 0.0 || problem_.w0 != 1.0 || !row.confidences.empty();
    const std::size_t part = panel_size(row.cols.size(), panel_);
    for (std::size_t done = 0; done < row.cols.size(); update = Update::add) {
        const std::size_t n = std::min(row.cols.size() - done, part);
        const MatrixView<R> p{plain_.view().data, static_cast<Index>(n), k_, plain_.cols()};
        const MatrixView<R> q{scaled_.view().data, static_cast<Index>(n), k_, scaled_.cols()};
        gather_weighed<R>(y_, row.cols.subspan(done, n),
                          weighted ? entry_weights(done, n) : std::span<const R>(),
                          entry_targets(done, n), p, q, rhs);
        done += n;
        rank_update_upper<R>(p, weighted ? q : p, normal, update,
                             {y_, upcoming(row, done, static_cast<std::size_t>(panel_))});
    }
}

/// out = Σ_j (b_j [or 0] − w_j x·y_j) y_j − α0 YᵀY x − (λ_i + μ) x [+ μ p]. @pre weigh(row)
/// @param ahead  columns to fetch meanwhile, a part with every panel
template <Real R>
void RowSolver<R>::add_normal_product(const RowData<R>& row, bool residual, std::span<const R> x,
                                      std::span<R> out, std::span<const ColIndex> ahead) {
    const auto own = static_cast<R>(ridge_);
    for (std::size_t f = 0; f < static_cast<std::size_t>(k_); ++f) out[f] = -own * x[f];
    const std::size_t count = row.cols.size();
    const std::size_t part = panel_size(count, panel_);
    for (std::size_t done = 0; done < count;) {
        const std::size_t n = std::min(count - done, part);
        const std::size_t from = ahead.size() * done / count;
        const std::size_t to = ahead.size() * (done + n) / count;
        add_residuals<R>(y_, row.cols.subspan(done, n), entry_weights(done, n),
                         residual ? entry_targets(done, n) : std::span<const R>(zeros_).first(n), x,
                         out, {y_, ahead.subspan(from, to - from)});
        done += n;
    }
    if (residual && !row.prior.empty()) {
        const auto mu = static_cast<R>(problem_.prior_weight);
        for (std::size_t f = 0; f < row.prior.size(); ++f) out[f] += mu * row.prior[f];
    }
    if (problem_.alpha0 != 0.0) subtract_symmetric_product<R>(gram_, x, out);
}

/// Starts from x, whose residual is that of the last sweep's solution in the new problem.
template <Real R>
void RowSolver<R>::solve_cg(const RowData<R>& row, std::span<R> x) {
    auto& [r, p, ap] = work_;
    weigh(row);
    const std::span<const ColIndex> following = next_columns(row);
    add_normal_product(row, true, x, r, later_columns(row));
    std::ranges::copy(r, p.begin());
    R rr = square<R>(r);
    const R enough = rr * static_cast<R>(options_.cg_tolerance * options_.cg_tolerance);
    for (Index step = 0; step < options_.cg_steps && rr > enough; ++step) {
        const Range part = even_part(std::ssize(following), options_.cg_steps, step);
        add_normal_product(row, false, p, ap,  // −A p
                           following.subspan(static_cast<std::size_t>(part.begin),
                                             static_cast<std::size_t>(part.size())));
        const R curvature = -dot<R>(p, ap);
        if (!(curvature > R{0})) {
            first_bad_ = std::min(first_bad_, row.index);
            return;
        }
        const R length = rr / curvature;
        for (std::size_t f = 0; f < x.size(); ++f) {
            x[f] += length * p[f];
            r[f] += length * ap[f];
        }
        const R next = square<R>(r);
        const R turn = next / rr;
        for (std::size_t f = 0; f < x.size(); ++f) p[f] = r[f] + turn * p[f];
        rr = next;
    }
}

template <Real R>
double RowSolver<R>::relative_residual(const RowData<R>& row, std::span<const R> x) {
    auto& [gradient, zero, rhs] = work_;
    for (auto& work : work_) std::ranges::fill(work, R{0});
    weigh(row);
    add_normal_product(row, true, x, gradient, later_columns(row));
    add_normal_product(row, true, zero, rhs, next_columns(row));
    const R size = square<R>(rhs);
    return size > R{0} ? std::sqrt(static_cast<double>(square<R>(gradient) / size)) : 0.0;
}

template <Real R>
double RowSolver<R>::system_residual(const RowData<R>& row, MatrixView<const R> normal,
                                     std::span<const R> rhs, std::span<const R> x) const {
    const auto at = [](std::span<const R> v, Index i) {
        return static_cast<double>(v[static_cast<std::size_t>(i)]);
    };
    double residual = 0.0;
    double size = 0.0;
    for (Index i = 0; i < k_; ++i) {
        double b = at(rhs, i);
        if (!row.prior.empty()) b += problem_.prior_weight * at(row.prior, i);
        double g = b - ridge(row) * at(x, i);
        for (Index j = 0; j < k_; ++j) {
            const Index low = std::min(i, j);
            const Index high = std::max(i, j);
            double n = static_cast<double>(normal(low, high));
            if (problem_.alpha0 != 0.0) n += static_cast<double>(gram_(low, high));
            g -= n * at(x, j);
        }
        residual += g * g;
        size += b * b;
    }
    return size > 0.0 ? std::sqrt(residual / size) : 0.0;
}

/// The Newton system of some factors of a row, with its other factors held.
template <Real R>
void RowSolver<R>::assemble_block(const Pending& pending, Range block, std::span<const R> scores,
                                  MatrixView<R> normal, std::span<R> rhs) {
    const auto& [row, x] = pending;
    const Index d = block.size();
    const auto own = static_cast<R>(ridge(row));
    std::fill_n(rhs.data(), padded(d), R{0});
    for (Index f = 0; f < d; ++f) {
        R* const to = normal.data + f * normal.ld;
        const Index global = block.begin + f;
        std::fill_n(to, padded(batch_.k()), R{0});
        rhs[static_cast<std::size_t>(f)] = -own * x[static_cast<std::size_t>(global)];
        if (!row.prior.empty()) {
            rhs[static_cast<std::size_t>(f)] +=
                static_cast<R>(problem_.prior_weight) * row.prior[static_cast<std::size_t>(global)];
        }
        if (problem_.alpha0 != 0.0) {
            const std::span<const R> gram_row = gram_.row(global);
            std::copy_n(gram_row.begin() + block.begin, d, to);
            rhs[static_cast<std::size_t>(f)] -= dot<R>(gram_row, x);
        }
        to[f] += own;
    }
    const MatrixView<const R> y{y_.data + block.begin, y_.rows, d, y_.ld};
    weigh(row);
    for (std::size_t e = 0; e < row.cols.size(); ++e) targets_[e] -= weights_[e] * scores[e];
    const std::size_t part = panel_size(row.cols.size(), panel_);
    for (std::size_t done = 0; done < row.cols.size();) {
        const std::size_t n = std::min(row.cols.size() - done, part);
        const MatrixView<R> p{plain_.view().data, static_cast<Index>(n), d, plain_.cols()};
        const MatrixView<R> q{scaled_.view().data, static_cast<Index>(n), d, scaled_.cols()};
        gather_weighed<R>(y, row.cols.subspan(done, n), entry_weights(done, n),
                          entry_targets(done, n), p, q, rhs);
        done += n;
        rank_update_upper<R>(p, q, normal, Update::add,
                             {y, upcoming(row, done, static_cast<std::size_t>(panel_))});
    }
}

/// One pass over the blocks of factors, for all pending rows side by side.
template <Real R>
void RowSolver<R>::solve_blocks() {
    const auto count = static_cast<Index>(pending_.size());
    for (std::size_t s = 0; s < pending_.size(); ++s) {
        scores_[s].resize(pending_[s].row.cols.size());
        gather_dots<R>(y_, pending_[s].row.cols, pending_[s].x, scores_[s]);
    }
    for (Index begin = 0; begin < k_ && count > 0; begin += batch_.k()) {
        // the last block is as wide as the others, and overlaps the one before
        const Index first = std::min(begin, k_ - batch_.k());
        const Range block{first, first + batch_.k()};
        for (Index s = 0; s < count; ++s) {
            const auto at = static_cast<std::size_t>(s);
            assemble_block(pending_[at], block, scores_[at], batch_.matrix(s), batch_.vector(s));
        }
        const unsigned bad = batch_.solve(count, R{0});
        const MatrixView<const R> y{y_.data + block.begin, y_.rows, block.size(), y_.ld};
        for (Index s = 0; s < count; ++s) {
            const auto at = static_cast<std::size_t>(s);
            const Pending& pending = pending_[at];
            if ((bad >> s & 1U) != 0) {
                first_bad_ = std::min(first_bad_, pending.row.index);
                continue;
            }
            const std::span<const R> step = batch_.vector(s);
            for (std::size_t f = 0; f < step.size(); ++f) {
                pending.x[static_cast<std::size_t>(block.begin) + f] += step[f];
            }
            if (block.end == k_) continue;  // no block is left that reads the scores
            changes_.resize(scores_[at].size());
            gather_dots<R>(y, pending.row.cols, step, changes_);
            for (std::size_t e = 0; e < changes_.size(); ++e) scores_[at][e] += changes_[e];
        }
    }
}

template class RowSolver<float>;
template class RowSolver<double>;

}  // namespace rankfold
