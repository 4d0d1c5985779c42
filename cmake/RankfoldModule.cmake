# rankfold_add_module(<name> [INTERNAL] [DEPENDS <module>...] [LINKS <target>...] HEADERS <file>... SOURCES <file>...)
#   One folder = one target = one row of the table of who may include whom. HEADERS live in
#   include/rankfold/<name>/, SOURCES in src/<name>/. DEPENDS lists the modules whose headers this
#   one may include; the test lint.layers checks the #include lines against it. INTERNAL ones are
#   not installed.
#
#   A header with a source of its name compiles alone, as that source includes it first (which
#   lint.layers checks); the others are the file set `alone`, whose headers lint.headers compiles.
function(rankfold_add_module name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "INTERNAL" "" "DEPENDS;LINKS;PRIVATE_LINKS;HEADERS;SOURCES")
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "rankfold_add_module(${name}): unknown arguments ${arg_UNPARSED_ARGUMENTS}")
  endif()
  set_property(GLOBAL APPEND PROPERTY RANKFOLD_LAYERS "${name}:${arg_DEPENDS}")
  list(TRANSFORM arg_HEADERS PREPEND "${PROJECT_SOURCE_DIR}/include/rankfold/${name}/")
  list(TRANSFORM arg_SOURCES PREPEND "${PROJECT_SOURCE_DIR}/src/${name}/" REGEX "^[^/]")
  list(TRANSFORM arg_DEPENDS PREPEND "rankfold::")

  if(NOT arg_SOURCES)
    add_library(rankfold_${name} INTERFACE)
    add_library(rankfold::${name} ALIAS rankfold_${name})
    target_include_directories(rankfold_${name} INTERFACE "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>")
    target_link_libraries(rankfold_${name} INTERFACE ${arg_DEPENDS} ${arg_LINKS})
    install(TARGETS rankfold_${name} EXPORT rankfold)
    return()
  endif()
  add_library(rankfold_${name} STATIC ${arg_SOURCES})
  add_library(rankfold::${name} ALIAS rankfold_${name})
  set(alone "")
  foreach(header IN LISTS arg_HEADERS)
    cmake_path(GET header STEM stem)
    if(NOT "${PROJECT_SOURCE_DIR}/src/${name}/${stem}.cpp" IN_LIST arg_SOURCES)
      list(APPEND alone "${header}")
    endif()
  endforeach()
  list(REMOVE_ITEM arg_HEADERS ${alone})
  target_sources(rankfold_${name} PUBLIC
    FILE_SET HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}/include" FILES ${arg_HEADERS}
    FILE_SET alone TYPE HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}/include" FILES ${alone})
  target_compile_features(rankfold_${name} PUBLIC cxx_std_20)
  target_link_libraries(rankfold_${name} PUBLIC ${arg_DEPENDS} ${arg_LINKS}
    PRIVATE ${arg_PRIVATE_LINKS} $<BUILD_INTERFACE:rankfold_warnings>)
  set_target_properties(rankfold_${name} PROPERTIES
    EXPORT_NAME ${name} VERIFY_INTERFACE_HEADER_SETS ON INTERFACE_HEADER_SETS_TO_VERIFY alone)
  if(NOT arg_INTERNAL)
    install(TARGETS rankfold_${name} EXPORT rankfold FILE_SET HEADERS FILE_SET alone)
  endif()
endfunction()

# rankfold_add_test(<folder>.<file> MODULES <module>... [RANKS <n>...] [TIMEOUT <s>] [LABELS <label>...])
#   Builds tests/<folder>/test_<file>.cpp and runs it once per rank count (default 1 2 3 4, with
#   sanitizers 1 3) as <folder>.<file>.np<n>. A rank count that the machine has no cores for runs
#   oversubscribed; it never disappears from the list.
function(rankfold_add_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TIMEOUT" "MODULES;RANKS;LABELS")
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 60) # a deadlock is a failure within a minute, not a stuck job
  endif()
  if(RANKFOLD_SANITIZE)
    math(EXPR arg_TIMEOUT "${arg_TIMEOUT} * 4")
  endif()
  if(NOT arg_RANKS)
    set(arg_RANKS 1 2 3 4)
    if(RANKFOLD_SANITIZE)
      set(arg_RANKS 1 3) # as memory goes, 2 and 4 are special cases of an uneven number
    endif()
  endif()
  string(REGEX MATCH "^([^.]*)\\.(.*)$" _ "${name}")
  list(TRANSFORM arg_MODULES PREPEND "rankfold::")
  add_executable(test.${name} "${PROJECT_SOURCE_DIR}/tests/${CMAKE_MATCH_1}/test_${CMAKE_MATCH_2}.cpp")
  target_link_libraries(test.${name} PRIVATE ${arg_MODULES} rankfold_test_support rankfold_warnings)
  target_precompile_headers(test.${name} REUSE_FROM rankfold_test_support)
  foreach(np IN LISTS arg_RANKS)
    add_test(NAME ${name}.np${np}
      COMMAND ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} ${np} $<TARGET_FILE:test.${name}>)
    set_tests_properties(${name}.np${np} PROPERTIES
      TIMEOUT ${arg_TIMEOUT} LABELS "${arg_LABELS};np${np}" ENVIRONMENT "${RANKFOLD_TEST_ENVIRONMENT}")
    if(np GREATER 1)
      set_tests_properties(${name}.np${np} PROPERTIES PROCESSORS 2)
    endif()
  endforeach()
endfunction()
