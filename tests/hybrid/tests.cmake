rankfold_add_test(hybrid.joint MODULES hybrid)
rankfold_add_test(hybrid.deep_mf MODULES hybrid)
rankfold_add_test(hybrid.compress MODULES hybrid)
