rankfold_add_test(comm.communicator MODULES comm)
rankfold_add_test(comm.shared_memory MODULES comm)
