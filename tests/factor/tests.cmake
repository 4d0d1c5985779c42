rankfold_add_test(factor.als MODULES factor)
