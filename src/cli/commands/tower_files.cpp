#include "tower_files.hpp"

#include <algorithm>

#include "als_settings.hpp"
#include "early_stop.hpp"
#include "side_features.hpp"

namespace rankfold::cli {

void TowerFileNames::declare(Options& options) {
    options.add("factors-file", factors_file, "Factors that deepmf's towers read");
    options.add("row-features", row_features, "Matrix file with side features of the rows");
    options.add("col-features", col_features, "… of the columns");
}

std::vector<std::string> TowerFileNames::given() const {
    std::vector<std::string> files{factors_file, row_features, col_features};
    std::erase(files, "");
    return files;
}

template <Real R>
void TowerFiles<R>::open(Run& run, const TowerFileNames& names, const MatrixData<R>& a,
                         std::vector<std::pair<std::string, std::string>>& inputs) {
    if (!names.factors_file.empty()) {
        const auto whole = load_factors<R>(run, names.factors_file);
        inputs.emplace_back("factors", digest_text(digest(run.comm, whole->tensors())));
        factors = factors_for(run, names.factors_file, *whole, a);
        scaled_rows = factors->rows.clone();
        for (Index i = 0; i < scaled_rows.local().rows(); ++i) {
            for (std::size_t f = 0; f < factors->singular_values.size(); ++f) {
                scaled_rows.local().row(i)[f] *= factors->singular_values[f];
            }
        }
        data.rows.factors = &scaled_rows;
        data.cols.factors = &factors->cols;
    }
    if (!names.row_features.empty()) {
        row_features = load_features<R>(run, names.row_features, a.ids, "obs", a.layout());
        data.rows.features = &*row_features;
    }
    if (!names.col_features.empty()) {
        const ShardLayout even = ShardLayout::even(a.cols(), 64, run.comm.size());
        col_features = load_features<R>(run, names.col_features, a.ids, "var", even);
        data.cols.features = &*col_features;
    }
}

DeepMfOptions recorded_towers(const CommonOptions& common, const std::string& options,
                              const std::string& file) {
    DeepMfOptions towers;
    towers.als = recorded_settings(options, file).resolved(common);
    towers.logistic = recorded_option(options, "loss", std::string("squared")) == "logistic";
    towers.zeros = recorded_option(options, "zeros", towers.logistic ? 4.0 : 0.0);
    towers.entry_dropout = recorded_option(options, "entry-dropout", 0.0);
    return towers;
}

template struct TowerFiles<float>;
template struct TowerFiles<double>;

}  // namespace rankfold::cli
