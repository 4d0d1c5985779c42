# rankfold_add_test(eval.<file> MODULES ...) builds tests/eval/test_<file>.cpp
