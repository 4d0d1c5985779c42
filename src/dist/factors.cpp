#include <rankfold/dist/factors.hpp>

namespace rankfold {

template <Real R>
TensorList Factors<R>::tensors(const std::string& prefix) {
    TensorList list;
    list.add(prefix + "row_factors", rows);
    list.add(prefix + "col_factors", cols);
    if (!singular_values.empty()) {
        list.add_replicated(prefix + "singular_values",
                            {static_cast<Index>(singular_values.size())},
                            std::span<R>(singular_values));
    }
    if (row_bias) list.add(prefix + "row_bias", *row_bias, true);
    if (col_bias) list.add(prefix + "col_bias", *col_bias, true);
    if (column_mean) list.add(prefix + "column_mean", *column_mean, true);
    return list;
}

template struct Factors<float>;
template struct Factors<double>;

}  // namespace rankfold
