# rankfold_add_test(eval.<file> MODULES ...) builds tests/eval/test_<file>.cpp
foreach(file IN ITEMS scorer ranking metrics top_k split)
  rankfold_add_test(eval.${file} MODULES eval)
endforeach()
