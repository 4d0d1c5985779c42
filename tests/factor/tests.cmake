# rankfold_add_test(factor.<file> MODULES ...) builds tests/factor/test_<file>.cpp
