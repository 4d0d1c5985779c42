# rankfold_add_test(data.<file> MODULES ...) builds tests/data/test_<file>.cpp
