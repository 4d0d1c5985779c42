// Ids of rows and columns as they stand in text, and their numbering over all ranks.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <rankfold/comm/communicator.hpp>
#include <rankfold/core/hash.hpp>
#include <rankfold/data/matrix_file.hpp>

namespace rankfold {

/// Distinct keys in the order of their first appearance, found by hashing.
template <class Key>
class KeyTable {
public:
    /// The number of a key, which is added if it is new. View: what Key can be compared with.
    template <class View>
    [[nodiscard]] ColIndex code(const View& key) {
        if (2 * (keys_.size() + 1) > slots_.size()) grow();
        std::size_t slot = hash(key) & (slots_.size() - 1);
        while (slots_[slot] >= 0) {
            if (keys_[static_cast<std::size_t>(slots_[slot])] == key) return slots_[slot];
            slot = (slot + 1) & (slots_.size() - 1);
        }
        slots_[slot] = narrow<ColIndex>(keys_.size());
        keys_.emplace_back(key);
        return slots_[slot];
    }

    [[nodiscard]] const std::vector<Key>& keys() const noexcept { return keys_; }

private:
    static std::size_t hash(std::int64_t key) { return mix64(static_cast<std::uint64_t>(key)); }
    static std::size_t hash(std::string_view key) { return mix64(fnv1a(key)); }

    void grow() {
        slots_.assign(std::max<std::size_t>(1024, 4 * slots_.size()), -1);
        for (std::size_t k = 0; k < keys_.size(); ++k) {
            std::size_t slot = hash(keys_[k]) & (slots_.size() - 1);
            while (slots_[slot] >= 0) slot = (slot + 1) & (slots_.size() - 1);
            slots_[slot] = static_cast<ColIndex>(k);
        }
    }

    std::vector<Key> keys_;
    std::vector<ColIndex> slots_;  // a power of two; −1 where free
};

/// The distinct ids that this rank has met, as integers while all of them are integers as we would
/// write them ("7", not "007"), else as text; so no id changes by being read.
class IdTable {
public:
    /// The local number of an id, counted by first appearance.
    [[nodiscard]] ColIndex code(std::string_view id);
    /// The same for an id that is an integer.
    [[nodiscard]] ColIndex code(std::int64_t id);

    [[nodiscard]] bool numeric() const noexcept { return numeric_; }
    [[nodiscard]] const std::vector<std::int64_t>& numbers() const { return numbers_.keys(); }
    [[nodiscard]] const std::vector<std::string>& texts() const { return texts_.keys(); }
    [[nodiscard]] Index size() const {
        return static_cast<Index>(numeric_ ? numbers().size() : texts().size());
    }

    /// Turns integers into their text.
    void to_text();

private:
    bool numeric_ = true;
    std::vector<ColIndex> small_;  // of integers from 0 on, without hashing; −1: not met yet
    KeyTable<std::int64_t> numbers_;
    KeyTable<std::string> texts_;
};

/// The positions of ids among all ranks' ids.
struct Numbering {
    std::vector<Index> position;  ///< of every local code; −1: unknown, left out
    Index count = 0;              ///< of all names; the same on all ranks
    Index unknown = 0;            ///< distinct ids that are not among the known; the same
    Names names;                  ///< all of them in order, on rank 0
};

/// Numbers the ids of all ranks: sorted, integers by value, texts by their bytes, so that the
/// positions do not depend on the number of ranks or on which rank met an id.
///
/// Distinct ids are sorted by samples: each goes once to the rank that owns its part of the order
/// and comes back as a position; only rank 0 ever holds all of them.
///
/// @param known   names that keep their positions 0 …; rank 0's copy counts, all ranks must have
///                one or none. Other ids are unknown: left out, or put behind if `extend`.
/// @collective over comm
/// @throws Error (Fault::input), agreed: a known name stands twice
[[nodiscard]] Numbering number_ids(const Communicator& comm, IdTable& table,
                                   const std::optional<Names>& known, bool extend);

}  // namespace rankfold
