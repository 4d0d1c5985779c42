#include <rankfold/nn/products.hpp>

#include <algorithm>
#include <bit>

#include <omp.h>

#include <rankfold/core/subscript.hpp>
#include <rankfold/nn/gradient_sum.hpp>

#include "tile_kernels.hpp"

namespace rankfold {

namespace {

/// Rows of a slab: the left operand of so many outputs stays in the second-level cache.
constexpr Index slab_rows = 96;
constexpr Index half_slab = slab_rows / 2;  // whole groups of three quads, and whole vectors
/// Elements of panels that stay there while the rows of x pass them, a slab at a time.
constexpr Index group_elements = 1 << 16;
/// Rows of x that are packed at once; the weights are packed anew for each lot.
constexpr Index most_rows = 1024;
/// Bytes of a layer's gradient from which on it is streamed to memory past the caches: smaller ones
/// are still there when they are summed.
constexpr std::size_t streamed_bytes = std::size_t{1} << 20;
/// Products over more terms are cut into parts of this many, which are added one after the other.
constexpr Index most_terms = 2048;

/// One of `parts` nearly equal parts of some rows, in whole groups.
constexpr Range part_in_groups(Index rows, Index group, Index parts, Index part) {
    const Range groups = even_part((rows + group - 1) / group, parts, part);
    return {groups.begin * group, std::min(groups.end * group, rows)};
}

/// The same, in groups of three quads.
constexpr Range quad_part(Index rows, Index parts, Index part) {
    return part_in_groups(rows, 3 * quad_rows, parts, part);
}

/// The same, in panels.
template <Real R>
constexpr Range panel_part(Index rows, Index parts, Index part) {
    return part_in_groups(rows, panel_width<R>, parts, part);
}

constexpr Index in_quads(Index rows) {
    return (rows + quad_rows - 1) / quad_rows;
}

template <Real R>
Index in_panels(Index cols) {
    return (cols + panel_width<R> - 1) / panel_width<R>;
}

/// A buffer of at least this many elements.
template <Real R>
R* at_least(AlignedVector<R>& buffer, Index size) {
    if (buffer.size() < at(size)) buffer.resize(at(size));
    return buffer.data();
}

/// Runs work(i, thread) for i in [0, n) on the space's threads; a single thread opens no team.
/// Each thread ends with end().
template <class Work, class End>
void share(Index n, Index threads, const Work& work, const End& end) {
    if (threads == 1 || n < 2) {
        for (Index i = 0; i < n; ++i) work(i, 0);
        end();
        return;
    }
#pragma omp parallel num_threads(static_cast <int>(threads))
    {
#pragma omp for schedule(dynamic) nowait
        for (Index i = 0; i < n; ++i) work(i, static_cast<Index>(omp_get_thread_num()));
        end();
    }
}

template <class Work>
void share(Index n, Index threads, const Work& work) {
    share(n, threads, work, [] {});
}

/// Packs up to panel_width rows of x as a panel of its transpose: element (k, c) = x(c, k).
template <Real R>
void pack_rows_as_panel(MatrixView<const R> x, R* panel) {
    constexpr Index width = panel_width<R>;
    if (x.rows < width) std::fill_n(panel, width * x.cols, R{0});
    transpose_into<R>(x, {panel, x.cols, x.rows, width});
}

/// Packs columns of x as panels, one behind the other: element (k, c) of a panel = x(k, c); missing
/// columns are 0. Goes through x in strips of a few panels, and fetches rows ahead: their lines are
/// too far apart for the processor to foresee them.
template <Real R>
void pack_columns_as_panels(MatrixView<const R> x, R* to) {
    constexpr Index width = panel_width<R>;
    constexpr Index strip = 4 * width;
    constexpr Index ahead = 12;
    constexpr auto line = static_cast<Index>(64 / sizeof(R));
    for (Index first = 0; first < x.cols; first += strip) {
        const Index cols = std::min(strip, x.cols - first);
        const Index whole = cols / width;
        const Index left = cols - whole * width;
        for (Index k = 0; k < x.rows; ++k) {
            const R* from = x.data + k * x.ld + first;
            R* panel = to + first * x.rows + k * width;
            for (Index c = 0; c < cols; c += line) __builtin_prefetch(from + ahead * x.ld + c);
            for (Index p = 0; p < whole; ++p, from += width, panel += width * x.rows) {
                std::copy_n(from, width, panel);  // copies of known length are a few instructions
            }
            if (left == 0) continue;
            std::copy_n(from, left, panel);
            std::fill(panel + left, panel + width, R{0});
        }
    }
}

/// Elements from one quad of so many terms to the next: a line more than needed, so that the quads
/// of a power of two do not all fall into one set of the cache.
constexpr Index quad_stride(Index terms) {
    return quad_rows * terms + 16;
}

/// Packs rows of x in quads: quad q, element (k, r) = x(4 q + r, k); missing rows are 0.
template <Real R>
void pack_rows_in_quads(MatrixView<const R> x, R* to) {
    for (Index q = 0; q < in_quads(x.rows); ++q, to += quad_stride(x.cols)) {
        const Range rows{q * quad_rows, std::min((q + 1) * quad_rows, x.rows)};
        if (rows.size() < quad_rows) std::fill_n(to, quad_rows * x.cols, R{0});
        transpose_into<R>(x.row_block(rows), {to, x.cols, rows.size(), quad_rows});
    }
}

/// Packs columns of x in quads: quad q, element (k, r) = x(k, 4 q + r); missing columns are 0. Goes
/// through x in strips of rows, so that whole lines of a quad are written.
template <Real R>
void pack_columns_in_quads(MatrixView<const R> x, R* to) {
    constexpr Index strip = 16;
    const Index whole = x.cols / quad_rows;
    const Index left = x.cols - whole * quad_rows;
    const Index stride = quad_stride(x.rows);
    for (Index first = 0; first < x.rows; first += strip) {
        const Index end = std::min(first + strip, x.rows);
        for (Index q = 0; q < whole; ++q) {
            R* quad = to + q * stride;
            const R* from = x.data + quad_rows * q;
            for (Index k = first; k < end; ++k) {
                std::copy_n(from + k * x.ld, quad_rows, quad + quad_rows * k);
            }
        }
        for (Index k = first; left > 0 && k < end; ++k) {
            R* quad = to + whole * stride + quad_rows * k;
            std::copy_n(x.row(k).data() + whole * quad_rows, left, quad);
            std::fill(quad + left, quad + quad_rows, R{0});
        }
    }
}

/// Whether rows of this stride fall into one set of the first-level cache, which holds fewer lines
/// than tiles have rows.
template <Real R>
constexpr bool collide(Index stride) {
    constexpr Index set_distance = 4096;  // bytes between the lines of a set
    return stride * static_cast<Index>(sizeof(R)) % set_distance == 0;
}

/// Whether a tile has all columns of its panel and all rows of its quads, so that it can be written
/// in place; others are made elsewhere first, see put_tile().
template <Real R>
bool whole_tile(MatrixView<R> to) {
    return to.cols == panel_width<R> && to.rows % quad_rows == 0;
}

/// The present value of a tile if a product is to be added to it, or nothing.
template <Real R>
Addends<R> present(MatrixView<R> to, bool adds) {
    return adds ? Addends<R>{.first = to.data, .ld = to.ld, .count = 1} : Addends<R>{};
}

/// to ← tile, or to + tile, for a tile of the panel's width that may have more rows and columns.
template <Real R>
void put_tile(const R* tile, bool adds, MatrixView<R> to) {
    const MatrixView<const R> part(tile, to.rows, to.cols, panel_width<R>);
    for (Index i = 0; i < to.rows; ++i) {
        if (adds) {
            add_to<R>(part.row(i), to.row(i));
        } else {
            std::ranges::copy(part.row(i), to.row(i).begin());
        }
    }
}

template <Real R>
void finish_tile(const Epilogue<R>& epilogue, Range rows, Range cols, MatrixView<R> z) {
    const MatrixView<R> tile = z.row_block(rows).col_block(cols);
    if (!epilogue.bias.empty()) {
        bias_activation<R>(tile, epilogue.bias.subspan(at(cols.begin), at(cols.size())),
                           epilogue.f);
    }
    if (epilogue.outputs.data != nullptr && epilogue.g != Activation::identity) {
        activation_gradient<R>(epilogue.outputs.row_block(rows).col_block(cols), epilogue.g, tile);
    }
}

/// The sum over a node's blocks of one tile, in the order of tree_halves(): left halves wait on
/// levels until the last block of their right halves is there, and are added to it one after the
/// other.
template <Real R>
class TileTree {
public:
    TileTree(const R* quads, Index rows, Index row_quads, std::span<const Index> ends, R* levels)
        : quads_{quads}, rows_{rows}, row_quads_{row_quads}, ends_{ends}, levels_{levels} {}

