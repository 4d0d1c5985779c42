rankfold_add_test(comm.communicator MODULES comm)
