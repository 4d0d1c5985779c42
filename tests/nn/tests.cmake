# rankfold_add_test(nn.<file> MODULES ...) builds tests/nn/test_<file>.cpp
rankfold_add_test(nn.kernels MODULES nn RANKS 1)
rankfold_add_test(nn.network MODULES nn RANKS 1)
rankfold_add_test(nn.gradient_sum MODULES nn)
rankfold_add_test(nn.samples MODULES nn)
rankfold_add_test(nn.trainer MODULES nn)
rankfold_add_test(nn.factor_inputs MODULES nn)
rankfold_add_test(nn.network_scorer MODULES nn)
