// Small HDF5 files made with the C interface, right or wrong as a test wants them.
#pragma once

#include <string>
#include <vector>

#include <rankfold/data/hdf5_attributes.hpp>
#include <rankfold/data/hdf5_file.hpp>

namespace rankfold::test {

/// A file under construction, on one rank.
class H5Maker {
public:
    explicit H5Maker(const std::string& path) {
        prepare_hdf5();
        file_ = H5Id(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT), H5Fclose,
                     "H5Fcreate");
    }

    [[nodiscard]] hid_t id() const { return file_.get(); }

    H5Id group(const std::string& name) { return make_group(id(), name, "", ""); }

    template <class T>
    void dataset(const std::string& name, const std::vector<T>& values,
                 std::vector<hsize_t> shape = {}, hid_t type = file_type<T>(),
                 hid_t plan = H5P_DEFAULT) {
        if (shape.empty()) shape = {values.size()};
        const H5Id space(H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr),
                         H5Sclose, "H5Screate_simple");
        const H5Id set(
            H5Dcreate2(id(), name.c_str(), type, space.get(), H5P_DEFAULT, plan, H5P_DEFAULT),
            H5Dclose, "H5Dcreate2");
        if (values.empty()) return;
        check_hdf5(
            H5Dwrite(set.get(), memory_type<T>(), H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()),
            "H5Dwrite");
    }

    /// X in AnnData's sparse layout, with the pieces as given.
    void sparse(std::vector<std::int64_t> shape, const std::vector<double>& data,
                const std::vector<std::int32_t>& indices, const std::vector<std::int64_t>& indptr,
                const std::string& encoding = "csr_matrix") {
        const H5Id x = make_group(id(), "X", encoding, "0.1.0");
        write_attribute(x.get(), "shape", shape);
        dataset("X/data", data);
        dataset("X/indices", indices);
        dataset("X/indptr", indptr);
    }

private:
    H5Id file_;
};

}  // namespace rankfold::test
