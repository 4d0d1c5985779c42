# Finds what rankfold stands on, and refuses combinations that would fail at run time.
#
# Read twice: by the project itself, and by rankfoldConfig.cmake for those who link to it. Targets
# made here are imported, so that the installed package names them and this file makes them again.
include(CMakeFindDependencyMacro)
if(NOT CMAKE_FIND_PACKAGE_NAME) # the project itself: everything must be there
  set(_FIND_REQUIRED TRUE)
endif()

set(MPI_CXX_SKIP_MPICXX ON) # else Open MPI's old C++ headers drown our warnings
find_dependency(MPI COMPONENTS C CXX)
find_dependency(OpenMP COMPONENTS CXX)
find_dependency(Threads)
find_dependency(ZLIB)
find_dependency(nlohmann_json)
if(NOT CMAKE_FIND_PACKAGE_NAME AND NOT RANKFOLD_SIMULATED) # what only the program needs
  find_package(CLI11 REQUIRED)
  find_package(fmt REQUIRED)
  find_package(PkgConfig REQUIRED)
  pkg_check_modules(tomlplusplus REQUIRED IMPORTED_TARGET tomlplusplus)
endif()

# Any BLAS with the C interface, and LAPACK. BLA_VENDOR chooses among several.
find_dependency(BLAS)
find_dependency(LAPACK)
find_path(RANKFOLD_CBLAS_INCLUDE cblas.h PATH_SUFFIXES openblas
  HINTS "/usr/include/${CMAKE_LIBRARY_ARCHITECTURE}" REQUIRED)
find_path(RANKFOLD_HIGHWAY_INCLUDE hwy/highway.h REQUIRED)
find_library(RANKFOLD_HIGHWAY_LIBRARY hwy REQUIRED)
find_library(RANKFOLD_HIGHWAY_SORT_LIBRARY hwy_contrib REQUIRED)

# ScaLAPACK for the MPI found above, unless it is left out.
if(RANKFOLD_SCALAPACK AND NOT RANKFOLD_SIMULATED)
  find_library(RANKFOLD_SCALAPACK_LIBRARY NAMES scalapack-openmpi scalapack-mpich scalapack)
  if(NOT RANKFOLD_SCALAPACK_LIBRARY)
    message(FATAL_ERROR "ScaLAPACK was not found (Debian: libscalapack-openmpi-dev). Point "
      "RANKFOLD_SCALAPACK_LIBRARY at it, or pass -DRANKFOLD_SCALAPACK=OFF to build without "
      "`svd --full`.")
  endif()
  if(NOT TARGET rankfold_scalapack_library)
    add_library(rankfold_scalapack_library INTERFACE IMPORTED)
    target_link_libraries(rankfold_scalapack_library INTERFACE "${RANKFOLD_SCALAPACK_LIBRARY}"
      LAPACK::LAPACK)
  endif()
endif()

if(NOT TARGET rankfold_blas)
  add_library(rankfold_blas INTERFACE IMPORTED)
  target_include_directories(rankfold_blas INTERFACE "${RANKFOLD_CBLAS_INCLUDE}")
  target_link_libraries(rankfold_blas INTERFACE LAPACK::LAPACK BLAS::BLAS ${CMAKE_DL_LIBS})
  add_library(rankfold_highway INTERFACE IMPORTED)
  target_include_directories(rankfold_highway INTERFACE "${RANKFOLD_HIGHWAY_INCLUDE}")
  target_link_libraries(rankfold_highway INTERFACE "${RANKFOLD_HIGHWAY_SORT_LIBRARY}"
    "${RANKFOLD_HIGHWAY_LIBRARY}")
  # One instruction set of each generation is enough, and halves the time to compile the kernels.
  target_compile_definitions(rankfold_highway INTERFACE
    "HWY_DISABLED_TARGETS=(HWY_SSSE3|HWY_SSE4|HWY_AVX3_DL)")
endif()
if(RANKFOLD_SIMULATED)
  return()
