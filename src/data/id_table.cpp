#include <rankfold/data/id_table.hpp>

#include <algorithm>
#include <bit>
#include <numeric>

#include <rankfold/data/names.hpp>
#include <rankfold/data/text_reader.hpp>

namespace rankfold {

namespace {

constexpr std::size_t samples_per_rank = 256;

std::size_t at(Index i) {
    return static_cast<std::size_t>(i);
}

std::vector<std::int64_t> exchange(const Communicator& comm, const std::vector<std::int64_t>& keys,
                                   std::span<const Index> counts, std::vector<Index>* received) {
    return comm.all_to_all(std::span<const std::int64_t>(keys), counts, received);
}

std::vector<std::string> exchange(const Communicator& comm, const std::vector<std::string>& keys,
                                  std::span<const Index> counts, std::vector<Index>* received) {
    std::string characters;
    std::vector<Index> lengths;
    std::vector<Index> bytes;
    auto key = keys.begin();
    for (const Index n : counts) {
        const std::size_t before = characters.size();
        for (Index i = 0; i < n; ++i, ++key) {
            characters += *key;
            lengths.push_back(static_cast<Index>(key->size()));
        }
        bytes.push_back(static_cast<Index>(characters.size() - before));
    }
    const auto all_lengths = comm.all_to_all(std::span<const Index>(lengths), counts, received);
    const auto all = comm.all_to_all(std::span<const char>(characters), bytes);
    std::vector<std::string> texts;
    texts.reserve(all_lengths.size());
    auto from = all.begin();
    for (const Index n : all_lengths) {
        texts.emplace_back(from, from + n);
        from += n;
    }
    return texts;
}

/// All ranks' keys on every rank.
template <class Key>
std::vector<Key> gather(const Communicator& comm, const std::vector<Key>& keys) {
    std::vector<Key> repeated;
    for (int q = 0; q < comm.size(); ++q) repeated.insert(repeated.end(), keys.begin(), keys.end());
    const std::vector<Index> counts(at(comm.size()), static_cast<Index>(keys.size()));
    return exchange(comm, repeated, counts, nullptr);
}

/// All ranks' keys, in rank order, on rank 0.
template <class Key>
std::vector<Key> collect(const Communicator& comm, const std::vector<Key>& keys) {
    std::vector<Index> counts(at(comm.size()), 0);
    counts[0] = static_cast<Index>(keys.size());
    return exchange(comm, keys, counts, nullptr);
}

/// Positions that would sort `keys`.
template <class Key>
std::vector<Index> sorting(const std::vector<Key>& keys) {
    std::vector<Index> order(keys.size());
    std::iota(order.begin(), order.end(), Index{0});
    std::ranges::sort(order, {}, [&](Index i) -> const Key& { return keys[at(i)]; });
    return order;
}

/// size − 1 keys between which the ranks' parts of the order lie.
template <class Key>
std::vector<Key> splitters(const Communicator& comm, const std::vector<Key>& sorted) {
    std::vector<Key> samples;
    const std::size_t count = std::min(sorted.size(), samples_per_rank);
    for (std::size_t s = 0; s < count; ++s) samples.push_back(sorted[s * sorted.size() / count]);
    samples = gather(comm, samples);
    std::ranges::sort(samples);
    std::vector<Key> cuts;
    for (int q = 1; q < comm.size() && !samples.empty(); ++q) {
        cuts.push_back(samples[at(q) * samples.size() / at(comm.size())]);
    }
    return cuts;
}

/// How many of the sorted keys fall to every rank.
template <class Key>
std::vector<Index> share_out(const Communicator& comm, const std::vector<Key>& sorted,
                             const std::vector<Key>& cuts) {
    std::vector<Index> counts(at(comm.size()), 0);
    Index before = 0;
    for (std::size_t q = 0; q < counts.size(); ++q) {
        const auto end = q < cuts.size() ? std::ranges::lower_bound(sorted, cuts[q]) : sorted.end();
        const Index upto = std::max<Index>(before, end - sorted.begin());
        counts[q] = upto - before;
        before = upto;
    }
    return counts;
}

template <class Key>
std::vector<Key> in_order(const std::vector<Key>& keys, const std::vector<Index>& order) {
    std::vector<Key> sorted;
    sorted.reserve(keys.size());
    for (const Index i : order) sorted.push_back(keys[at(i)]);
    return sorted;
}

template <class Key>
std::vector<Key> distinct(std::vector<Key> keys) {
    std::ranges::sort(keys);
    keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
    return keys;
}

/// The known names that fall to this rank's part of the order, sorted, and their positions.
template <class Key>
struct KnownPart {
    std::vector<Key> keys;
    std::vector<Index> positions;
};

template <class Key>
KnownPart<Key> share_known(const Communicator& comm, const std::vector<Key>& known,
                           const std::vector<Key>& cuts) {
    const auto order = sorting(known);
    const auto sorted = in_order(known, order);
    comm.agree([&] {
        const auto twice = std::ranges::adjacent_find(sorted);
        if (twice != sorted.end()) {
            throw input_error("the name ", *twice,
                              " stands twice among the given ids; names must "
                              "differ");
        }
    });
    const auto counts = share_out(comm, sorted, cuts);
    KnownPart<Key> part;
    part.keys = exchange(comm, sorted, counts, nullptr);
    part.positions = comm.all_to_all(std::span<const Index>(order), counts);
    return part;
}

/// @param known  on rank 0; empty on the others
template <class Key>
Numbering number_keys(const Communicator& comm, const std::vector<Key>& keys,
                      const std::vector<Key>& known, bool only_known, bool extend,
                      std::vector<Key>& names) {
    const auto order = sorting(keys);
    const auto sorted = in_order(keys, order);
    const auto cuts = splitters(comm, sorted);
    const auto counts = share_out(comm, sorted, cuts);
    std::vector<Index> received;
    const auto mine = exchange(comm, sorted, counts, &received);
    const auto part = share_known(comm, known, cuts);

    std::vector<Key> added;
    std::ranges::set_difference(distinct(mine), part.keys, std::back_inserter(added));
    const auto fresh = static_cast<Index>(added.size());
    const Index known_count = comm.all_reduce(static_cast<Index>(known.size()), Reduce::max);
    const bool keep = !only_known || extend;
    const Index first = known_count + comm.exclusive_scan(fresh);

    Numbering result;
    const Index all_fresh = comm.all_reduce(fresh, Reduce::sum);
    result.unknown = only_known ? all_fresh : 0;
    result.count = known_count + (keep ? all_fresh : 0);
    std::vector<Index> answers;
    answers.reserve(mine.size());
    for (const Key& key : mine) {
        const auto old = std::ranges::lower_bound(part.keys, key);
        if (old != part.keys.end() && *old == key) {
            answers.push_back(part.positions[at(old - part.keys.begin())]);
        } else {
            const auto place = std::ranges::lower_bound(added, key) - added.begin();
            answers.push_back(keep ? first + place : -1);
        }
    }
    const auto positions = comm.all_to_all(std::span<const Index>(answers), received);
    result.position.resize(keys.size());
    for (std::size_t t = 0; t < order.size(); ++t) result.position[at(order[t])] = positions[t];
    names = known;
    if (keep) std::ranges::move(collect(comm, added), std::back_inserter(names));
    return result;
}

/// True if the text is an integer as we would write it.
bool parse_id(std::string_view id, std::int64_t& number) {
    if (id.empty() || id.size() > 20 || !parse_number(id, number)) return false;
    const bool negative = id.front() == '-';
    const char first = id[negative ? 1 : 0];
    return first != '0' || id == "0";
}

}  // namespace

ColIndex IdTable::code(std::string_view id) {
    if (numeric_) {
        std::int64_t number = 0;
        if (parse_id(id, number)) return code(number);
        to_text();
    }
    return texts_.code(id);
}

ColIndex IdTable::code(std::int64_t id) {
    constexpr std::int64_t most_small = std::int64_t{1} << 20;
    if (!numeric_) return texts_.code(std::to_string(id));
    if (id < 0 || id >= most_small) return numbers_.code(id);
    const std::size_t place = at(id);
    if (place >= small_.size()) small_.resize(std::bit_ceil(place + 1), ColIndex{-1});
    if (small_[place] < 0) small_[place] = numbers_.code(id);
    return small_[place];
}

void IdTable::to_text() {
    if (!numeric_) return;
    numeric_ = false;
    for (const std::int64_t number : numbers_.keys()) {
        static_cast<void>(texts_.code(std::to_string(number)));
    }
    numbers_ = {};
    small_ = {};
}

Numbering number_ids(const Communicator& comm, IdTable& table, const std::optional<Names>& known,
                     bool extend) {
    const bool text_known = comm.is_root() && known && !known->text.empty();
    const bool numeric = comm.all_agree(table.numeric() && !text_known);
    Numbering result;
    if (numeric) {
        std::vector<std::int64_t> names;
        result =
            number_keys(comm, table.numbers(), known ? known->numbers : std::vector<std::int64_t>{},
                        known.has_value(), extend, names);
        result.names.numbers = std::move(names);
    } else {
        table.to_text();
        std::vector<std::string> texts;
        for (Index i = 0; known && i < count_of(*known); ++i) texts.push_back(name_text(*known, i));
        std::vector<std::string> names;
        result = number_keys(comm, table.texts(), texts, known.has_value(), extend, names);
        result.names.text = std::move(names);
    }
    if (result.count > std::numeric_limits<ColIndex>::max()) {
        throw input_error("there are ", result.count, " different ids; a matrix may have at most ",
                          std::numeric_limits<ColIndex>::max(), " rows and columns");
    }
    return result;
}

}  // namespace rankfold