    /// @param more  only for a node of one block: what is added to it
    void sum(Range node, const R* panel, const Addends<R>& more, const TileTarget<R>& out) const {
        RANKFOLD_EXPECT(node.size() == 1 || more.count == 0);
        sum_above(0, node, panel, more, out);
    }

private:
    static constexpr Index width = panel_width<R>;
    static constexpr Index level_size = slab_rows * width;

    /// @param used     levels that hold left halves
    /// @param waiting  those that wait for the node's last block, the last one first
    void sum_above(Index used, Range node, const R* panel, const Addends<R>& waiting,
                   const TileTarget<R>& out) const {
        if (node.size() == 1) {
            const Index b = node.begin;
            const Index begin = b == 0 ? 0 : ends_[at(b - 1)];
            tile_product<R>(ends_[at(b)] - begin, {quads_ + quad_rows * begin, quad_stride(rows_)},
                            row_quads_, panel + width * begin, width, waiting, out);
            return;
        }
        const auto [left, right] = tree_halves(node);
        R* const level = levels_ + used * level_size;
        sum_above(used + 1, left, panel, {}, {level, width});
        sum_above(used + 1, right, panel, {level, width, waiting.count + 1, -level_size}, out);
    }

    const R* quads_;
    Index rows_;
    Index row_quads_;
    std::span<const Index> ends_;
    R* levels_;
};

/// z ← epilogue(x Wᵀ). The weights are the left operand of tiles of zᵀ; they are read as they
/// stand, unless their rows collide.
template <Real R>
void products_with_rows(MatrixView<const R> x, MatrixView<const R> w, const Epilogue<R>& epilogue,
                        MatrixView<R> z, ProductSpace<R>& space) {
    constexpr Index width = panel_width<R>;
    const Index parts = (x.rows + most_rows - 1) / most_rows;
    const Index slabs =
        std::max((w.rows + slab_rows - 1) / slab_rows, std::min(space.threads, w.rows / half_slab));
    for (Index part = 0; part < parts; ++part) {
        const Range some = panel_part<R>(x.rows, parts, part);
        const Index panels = in_panels<R>(some.size());
        for (Index first = 0; first < x.cols || first == 0; first += most_terms) {
            const Range terms{first, std::min(first + most_terms, x.cols)};
            const bool adds = first > 0 || epilogue.add;
            R* const packed = at_least(space.panels, panels * width * terms.size());
            const auto rows_of = [&](Index p) {
                return Range{some.begin + p * width,
                             std::min(some.begin + (p + 1) * width, some.end)};
            };
            share(panels, space.threads, [&](Index p, Index) {
                pack_rows_as_panel<R>(x.row_block(rows_of(p)).col_block(terms),
                                      packed + p * width * terms.size());
            });
            share(slabs, space.threads, [&](Index slab, Index thread) {
                const Range outputs = part_in_groups(w.rows, half_slab, slabs, slab);
                const MatrixView<const R> weights = w.row_block(outputs).col_block(terms);
                const Index unpacked = collide<R>(w.ld) ? 0 : outputs.size() / quad_rows;
                const MatrixView<const R> rest =
                    weights.row_block({unpacked * quad_rows, outputs.size()});
                const Index stride = quad_stride(terms.size());
                R* const tile = at_least(space.slabs[at(thread)],
                                         2 * slab_rows * width + in_quads(rest.rows) * stride);
                R* const turned = tile + slab_rows * width;
                R* const quads = turned + slab_rows * width;
                pack_rows_in_quads<R>(rest, quads);
                for (Index p = 0; p < panels; ++p) {
                    const Range rows = rows_of(p);
                    const R* panel = packed + p * width * terms.size();
                    tile_product<R>(terms.size(), {weights.data, quad_rows * w.ld, w.ld}, unpacked,
                                    panel, rows.size(), {}, {tile, width});
                    tile_product<R>(terms.size(), {quads, stride}, in_quads(rest.rows), panel,
                                    rows.size(), {}, {tile + unpacked * quad_rows * width, width});
                    const MatrixView<const R> result(tile, outputs.size(), rows.size(), width);
                    const MatrixView<R> to = z.row_block(rows).col_block(outputs);
                    if (adds) {
                        const MatrixView<R> more(turned, rows.size(), outputs.size(), slab_rows);
                        transpose_into<R>(result, more);
                        for (Index i = 0; i < rows.size(); ++i) {
                            add_to<R>(std::as_const(more).row(i), to.row(i));
                        }
                    } else {
                        transpose_into<R>(result, to);
                    }
                    if (terms.end == x.cols) finish_tile(epilogue, rows, outputs, z);
                }
            });
        }
    }
}

/// z ← epilogue(x W). Panels of columns of W are packed by groups, and meet all rows of x in quads.
template <Real R>
void products_with_columns(MatrixView<const R> x, MatrixView<const R> w,
                           const Epilogue<R>& epilogue, MatrixView<R> z, ProductSpace<R>& space) {
    constexpr Index width = panel_width<R>;
    const Index parts = (x.rows + most_rows - 1) / most_rows;
    const Index panels = in_panels<R>(z.cols);
    for (Index part = 0; part < parts; ++part) {
        const Range some = quad_part(x.rows, parts, part);
        const Index slabs = (some.size() + slab_rows - 1) / slab_rows;
        for (Index first = 0; first < x.cols || first == 0; first += most_terms) {
            const Range terms{first, std::min(first + most_terms, x.cols)};
            const bool adds = first > 0 || epilogue.add;
            const Index stride = quad_stride(terms.size());
            R* const left = at_least(space.quads, in_quads(some.size()) * stride);
            pack_rows_in_quads<R>(x.row_block(some).col_block(terms), left);
            const Index fit = group_elements / (width * std::max<Index>(terms.size(), 1));
            const Index together = std::max<Index>(fit, 1);  // panels of a group
            const Index groups =
                std::max((panels + together - 1) / together, std::min(space.threads, panels));
            share(groups, space.threads, [&](Index group, Index thread) {
                const Range outputs = part_in_groups(z.cols, width, groups, group);
                const Index packed = in_panels<R>(outputs.size()) * width * terms.size();
                R* const right = at_least(space.slabs[at(thread)], packed + slab_rows * width);
                R* const tile = right + packed;
                pack_columns_as_panels<R>(w.row_block(terms).col_block(outputs), right);
                for (Index slab = 0; slab < slabs; ++slab) {
                    const Range own = quad_part(some.size(), slabs, slab);
                    const Range rows{some.begin + own.begin, some.begin + own.end};
                    const TileRows<R> quads{left + own.begin / quad_rows * stride, stride};
                    for (Index c = outputs.begin; c < outputs.end; c += width) {
                        const R* const panel = right + (c - outputs.begin) * terms.size();
                        const MatrixView<R> to =
                            z.row_block(rows).col_block({c, std::min(c + width, outputs.end)});
                        if (whole_tile(to)) {
                            tile_product<R>(terms.size(), quads, in_quads(to.rows), panel, width,
                                            present(to, adds), {to.data, to.ld});
                        } else {
                            tile_product<R>(terms.size(), quads, in_quads(to.rows), panel, to.cols,
                                            {}, {tile, width});
                            put_tile<R>(tile, adds, to);
                        }
                    }
                    if (terms.end == x.cols) finish_tile(epilogue, rows, outputs, z);
                }
            });
        }
    }
}

}  // namespace

template <Real R>
void row_products(WeightSide side, MatrixView<const R> x, MatrixView<const R> w,
                  const Epilogue<R>& epilogue, MatrixView<R> z, ProductSpace<R>& space) {
    const bool by_row = side == WeightSide::row_an_output;
    RANKFOLD_EXPECT(x.rows == z.rows && (by_row ? w.rows : w.cols) == z.cols);
    RANKFOLD_EXPECT((by_row ? w.cols : w.rows) == x.cols);
    space.slabs.resize(at(space.threads));
    if (by_row && z.cols == 1) {
        share(in_panels<R>(x.rows), space.threads, [&](Index p, Index) {
            const Range rows = panel_part<R>(x.rows, in_panels<R>(x.rows), p);
            row_dots<R>(x.row_block(rows), w.row(0), epilogue.add, z.row_block(rows));
            finish_tile(epilogue, rows, {0, 1}, z);
        });
    } else if (by_row) {
        products_with_rows(x, w, epilogue, z, space);
    } else {
        products_with_columns(x, w, epilogue, z, space);
    }
}

template <Real R>
void block_products(MatrixView<const R> d, MatrixView<const R> x, std::span<const Index> ends,
                    std::span<const Range> nodes, std::span<R* const> out, bool add,
                    ProductSpace<R>& space) {
    constexpr Index width = panel_width<R>;
    RANKFOLD_EXPECT(d.rows == x.rows && nodes.size() == out.size());
    const Index panels = in_panels<R>(x.cols);
    const Index slabs = (d.cols + slab_rows - 1) / slab_rows;
    R* const packed = at_least(space.panels, panels * width * x.rows);
    const Index groups = std::min(panels, space.threads);
    share(groups, space.threads, [&](Index group, Index) {
        const Range cols = part_in_groups(x.cols, width, groups, group);
        pack_columns_as_panels<R>(x.col_block(cols), packed + cols.begin * x.rows);
    });
    R* const quads = at_least(space.quads, in_quads(d.cols) * quad_stride(d.rows));
    pack_columns_in_quads<R>(d, quads);
    Index levels = 1;
    for (const Range& node : nodes) {
        levels = std::max<Index>(levels, std::bit_width(static_cast<std::uint64_t>(node.size())));
    }
    space.slabs.resize(at(space.threads));
    const bool streams = !add && at(d.cols * x.cols) * sizeof(R) >= streamed_bytes;
    const auto tile_of = [&](Index task, Index thread) {
        const Range rows{task / panels * slab_rows,
                         std::min((task / panels + 1) * slab_rows, d.cols)};
        const Range cols{task % panels * width, std::min((task % panels + 1) * width, x.cols)};
        R* const tile = at_least(space.slabs[at(thread)], (levels + 1) * slab_rows * width);
        const TileTree<R> tree(quads + rows.begin / quad_rows * quad_stride(d.rows), d.rows,
                               in_quads(rows.size()), ends, tile + slab_rows * width);
        const R* const panel = packed + task % panels * width * x.rows;
        for (std::size_t n = 0; n < nodes.size(); ++n) {
            const MatrixView<R> to =
                MatrixView<R>(out[n], d.cols, x.cols).row_block(rows).col_block(cols);
            if (whole_tile(to)) {
                tree.sum(nodes[n], panel, present(to, add), {to.data, to.ld, streams});
            } else {
                tree.sum(nodes[n], panel, {}, {tile, width});
                put_tile<R>(tile, add, to);
            }
        }
    };
    share(slabs * panels, space.threads, tile_of, end_streams);
}

#define RANKFOLD_INSTANTIATE(R)                                                                    \
    template void row_products(WeightSide, MatrixView<const R>, MatrixView<const R>,               \
                               const Epilogue<R>&, MatrixView<R>, ProductSpace<R>&);               \
    template void block_products(MatrixView<const R>, MatrixView<const R>, std::span<const Index>, \
                                 std::span<const Range>, std::span<R* const>, bool,                \
                                 ProductSpace<R>&);
RANKFOLD_INSTANTIATE(float)
RANKFOLD_INSTANTIATE(double)
#undef RANKFOLD_INSTANTIATE

}  // namespace rankfold
