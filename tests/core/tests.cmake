rankfold_add_test(core.exact_sum MODULES core RANKS 1)
rankfold_add_test(core.random MODULES core RANKS 1)
