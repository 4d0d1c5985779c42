# rankfold_add_e2e(<name> [TIMEOUT <s>] [LABELS <label>...])
#   Runs tests/e2e/test_<name>.py, which drives the program as people do, as e2e.<name>. Exit code
#   77 is shown as skipped: what it needs (a right, a folder of data) is not on this machine.
function(rankfold_add_e2e name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TIMEOUT" "LABELS")
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 180)
  endif()
  add_test(NAME e2e.${name}
    COMMAND ${RANKFOLD_PYTHON} -B "${PROJECT_SOURCE_DIR}/tests/e2e/test_${name}.py")
  set(environment ${RANKFOLD_TEST_ENVIRONMENT} RANKFOLD_PROGRAM=$<TARGET_FILE:rankfold_program>
    RANKFOLD_MPIRUN=${MPIEXEC_EXECUTABLE} RANKFOLD_BUILD=${PROJECT_BINARY_DIR}
    RANKFOLD_CMAKE=${CMAKE_COMMAND})
  set_tests_properties(e2e.${name} PROPERTIES TIMEOUT ${arg_TIMEOUT} PROCESSORS 2
    LABELS "e2e;${arg_LABELS}" ENVIRONMENT "${environment}" SKIP_RETURN_CODE 77)
endfunction()

# Without sanitizers: there the unit tests of all modules run.
if(NOT RANKFOLD_SANITIZE)
  rankfold_add_e2e(chain TIMEOUT 600)
  rankfold_add_e2e(refusals TIMEOUT 300)
  set_tests_properties(e2e.refusals PROPERTIES PROCESSORS 1)
  rankfold_add_e2e(faults)
  rankfold_add_e2e(hosts)
  rankfold_add_e2e(full_disk)
  rankfold_add_e2e(resume TIMEOUT 400)
  rankfold_add_e2e(slurm TIMEOUT 900)
  set_tests_properties(e2e.slurm PROPERTIES PROCESSORS 1) # it mostly waits for Slurm
  rankfold_add_e2e(networks TIMEOUT 300)
  rankfold_add_e2e(deepmf)
  rankfold_add_e2e(hybrid TIMEOUT 300)
  rankfold_add_e2e(cluster TIMEOUT 300)
  rankfold_add_e2e(svd)
  rankfold_add_e2e(nmf)
  rankfold_add_e2e(install TIMEOUT 300)
  rankfold_add_e2e(use TIMEOUT 300)
  rankfold_add_e2e(results TIMEOUT 600)
  rankfold_add_e2e(examples)
  rankfold_add_e2e(torch LABELS peer)
  rankfold_add_e2e(movielens TIMEOUT 300 LABELS data)
endif()
