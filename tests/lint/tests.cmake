# rankfold_add_test(lint.<file> MODULES ...) builds tests/lint/test_<file>.cpp
