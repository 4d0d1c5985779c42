# rankfold_add_test(dist.<file> MODULES ...) builds tests/dist/test_<file>.cpp
rankfold_add_test(dist.synthetic MODULES dist)
rankfold_add_test(dist.block_rows MODULES dist)
rankfold_add_test(dist.products MODULES dist)
rankfold_add_test(dist.grid_matrix MODULES dist)
