# rankfold_add_test(dist.<file> MODULES ...) builds tests/dist/test_<file>.cpp