endif()

# Parallel HDF5 (C interface), built for the MPI found above.
set(HDF5_PREFER_PARALLEL ON)
find_dependency(HDF5 COMPONENTS C)
if(NOT HDF5_IS_PARALLEL)
  message(FATAL_ERROR "The HDF5 found (${HDF5_C_LIBRARIES}) has no MPI support; rankfold needs "
    "parallel HDF5 (Debian: libhdf5-openmpi-dev; Spack: hdf5+mpi). Point HDF5_ROOT at one.")
endif()

if(NOT TARGET rankfold_hdf5)
  add_library(rankfold_hdf5 INTERFACE IMPORTED)
  target_include_directories(rankfold_hdf5 INTERFACE "${HDF5_C_INCLUDE_DIRS}")
  target_compile_definitions(rankfold_hdf5 INTERFACE ${HDF5_C_DEFINITIONS})
  target_link_libraries(rankfold_hdf5 INTERFACE ${HDF5_C_LIBRARIES})
endif()

# An HDF5 built for another MPI links without a word and fails at run time. A program that uses
# both tells: the loader would give it two MPI libraries. Nothing is run, so this also works on a
# login node where MPI programs may not start.
set(one_mpi_pair "${MPI_C_LIBRARIES};${HDF5_C_LIBRARIES}")
if(NOT CMAKE_CROSSCOMPILING AND NOT RANKFOLD_ONE_MPI STREQUAL one_mpi_pair)
  file(WRITE "${CMAKE_BINARY_DIR}/CMakeFiles/one_mpi.c" [[
#include <hdf5.h>
#include <mpi.h>
int main(int argc, char** argv) {
    MPI_Init(&argc, &argv);
    return H5Pset_fapl_mpio(H5Pcreate(H5P_FILE_ACCESS), MPI_COMM_WORLD, MPI_INFO_NULL) < 0;
}
]])
  try_compile(one_mpi_links "${CMAKE_BINARY_DIR}/CMakeFiles/one_mpi"
    "${CMAKE_BINARY_DIR}/CMakeFiles/one_mpi.c"
    LINK_LIBRARIES rankfold_hdf5 MPI::MPI_C
    COPY_FILE "${CMAKE_BINARY_DIR}/CMakeFiles/one_mpi.out" OUTPUT_VARIABLE one_mpi_output)
  if(NOT one_mpi_links)
    message(FATAL_ERROR "A program that uses this MPI (${MPI_C_LIBRARIES}) and this HDF5 "
      "(${HDF5_C_LIBRARIES}) does not compile or link:\n${one_mpi_output}")
  endif()
  execute_process(COMMAND ldd "${CMAKE_BINARY_DIR}/CMakeFiles/one_mpi.out"
    OUTPUT_VARIABLE one_mpi_loads ERROR_QUIET)
  string(REGEX MATCHALL "libmpi(ch)?(_intel|_cray|_gnu[^ ]*)?\\.so[^ ]* => [^ \n]+"
    one_mpi_found "${one_mpi_loads}")
  list(TRANSFORM one_mpi_found REPLACE ".* => " "")
  list(REMOVE_DUPLICATES one_mpi_found)
  list(LENGTH one_mpi_found one_mpi_count)
  if(one_mpi_count GREATER 1)
    list(JOIN one_mpi_found " and " one_mpi_found)
    message(FATAL_ERROR "The HDF5 found (${HDF5_C_LIBRARIES}) was built for another MPI than the "
      "one found: a program would load ${one_mpi_found}. Point HDF5_ROOT (or "
      "HDF5_C_COMPILER_EXECUTABLE, its h5pcc) at an HDF5 built with ${MPI_C_COMPILER}, or "
      "MPI_HOME at the MPI of that HDF5.")
  endif()
  set(RANKFOLD_ONE_MPI "${one_mpi_pair}" CACHE INTERNAL "MPI and HDF5 that were found to agree")
endif()
