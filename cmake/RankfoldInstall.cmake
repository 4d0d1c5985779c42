# cmake --install: the program, the libraries, their headers, and find_package(rankfold).
# rankfold_add_module lists the libraries and headers, src/cli the program.
include(CMakePackageConfigHelpers)
set(RANKFOLD_PACKAGE_DIR "${CMAKE_INSTALL_LIBDIR}/cmake/rankfold")

install(EXPORT rankfold NAMESPACE rankfold:: FILE rankfoldTargets.cmake
  DESTINATION "${RANKFOLD_PACKAGE_DIR}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/rankfoldConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES cmake/rankfoldConfig.cmake cmake/RankfoldDependencies.cmake
  "${PROJECT_BINARY_DIR}/rankfoldConfigVersion.cmake" DESTINATION "${RANKFOLD_PACKAGE_DIR}")
install(FILES LICENSE DESTINATION "${CMAKE_INSTALL_DOCDIR}")
