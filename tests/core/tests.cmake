# rankfold_add_test(core.<file> MODULES ...) builds tests/core/test_<file>.cpp
