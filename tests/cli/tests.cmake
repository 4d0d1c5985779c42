rankfold_add_test(cli.options MODULES cli RANKS 1)
rankfold_add_test(cli.job MODULES cli RANKS 1)
rankfold_add_test(cli.network_file MODULES cli)
