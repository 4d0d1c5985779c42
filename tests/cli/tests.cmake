rankfold_add_test(cli.options MODULES cli RANKS 1)
if(NOT RANKFOLD_SANITIZE) # sanitizer builds leave the commands out
  rankfold_add_test(cli.job MODULES cli RANKS 1)
  target_link_libraries(test.cli.job PRIVATE rankfold_commands)
endif()
rankfold_add_test(cli.network_file MODULES cli)
