# Compile options of every target of ours; third-party headers are SYSTEM and exempt.
add_library(quire_defaults INTERFACE)
target_include_directories(quire_defaults INTERFACE "${CMAKE_SOURCE_DIR}")
target_compile_options(quire_defaults INTERFACE
  -Wall -Wextra -Werror -Wno-missing-field-initializers)
if(QUIRE_SANITIZER STREQUAL "address")
  target_compile_options(quire_defaults INTERFACE
    -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  target_link_options(quire_defaults INTERFACE -fsanitize=address,undefined)
elseif(QUIRE_SANITIZER STREQUAL "thread")
  # GCC cannot see through fences under TSan and warns in system headers.
  target_compile_options(quire_defaults INTERFACE -fsanitize=thread -Wno-tsan)
  target_link_options(quire_defaults INTERFACE -fsanitize=thread)
elseif(NOT QUIRE_SANITIZER STREQUAL "")
  message(FATAL_ERROR "QUIRE_SANITIZER is '${QUIRE_SANITIZER}'; address or thread are known")
endif()

find_program(QUIRE_CCACHE ccache)
if(QUIRE_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${QUIRE_CCACHE}")
endif()
