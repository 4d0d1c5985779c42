rankfold_add_test(factor.als MODULES factor)
rankfold_add_test(factor.fold_in MODULES factor)
rankfold_add_test(factor.svd MODULES factor)
rankfold_add_test(factor.nmf MODULES factor)
