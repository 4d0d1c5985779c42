if(RANKFOLD_SCALAPACK)
  rankfold_add_test(scalapack.full_svd MODULES scalapack)
endif()
