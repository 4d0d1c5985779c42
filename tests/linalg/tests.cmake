# rankfold_add_test(linalg.<file> MODULES ...) builds tests/linalg/test_<file>.cpp
