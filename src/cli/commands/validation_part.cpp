#include "validation_part.hpp"

#include <rankfold/eval/split.hpp>

#include "early_stop.hpp"
#include "scoring.hpp"

namespace rankfold::cli {

namespace {

/// The rows chosen of a matrix with all that belongs to them; they are named by position.
template <Real R>
std::shared_ptr<const MatrixData<R>> rows_of(const MatrixData<R>& whole,
                                             std::span<const Index> rows) {
    auto part = std::make_shared<MatrixData<R>>();
    part->dense = select_rows<R>(*whole.dense, rows);
    if (whole.labels) {
        part->labels = redistribute(select_rows<Index>(*whole.labels, rows), part->dense->layout());
    }
    part->class_names = whole.class_names;
    part->file = whole.file;
    part->digest = whole.digest;
    return part;
}

}  // namespace

template <Real R>
ValidationSplit<R> split_validation(Run& run, std::shared_ptr<const MatrixData<R>> whole,
                                    const std::string& text) {
    if (text.empty()) return {std::move(whole), nullptr};
    const auto share = validation_share(text);
    if (!share) {
        auto validation = load_matrix<R>(run, text);
        if (validation->cols() != whole->cols()) {
            throw input_error(text, " has ", validation->cols(), " columns, but ", whole->file,
                              " has ", whole->cols());
        }
        return {std::move(whole), std::move(validation)};
    }
    const SplitRule rule{.validation = *share, .seed = static_cast<std::uint64_t>(run.common.seed)};
    if (whole->sparse) {
        if (whole->labels) {
            throw input_error("--validation ", text, " takes rows of a dense matrix, and ",
                              whole->file, " is sparse; give a validation file");
        }
        SplitParts<R> parts = split_entries(*whole->sparse, rule);
        return {with_entries(*whole, std::move(parts.train)),
                with_entries(*whole, std::move(*parts.validation))};
    }
    const RowParts parts = split_rows(whole->layout().rank_rows(run.comm.rank()), rule);
    return {rows_of(*whole, parts.train), rows_of(*whole, parts.validation)};
}

template ValidationSplit<float> split_validation(Run&, std::shared_ptr<const MatrixData<float>>,
                                                 const std::string&);
template ValidationSplit<double> split_validation(Run&, std::shared_ptr<const MatrixData<double>>,
                                                  const std::string&);

}  // namespace rankfold::cli
