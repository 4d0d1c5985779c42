// The slow, obvious evaluation: whole matrices in memory, one loop a definition.
#pragma once

#include <cmath>
#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace rankfold::test {

/// Scores of all pairs, and the sets of columns of each row's parts.
struct NaiveRanking {
    std::vector<std::vector<double>> scores;
    std::vector<std::set<int>> test;
    std::vector<std::set<int>> excluded;   ///< training and validation entries
    std::vector<std::set<int>> negatives;  ///< used instead of all columns, if not empty
};

/// The columns that a row's test entries compete with, themselves among them.
inline std::set<int> naive_candidates(const NaiveRanking& r, std::size_t row) {
    std::set<int> candidates = r.test[row];
    if (!r.negatives.empty()) {
        candidates.insert(r.negatives[row].begin(), r.negatives[row].end());
        return candidates;
    }
    for (std::size_t j = 0; j < r.scores[row].size(); ++j) {
        if (!r.excluded[row].contains(static_cast<int>(j))) candidates.insert(static_cast<int>(j));
    }
    return candidates;
}

inline int naive_place(const NaiveRanking& r, std::size_t row, int col) {
    const auto score = [&](int j) { return r.scores[row][static_cast<std::size_t>(j)]; };
    int place = 1;
    for (const int j : naive_candidates(r, row)) {
        if (j != col && score(j) >= score(col)) ++place;
    }
    return place;
}

/// All metrics of one row, by name.
inline std::map<std::string, double> naive_row(const NaiveRanking& r, std::size_t row, int k) {
    const auto& test = r.test[row];
    const double total = static_cast<double>(test.size());
    double hits = 0.0;
    double dcg = 0.0;
    double precision = 0.0;
    for (const int t : test) {
        const int place = naive_place(r, row, t);
        if (place > k) continue;
        hits += 1.0;
        dcg += 1.0 / std::log2(place + 1.0);
        double before = 0.0;
        for (const int other : test) {
            if (naive_place(r, row, other) <= place) before += 1.0;
        }
        precision += before / place;
    }
    double ideal = 0.0;
    for (int p = 1; p <= k && p <= static_cast<int>(test.size()); ++p) {
        ideal += 1.0 / std::log2(p + 1.0);
    }
    double above = 0.0;
    double pairs = 0.0;
    for (const int t : test) {
        for (const int j : naive_candidates(r, row)) {
            if (test.contains(j)) continue;
            pairs += 1.0;
            if (r.scores[row][static_cast<std::size_t>(t)] >
                r.scores[row][static_cast<std::size_t>(j)]) {
                above += 1.0;
            }
        }
    }
    const std::string at = "@" + std::to_string(k);
    return {{"hr" + at, hits > 0.0 ? 1.0 : 0.0},
            {"ndcg" + at, dcg / ideal},
            {"recall" + at, hits / total},
            {"recall-min" + at, hits / std::min<double>(k, total)},
            {"map" + at, precision / std::min<double>(k, total)},
            {"auc", pairs > 0.0 ? above / pairs : 1.0}};
}

/// Mean and standard error of the mean.
inline std::pair<double, double> naive_estimate(const std::vector<double>& values) {
    double sum = 0.0;
    for (const double x : values) sum += x;
    const double mean = sum / static_cast<double>(values.size());
    double squares = 0.0;
    for (const double x : values) squares += (x - mean) * (x - mean);
    const auto n = static_cast<double>(values.size());
    return {mean, std::sqrt(squares / (n - 1.0) / n)};
}

}  // namespace rankfold::test
