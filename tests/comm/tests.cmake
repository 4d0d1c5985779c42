# rankfold_add_test(comm.<file> MODULES ...) builds tests/comm/test_<file>.cpp
