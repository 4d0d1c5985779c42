# Finds what rankfold stands on, and refuses combinations that would fail at run time.
set(MPI_CXX_SKIP_MPICXX ON) # else Open MPI's old C++ headers drown our warnings
find_package(MPI REQUIRED COMPONENTS C CXX)
find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(ZLIB REQUIRED)
find_package(CLI11 REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(fmt REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(tomlplusplus REQUIRED IMPORTED_TARGET tomlplusplus)

# Any BLAS with the C interface, and LAPACK. BLA_VENDOR chooses among several.
find_package(BLAS REQUIRED)
find_package(LAPACK REQUIRED)
find_path(RANKFOLD_CBLAS_INCLUDE cblas.h PATH_SUFFIXES openblas
  HINTS "/usr/include/${CMAKE_LIBRARY_ARCHITECTURE}" REQUIRED)
add_library(rankfold_blas INTERFACE)
target_include_directories(rankfold_blas SYSTEM INTERFACE "$<BUILD_INTERFACE:${RANKFOLD_CBLAS_INCLUDE}>")
target_link_libraries(rankfold_blas INTERFACE LAPACK::LAPACK BLAS::BLAS ${CMAKE_DL_LIBS})

find_path(RANKFOLD_HIGHWAY_INCLUDE hwy/highway.h REQUIRED)
find_library(RANKFOLD_HIGHWAY_LIBRARY hwy REQUIRED)
add_library(rankfold_highway INTERFACE)
target_include_directories(rankfold_highway SYSTEM INTERFACE "$<BUILD_INTERFACE:${RANKFOLD_HIGHWAY_INCLUDE}>")
target_link_libraries(rankfold_highway INTERFACE "${RANKFOLD_HIGHWAY_LIBRARY}")

# Parallel HDF5 (C interface), built for the MPI found above.
set(HDF5_PREFER_PARALLEL ON)
find_package(HDF5 REQUIRED COMPONENTS C)
if(NOT HDF5_IS_PARALLEL)
  message(FATAL_ERROR "The HDF5 found (${HDF5_C_LIBRARIES}) has no MPI support; rankfold needs "
    "parallel HDF5 (Debian: libhdf5-openmpi-dev; Spack: hdf5+mpi). Point HDF5_ROOT at one.")
endif()
add_library(rankfold_hdf5 INTERFACE)
target_include_directories(rankfold_hdf5 SYSTEM INTERFACE "$<BUILD_INTERFACE:${HDF5_C_INCLUDE_DIRS}>")
target_link_libraries(rankfold_hdf5 INTERFACE ${HDF5_C_LIBRARIES})
