# rankfold_add_test(data.<file> MODULES ...) builds tests/data/test_<file>.cpp
rankfold_add_test(data.matrix_file MODULES data)
rankfold_add_test(data.bad_files MODULES data)
rankfold_add_test(data.tensor_file MODULES data)
rankfold_add_test(data.text_reader MODULES data)
rankfold_add_test(data.import MODULES data)
rankfold_add_test(data.inspect MODULES data)

# h5py and scipy on the other side, of the system's Python: one of a version manager lacks them.
find_program(RANKFOLD_PYTHON python3 PATHS /usr/bin NO_DEFAULT_PATH)
find_program(RANKFOLD_PYTHON python3 REQUIRED)
rankfold_add_test(data.interop MODULES data RANKS 1 3)
target_compile_definitions(test.data.interop PRIVATE RANKFOLD_PYTHON="${RANKFOLD_PYTHON}"
  RANKFOLD_INTEROP="${CMAKE_CURRENT_LIST_DIR}/interop.py")
