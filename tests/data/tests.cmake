# rankfold_add_test(data.<file> MODULES ...) builds tests/data/test_<file>.cpp
rankfold_add_test(data.matrix_file MODULES data)
rankfold_add_test(data.bad_files MODULES data)
rankfold_add_test(data.tensor_file MODULES data)
