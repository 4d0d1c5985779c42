#include <rankfold/core/sum_tree.hpp>

#include <algorithm>
#include <bit>

namespace rankfold {

namespace {

void collect_nodes(Range node, Range mine, std::vector<Range>& nodes) {
    if (node.end <= mine.begin || node.begin >= mine.end) return;
    if (node.begin >= mine.begin && node.end <= mine.end) {
        nodes.push_back(node);
        return;
    }
    const auto [left, right] = tree_halves(node);
    collect_nodes(left, mine, nodes);
    collect_nodes(right, mine, nodes);
}

/// The additions for one node; the result stands where the first of the node's held sums stood,
/// whose number is returned.
Index plan_additions(Range node, const std::vector<Range>& held,
                     std::vector<std::pair<Index, Index>>& additions) {
    if (const auto found = std::ranges::find(held, node); found != held.end()) {
        return static_cast<Index>(found - held.begin());
    }
    const auto [left, right] = tree_halves(node);
    const Index to = plan_additions(left, held, additions);
    const Index from = plan_additions(right, held, additions);
    additions.emplace_back(to, from);
    return to;
}

}  // namespace

std::pair<Range, Range> tree_halves(Range node) {
    RANKFOLD_EXPECT(node.size() > 1);
    const auto half = std::bit_floor(static_cast<std::uint64_t>(node.size() - 1));
    const Index middle = node.begin + static_cast<Index>(half);
    return {{node.begin, middle}, {middle, node.end}};
}

std::vector<Range> tree_nodes(Index blocks, Range mine) {
    std::vector<Range> nodes;
    if (mine.size() > 0) collect_nodes({0, blocks}, mine, nodes);
    return nodes;
}

std::vector<std::pair<Index, Index>> tree_additions(Index blocks, const std::vector<Range>& held) {
    RANKFOLD_EXPECT(blocks > 0);
    std::vector<std::pair<Index, Index>> additions;
    plan_additions({0, blocks}, held, additions);
    return additions;
}

}  // namespace rankfold
