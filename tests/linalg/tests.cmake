rankfold_add_test(linalg.row_kernels MODULES linalg RANKS 1)
