# rankfold_warnings: what every target of ours is compiled with, and none of our users'.
add_library(rankfold_warnings INTERFACE)
target_compile_options(rankfold_warnings INTERFACE
  -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror)

# Contracting a*b+c into one rounding is up to the compiler's mood: bits must not depend on it.
add_compile_options(-ffp-contract=off)

if(RANKFOLD_SANITIZE)
  # null, alignment and object-size repeat what the address sanitizer sees, and double the time
  add_compile_options(-fsanitize=address,undefined -fno-sanitize=null,alignment,object-size,vptr
    -fno-sanitize-recover=undefined)
  add_link_options(-fsanitize=address,undefined)
  # the kernels' code once, not once for every instruction set
  add_compile_definitions(HWY_COMPILE_ONLY_STATIC)
endif()
