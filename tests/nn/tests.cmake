# rankfold_add_test(nn.<file> MODULES ...) builds tests/nn/test_<file>.cpp
