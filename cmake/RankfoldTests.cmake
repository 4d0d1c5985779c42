# All tests: tests/<folder>/tests.cmake lists those of a folder.
find_package(GTest REQUIRED)

set(RANKFOLD_TEST_ENVIRONMENT OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
  OMPI_MCA_hwloc_base_binding_policy=none
  OMP_WAIT_POLICY=passive # more threads than cores must not spin while they wait
  # Open MPI itself leaks at exit; our own code is covered by the address checks
  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1)

# What tests do themselves is not what is timed: compiling it fully optimised takes half as long
# again.
add_compile_options($<$<CONFIG:Release>:-O1>)

add_library(rankfold_test_support STATIC tests/support/mpi_main.cpp)
target_include_directories(rankfold_test_support PUBLIC "${PROJECT_SOURCE_DIR}/tests")
target_link_libraries(rankfold_test_support PUBLIC rankfold::comm rankfold::linalg GTest::gtest
  OpenMP::OpenMP_CXX # all tests share one precompiled header, so they share its flags
  PRIVATE rankfold_warnings)
target_precompile_headers(rankfold_test_support PRIVATE <gtest/gtest.h>)

foreach(folder IN ITEMS core comm linalg dist scalapack factor nn eval hybrid data cli lint e2e)
  include("${PROJECT_SOURCE_DIR}/tests/${folder}/tests.cmake")
endforeach()
