#include "side_features.hpp"

#include <algorithm>

#include <fmt/format.h>

#include <rankfold/factor/als.hpp>

#include "scoring.hpp"

namespace rankfold::cli {

template <Real R>
BlockRowCsr<R> load_features(Run& run, const std::string& path, const IdSource& ids,
                             const std::string& axis, const ShardLayout& layout) {
    const auto features = load_matrix<R>(run, path);
    const auto map =
        match_names(run.comm, features->ids, ids, "obs", features->rows(), layout.rows(), axis);
    Aligned<R> aligned =
        align(features->sparse ? *features->sparse : sparsify(*features->dense, Zeros::left_out),
              layout, features->cols(), map, {});
    const Index known =
        map.empty() ? layout.rows() : std::ssize(map) - std::ranges::count(map, Index{-1});
    run.result["features"][axis] = {
        {"width", features->cols()}, {"matched", known}, {"without", layout.rows() - known}};
    if (known == 0) {
        throw input_error("no row of ", path, " has a name that the matrix has (", axis,
                          "); import the features with the same ids");
    }
    if (known < layout.rows()) {
        run.say(fmt::format("{} of {} {} have no features in {}: theirs are 0",
                            layout.rows() - known, layout.rows(),
                            axis == "obs" ? "rows" : "columns", path));
    }
    return std::move(aligned.matrix);
}

template BlockRowCsr<float> load_features(Run&, const std::string&, const IdSource&,
                                          const std::string&, const ShardLayout&);
template BlockRowCsr<double> load_features(Run&, const std::string&, const IdSource&,
                                           const std::string&, const ShardLayout&);

}  // namespace rankfold::cli
