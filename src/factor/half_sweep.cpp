#include <rankfold/factor/half_sweep.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

#include <rankfold/comm/reproducible_sum.hpp>
#include <rankfold/linalg/row_kernels.hpp>

#include "side_parts.hpp"

namespace rankfold {

namespace {

/// Scores of a row's entries: its factors against rows of `y`, and the columns' offsets.
template <Real R>
void score_entries(MatrixView<const R> y, std::span<const R> offsets,
                   std::span<const ColIndex> cols, std::span<const R> x, std::span<R> out) {
    gather_dots<R>(y, cols, x, out);
    if (offsets.empty()) return;
    for (std::size_t e = 0; e < out.size(); ++e) {
        out[e] += offsets[static_cast<std::size_t>(cols[e])];
    }
}

/// Σ over some entries of a row of their loss.
template <Real R>
double entry_losses(const RowProblem& problem, const RowData<R>& row, std::span<const R> scores) {
    double sum = 0.0;
    for (std::size_t e = 0; e < scores.size(); ++e) {
        const auto v = static_cast<double>(row.values[e]);
        const double c = row.confidences.empty() ? 1.0 : static_cast<double>(row.confidences[e]);
        const double b =
            row.targets.empty() ? c * problem.target(v) : static_cast<double>(row.targets[e]);
        sum += problem.entry_loss(v, c * problem.weight(v), b, static_cast<double>(scores[e]));
    }
    return sum;
}

}  // namespace

template <Real R>
BiasedFactors<R>::BiasedFactors(BlockRows<R>& factors, std::optional<BlockRows<R>>& bias)
    : factors_{factors}, bias_{bias} {
    if (bias_) joined_ = BlockRows<R>(factors.comm(), factors.layout(), factors.cols() + 1);
}

template <Real R>
void BiasedFactors<R>::join() {
    if (!bias_) return;
    for (Index i = 0; i < factors_.local().rows(); ++i) {
        std::ranges::copy(factors_.local().row(i), joined_.local().row(i).begin());
        joined_.local()(i, factors_.cols()) = bias_->local()(i, 0);
    }
}

template <Real R>
void BiasedFactors<R>::part() {
    if (!bias_) return;
    for (Index i = 0; i < factors_.local().rows(); ++i) {
        std::copy_n(joined_.local().row(i).begin(), factors_.cols(),
                    factors_.local().row(i).begin());
        bias_->local()(i, 0) = joined_.local()(i, factors_.cols());
    }
}

template <Real R>
SparseSide<R>::SparseSide(const BlockRowCsr<R>& a, const SideOptions& options,
                          const ShardLayout& fixed, Index k, const BlockRowCsr<R>* transposed)
    : a_{a},
      options_{options},
      heavy_(a, fixed, options.heavy.value_or(std::numeric_limits<Index>::max()), nullptr),
      k_{k},
      fixed_(a.comm(), fixed) {
    choose_exchange(fixed, k, transposed);
    for (Index t = 0; t < options.threads; ++t) {
        solvers_.emplace_back(options.problem, k, options.solver);
    }
}

/// The local shards of one of so many panels.
template <Real R>
Range SparseSide<R>::panel_shards(Index panel, Index panels) const {
    const Range part =
        even_part(a_.shards().size(), static_cast<int>(panels), static_cast<int>(panel));
    return {a_.shards().begin + part.begin, a_.shards().begin + part.end};
}

/// Columns of each panel's entries, increasing; of heavy rows only if asked for.
template <Real R>
std::vector<std::vector<Index>> SparseSide<R>::needed_rows(bool heavy_too, Index panels) const {
    const CsrView<R> view = a_.local().view();
    std::vector<std::vector<Index>> needed(static_cast<std::size_t>(panels));
    for (Index p = 0; p < panels; ++p) {
        std::vector<char> seen(static_cast<std::size_t>(a_.cols()), 0);
        const Range shards = panel_shards(p, panels);
        for (Index s = shards.begin; s < shards.end; ++s) {
            const Range rows = a_.layout().shard_rows(s);
            for (Index i = rows.begin; i < rows.end; ++i) {
                if (!heavy_too && heavy_.is_heavy(i)) continue;
                for (const ColIndex j : view.row_cols(i - a_.first_row())) {
                    seen[static_cast<std::size_t>(j)] = 1;
                }
            }
        }
        for (std::size_t j = 0; j < seen.size(); ++j) {
            if (seen[j] != 0) needed[static_cast<std::size_t>(p)].push_back(static_cast<Index>(j));
        }
    }
    return needed;
}

/// Counts what each scheme sends, takes the least or the one asked for, and plans it.
template <Real R>
void SparseSide<R>::choose_exchange(const ShardLayout& fixed, Index k,
                                    const BlockRowCsr<R>* transposed) {
    const Communicator& comm = a_.comm();
    const Range own = fixed.rank_rows(comm.rank());
    const double row_bytes = static_cast<double>(k) * sizeof(R);
    const auto foreign_bytes = [&](bool heavy_too) {
        const auto rows = needed_rows(heavy_too, 1).front();
        const auto mine =
            std::ranges::count_if(rows, [&](Index j) { return j >= own.begin && j < own.end; });
        return row_bytes *
               static_cast<double>(comm.all_reduce(std::ssize(rows) - mine, Reduce::sum));
    };
    bytes_ = {row_bytes * static_cast<double>(fixed.rows() * (comm.size() - 1))};
    if (comm.size() == 1) {  // it has all it needs
        options_.exchange = Exchange::all;
        return;
    }
    std::optional<HeavyRows<R>> remote;
    bytes_.push_back(foreign_bytes(true));
    if (transposed != nullptr && !heavy_.none()) {
        remote.emplace(a_, fixed, *options_.heavy, transposed);
        bytes_.push_back(foreign_bytes(false) + remote->bytes(k));
    }
    if (options_.exchange == Exchange::automatic) {
        const auto least = std::ranges::min_element(bytes_) - bytes_.begin();
        options_.exchange = least == 0   ? Exchange::all
                            : least == 1 ? Exchange::needed
                                         : Exchange::reduced;
        if (static_cast<double>(fixed.rows()) * row_bytes > options_.buffer_bytes) {
            options_.exchange = remote ? Exchange::reduced : Exchange::needed;
        }
    }
    // without heavy rows or Aᵀ there is nothing to reduce
    if (options_.exchange == Exchange::reduced && !remote) options_.exchange = Exchange::needed;
    if (options_.exchange == Exchange::all) return;
    if (options_.exchange == Exchange::reduced) heavy_ = std::move(*remote);
    plan_panels(fixed, row_bytes);
    bytes_.at(static_cast<std::size_t>(options_.exchange) - 1) =
        comm.all_reduce(fixed_.bytes_sent(k), Reduce::sum) + heavy_.bytes(k);
    renumber_columns();
}

/// So many panels that messages overlap work, or as many as it takes to keep within the memory.
template <Real R>
void SparseSide<R>::plan_panels(const ShardLayout& fixed, double row_bytes) {
    constexpr Index overlap = 4;
    const Communicator& comm = a_.comm();
    const bool heavy_too = !heavy_.remote();
    const auto bytes = [&](const std::vector<std::vector<Index>>& needed, bool bounded) {
        const FixedRows<R> planned(comm, fixed, needed, bounded);
        return row_bytes * static_cast<double>(comm.all_reduce(planned.buffer_rows(), Reduce::max));
    };
    auto needed = needed_rows(heavy_too, overlap);
    double least = bytes(needed, false);
    bool bounded = least > options_.buffer_bytes;
    const Index most = comm.all_reduce(a_.shards().size(), Reduce::max);
    for (Index panels = overlap; bounded && (heavy_.none() || heavy_.remote()); panels *= 2) {
        needed = needed_rows(heavy_too, std::min(panels, most));
        least = std::min(least, bytes(needed, true));
        if (least <= options_.buffer_bytes || panels >= most) break;
    }
    if (least > options_.buffer_bytes) {
        throw input_error("the rows of the other side take ", least, " bytes on a rank, but ",
                          "--memory-per-rank leaves ", options_.buffer_bytes,
                          " for them; give more of it, or more ranks");
    }
    fixed_ = FixedRows<R>(comm, fixed, std::move(needed), bounded);
}

/// Replaces the columns of entries by their rows of fixed_.
template <Real R>
void SparseSide<R>::renumber_columns() {
    std::vector<ColIndex> position(static_cast<std::size_t>(a_.cols()), 0);
    const auto renumber = [&](std::span<const ColIndex> from, std::vector<ColIndex>& to) {
        for (const ColIndex j : from) to.push_back(position[static_cast<std::size_t>(j)]);
    };
    const CsrView<R> view = a_.local().view();
    cols_.reserve(static_cast<std::size_t>(view.nnz()));
    if (!heavy_.remote()) {  // all panels share one buffer, or there are no such rows
        for (Index p = 0; p < fixed_.panels(); ++p) fixed_.positions(p, position);
        renumber(heavy_.columns(), heavy_cols_);
    }
    for (Index p = 0; p < fixed_.panels(); ++p) {
        fixed_.positions(p, position);
        const Range shards = panel_shards(p, fixed_.panels());
        for (Index s = shards.begin; s < shards.end; ++s) {
            const Range rows = a_.layout().shard_rows(s);
            for (Index i = rows.begin; i < rows.end; ++i) {
                renumber(view.row_cols(i - a_.first_row()), cols_);
            }
        }
    }
}

/// Runs body(rows of a shard, counted locally) on the options' threads, panel by panel as their
/// fixed rows arrive. @collective
template <Real R>
template <class Body>
void SparseSide<R>::for_each_row_block(const Body& body) const {
    for (Index p = 0; p < fixed_.panels(); ++p) {
        {
            const auto phase = a_.comm().ledger().phase(exchange_phase());
            fixed_.arrive(p);
        }
        for_each_shard(panel_shards(p, fixed_.panels()), options_.threads, [&](Index s) {
            const Range rows = a_.layout().shard_rows(s);
            body(s, Range{rows.begin - a_.first_row(), rows.end - a_.first_row()});
            if (omp_get_thread_num() == 0) fixed_.progress();
        });
    }
}

template <Real R>
void SparseSide<R>::set_solver(const SolverOptions& solver) {
    options_.solver = solver;
    for (auto& one : solvers_) one = RowSolver<R>(options_.problem, k_, solver);
}

template <Real R>
RowData<R> SparseSide<R>::row(Index local, const SideExtras<R>& extras) const {
    const CsrView<R> rows = a_.local().view();
    const auto begin = static_cast<std::size_t>(rows.row_ptr[local]);
    const auto end = static_cast<std::size_t>(rows.row_ptr[local + 1]);
    const std::span<const ColIndex> cols = exchange() == Exchange::all
                                               ? std::span<const ColIndex>(a_.local().col_idx)
                                               : std::span<const ColIndex>(cols_);
    RowData<R> row{.index = a_.first_row() + local,
                   .cols = cols.subspan(begin, end - begin),
                   .values = rows.row_values(local)};
    row.following = cols.subspan(end);
    row.count = extras.counts.empty() ? rows.row_nnz(local)
                                      : extras.counts[static_cast<std::size_t>(local)];
    if (!extras.confidences.empty()) {
        row.confidences = extras.confidences.subspan(begin, end - begin);
    }
    if (!extras.targets.empty()) row.targets = extras.targets.subspan(begin, end - begin);
    if (extras.prior != nullptr) row.prior = extras.prior->local().row(local);
    return row;
}

template <Real R>
const char* SparseSide<R>::exchange_phase() const {
    return exchange() == Exchange::all      ? "als exchange all"
           : exchange() == Exchange::needed ? "als exchange needed"
                                            : "als exchange reduced";
}

template <Real R>
void SparseSide<R>::gather(const BlockRows<R>& y) {
    const auto phase = a_.comm().ledger().phase(exchange_phase());
    fixed_.begin(y, options_.biases);
    if (!heavy_.remote()) return;
    own_fixed_ = y.local().clone();
    own_offsets_.resize(options_.biases ? static_cast<std::size_t>(own_fixed_.rows()) : 0);
    if (options_.biases) take_offsets<R>(own_fixed_.view(), own_offsets_);
}

template <Real R>
void SparseSide<R>::begin_solvers() {
    for (auto& solver : solvers_) {
        solver.begin(fixed_.view(), std::as_const(gram_).view(), fixed_.offsets());
    }
}

template <Real R>
void SparseSide<R>::solve(const BlockRows<R>& y, BlockRows<R>& x, const SideExtras<R>& extras) {
    gather(y);
    if (options_.problem.alpha0 != 0.0) {
        const auto phase = a_.comm().ledger().phase("als gram");
        gram_ = scaled_gram(y, options_.problem.alpha0, options_.reproducible);
    }
    const auto phase = a_.comm().ledger().phase("als solve");
    begin_solvers();
    for_each_row_block([&](Index, Range rows) {
        RowSolver<R>& solver = solvers_[static_cast<std::size_t>(omp_get_thread_num())];
        for (Index i = rows.begin; i < rows.end; ++i) {
            if (heavy_.is_heavy(a_.first_row() + i)) continue;
            solver.add(row(i, extras), x.local().row(i));
        }
        solver.finish();
    });
    if (!heavy_.none()) solve_heavy(x);
    Index first_bad = RowSolver<R>::none;
    for (const auto& solver : solvers_) first_bad = std::min(first_bad, solver.first_bad());
    check_rows(a_.comm(), first_bad, options_.axis);
    a_.comm().ledger().add_flops(half_sweep_flops(a_.local().nnz(), a_.local().rows(), x.cols()));
}

/// A heavy row's piece, its columns as rows of the buffer that it is made from.
template <Real R>
RowData<R> SparseSide<R>::piece(const typename HeavyRows<R>::Piece& piece) const {
    const auto begin = static_cast<std::size_t>(piece.entries.begin);
    const auto size = static_cast<std::size_t>(piece.entries.size());
    const auto cols = heavy_cols_.empty() ? heavy_.columns() : heavy_cols_;
    RowData<R> row;
    row.index = heavy_.rows()[static_cast<std::size_t>(piece.heavy)];
    row.cols = cols.subspan(begin, size);
    row.values = heavy_.values().subspan(begin, size);
    return row;
}

template <Real R>
void SparseSide<R>::solve_heavy(BlockRows<R>& x) {
    const Index k = x.cols();
    const auto words = static_cast<std::size_t>((k + 1) * padded(k));
    Index bad_before = RowSolver<R>::none;
    for (const auto& solver : solvers_) bad_before = std::min(bad_before, solver.first_bad());
    if (heavy_.remote()) {
        for (auto& solver : solvers_) {
            solver.begin(std::as_const(own_fixed_).view(), std::as_const(gram_).view(),
                         own_offsets_);
        }
    }
    AlignedVector<R> systems;
    heavy_.sum(
        k, options_.threads,
        [&](const typename HeavyRows<R>::Piece& p, std::span<R> system) {
            const auto thread = static_cast<std::size_t>(omp_get_thread_num());
            solvers_[thread].add_entries(piece(p), {system.data(), k, k, padded(k)},
                                         system.last(static_cast<std::size_t>(padded(k))));
        },
        systems);
    heavy_residual_ = 0.0;
    RowSolver<R>& solver = solvers_.front();
    for (Index h = heavy_.own().begin; h < heavy_.own().end; ++h) {
        const Index i = heavy_.rows()[static_cast<std::size_t>(h)];
        const auto system = std::span<const R>(systems).subspan(
            static_cast<std::size_t>(h - heavy_.own().begin) * words, words);
        const MatrixView<const R> normal{system.data(), k, k, padded(k)};
        const auto rhs = system.last(static_cast<std::size_t>(padded(k)));
        const RowData<R> data = row(i - a_.first_row(), {});
        const auto solution = x.local().row(i - a_.first_row());
        solver.add_system(data, normal, rhs, solution);
        solver.finish();
        heavy_residual_ =
            std::max(heavy_residual_, solver.system_residual(data, normal, rhs, solution));
    }
    solver.note_bad(bad_before);
}

/// Terms of Σ over the heavy rows' entries of their loss: one a piece.
template <Real R>
void SparseSide<R>::add_heavy_losses(const BlockRows<R>& x, std::vector<double>& terms) const {
    const auto k = static_cast<std::size_t>(x.cols());
    std::vector<R> mine;
    for (Index h = heavy_.own().begin; h < heavy_.own().end; ++h) {
        const auto from =
            x.local().row(heavy_.rows()[static_cast<std::size_t>(h)] - a_.first_row());
        mine.insert(mine.end(), from.begin(), from.end());
    }
    Index first = heavy_.own().begin;
    if (heavy_.remote()) {
        mine = a_.comm().all_gather(std::span<const R>(mine));
        first = 0;
    }
    const MatrixView<const R> y = heavy_.remote() ? own_fixed_.view() : fixed_.view();
    const auto offsets = heavy_.remote() ? std::span<const R>(own_offsets_) : fixed_.offsets();
    std::vector<R> scores;
    for (const auto& p : heavy_.pieces()) {
        const RowData<R> data = piece(p);
        const auto factors =
            std::span<const R>(mine).subspan(static_cast<std::size_t>(p.heavy - first) * k, k);
        scores.resize(data.cols.size());
        score_entries<R>(y, offsets, data.cols, factors, scores);
        terms.push_back(entry_losses<R>(options_.problem, data, scores));
        terms.push_back(0.0);
    }
}

template <Real R>
void SparseSide<R>::score_row(const RowData<R>& row, std::span<const R> x, std::span<R> out) const {
    score_entries<R>(fixed_.view(), fixed_.offsets(), row.cols, x, out);
}

template <Real R>
void SparseSide<R>::scores(const BlockRows<R>& x, std::span<R> out) const {
    const CsrView<R> rows = a_.local().view();
    RANKFOLD_EXPECT(out.size() == static_cast<std::size_t>(a_.local().nnz()) && !heavy_.remote());
    for_each_row_block([&](Index, Range range) {
        for (Index i = range.begin; i < range.end; ++i) {
            score_row(row(i, {}), x.local().row(i),
                      out.subspan(static_cast<std::size_t>(rows.row_ptr[i]),
                                  static_cast<std::size_t>(rows.row_nnz(i))));
        }
    });
}

template <Real R>
SideLoss SparseSide<R>::losses(const BlockRows<R>& x, const SideExtras<R>& extras) const {
    std::vector<double> terms(static_cast<std::size_t>(2 * a_.shards().size()));
    for_each_row_block([&](Index s, Range rows) {
        SideLoss sum;
        std::vector<R> scores;
        for (Index i = rows.begin; i < rows.end; ++i) {
            const RowData<R> data = row(i, extras);
            sum.ridge += row_ridge(data, x.local().row(i));
            if (!extras.scores.empty()) {
                sum.entries += entry_losses<R>(
                    options_.problem, data,
                    extras.scores.subspan(
                        static_cast<std::size_t>(a_.local().row_ptr[static_cast<std::size_t>(i)]),
                        data.cols.size()));
                continue;
            }
            if (heavy_.is_heavy(a_.first_row() + i)) continue;
            scores.resize(data.cols.size());
            score_row(data, x.local().row(i), scores);
            sum.entries += entry_losses<R>(options_.problem, data, scores);
        }
        const auto at = static_cast<std::size_t>(2 * (s - a_.shards().begin));
        terms[at] = sum.entries;
        terms[at + 1] = sum.ridge;
    });
    if (!heavy_.none() && extras.scores.empty()) add_heavy_losses(x, terms);
    double sums[2];
    reproducible_sum(a_.comm(), terms, sums);
    return {sums[0], sums[1]};
}

template <Real R>
double SparseSide<R>::certificate(const BlockRows<R>& x, const SideExtras<R>& extras) {
    begin_solvers();
    std::vector<double> largest(static_cast<std::size_t>(options_.threads), 0.0);
    for_each_row_block([&](Index, Range rows) {
        const auto thread = static_cast<std::size_t>(omp_get_thread_num());
        for (Index i = rows.begin; i < rows.end; ++i) {
            if (heavy_.is_heavy(a_.first_row() + i)) continue;
            largest[thread] = std::max(largest[thread], solvers_[thread].relative_residual(
                                                            row(i, extras), x.local().row(i)));
        }
    });
    return a_.comm().all_reduce(std::max(std::ranges::max(largest), heavy_residual_), Reduce::max);
}

template <Real R>
double SparseSide<R>::ridge(const BlockRows<R>& x, const SideExtras<R>& extras) const {
    std::vector<double> terms;
    for (Index s = a_.shards().begin; s < a_.shards().end; ++s) {
        const Range rows = a_.layout().shard_rows(s);
        double sum = 0.0;
        for (Index i = rows.begin - a_.first_row(); i < rows.end - a_.first_row(); ++i) {
            sum += row_ridge(row(i, extras), x.local().row(i));
        }
        terms.push_back(sum);
    }
    return reproducible_sum(a_.comm(), terms);
}

template <Real R>
double SparseSide<R>::row_ridge(const RowData<R>& row, std::span<const R> x) const {
    double sum = 0.0;
    if (row.count > 0) sum = options_.problem.row_lambda(row.count) * square_norm(x);
    for (std::size_t f = 0; f < row.prior.size(); ++f) {
        const double d = static_cast<double>(x[f]) - static_cast<double>(row.prior[f]);
        sum += options_.problem.prior_weight * d * d;
    }
    return sum;
}

template <Real R>
double all_pairs_square(const BlockRows<R>& x, const BlockRows<R>& y) {
    const DenseMatrix<double> gx = gram(x);
    const DenseMatrix<double> gy = gram(y);
    double sum = 0.0;
    for (Index i = 0; i < gx.rows(); ++i) {
        sum += gx(i, i) * gy(i, i);
        for (Index j = i + 1; j < gx.cols(); ++j) sum += 2.0 * gx(i, j) * gy(i, j);
    }
    return sum;
}

template class BiasedFactors<float>;
template class BiasedFactors<double>;
template class SparseSide<float>;
template class SparseSide<double>;
template double all_pairs_square(const BlockRows<float>&, const BlockRows<float>&);
template double all_pairs_square(const BlockRows<double>&, const BlockRows<double>&);

}  // namespace rankfold
