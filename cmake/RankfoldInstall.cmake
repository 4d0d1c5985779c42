# cmake --install: the program, the libraries, and find_package(rankfold).
