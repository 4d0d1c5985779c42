# rankfold_add_test(cli.<file> MODULES ...) builds tests/cli/test_<file>.cpp
