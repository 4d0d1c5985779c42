# Checks of the text itself; once is enough, so not in the sanitizer build.

# The system's Python, which has the system's h5py and scipy; else the first on the path.
find_program(RANKFOLD_PYTHON python3 PATHS /usr/bin NO_DEFAULT_PATH)
find_program(RANKFOLD_PYTHON python3 REQUIRED)
if(NOT RANKFOLD_SANITIZE)
  foreach(lint IN ITEMS layers words format)
    add_test(NAME lint.${lint}
      COMMAND ${RANKFOLD_PYTHON} -B "${PROJECT_SOURCE_DIR}/tests/lint/${lint}.py")
    set_tests_properties(lint.${lint} PROPERTIES TIMEOUT 120 LABELS lint)
  endforeach()
  # Public headers without a source that includes them first compile alone, too.
  add_test(NAME lint.headers COMMAND ${CMAKE_COMMAND} --build "${PROJECT_BINARY_DIR}"
    --target all_verify_interface_header_sets --parallel 1)
  set_tests_properties(lint.headers PROPERTIES TIMEOUT 600 LABELS lint)
endif()
