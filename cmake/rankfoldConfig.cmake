# find_package(rankfold): the targets rankfold::core, rankfold::comm, …, one a folder of
# include/rankfold; each brings what it stands on. The project must enable C and C++.
include("${CMAKE_CURRENT_LIST_DIR}/RankfoldDependencies.cmake")
include("${CMAKE_CURRENT_LIST_DIR}/rankfoldTargets.cmake")
