# CUDA by the pinned nvcc of deploy/setup.sh --cuda. Where it is there, every build compiles the
# CUDA sources (target quire_cuda_check, part of ALL), so that none rots; only QUIRE_CUDA links
# them. No enable_language(CUDA): its compiler test wants a whole toolkit.
set(QUIRE_NVCC "${QUIRE_CUDA_DIR}/nvidia/cu13/bin/nvcc")
if(NOT EXISTS "${QUIRE_NVCC}")
  if(QUIRE_CUDA)
    message(FATAL_ERROR
      "nvcc is not at ${QUIRE_NVCC}: run deploy/setup.sh --cuda, or set QUIRE_CUDA_DIR")
  endif()
  message(STATUS "CUDA sources are not compiled: deploy/setup.sh --cuda was not run")
  set(QUIRE_NVCC "")
  return()
endif()
# Another compiler behind the link is another command, and compiles again.
file(REAL_PATH "${QUIRE_NVCC}" QUIRE_NVCC)
set(QUIRE_NVCC_FLAGS -std=c++20 -O3 --expt-relaxed-constexpr -Werror all-warnings
  -ccbin "${CMAKE_CXX_COMPILER}" -Xcompiler -fPIC,-Wall,-Wextra "-I${CMAKE_SOURCE_DIR}")
# Machine code for Ampere, and an intermediate form that the driver of a newer GPU compiles; Hopper
# has code of its own, and its own instructions (wgmma, TMA) need the "a".
set(QUIRE_SM_80 "-gencode=arch=compute_80,code=[compute_80,sm_80]")
set(QUIRE_SM_90A -gencode=arch=compute_90a,code=sm_90a)

# quire_cuda_sources(TARGET FILE.cu... [HOPPER]): compiles each file for sm_80 and sm_90a, with
# HOPPER for sm_90a only, into a library that was added in the same folder.
function(quire_cuda_sources target)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "HOPPER" "" "")
  set(architectures ${QUIRE_SM_80} ${QUIRE_SM_90A})
  if(ARG_HOPPER)
    set(architectures ${QUIRE_SM_90A})
  endif()
  foreach(source IN LISTS ARG_UNPARSED_ARGUMENTS)
    set(object "${CMAKE_CURRENT_BINARY_DIR}/${source}.o")
    add_custom_command(OUTPUT "${object}"
      COMMAND ${CMAKE_CXX_COMPILER_LAUNCHER} "${QUIRE_NVCC}" ${QUIRE_NVCC_FLAGS} ${architectures}
        -MD -MF "${object}.d" -c "${CMAKE_CURRENT_SOURCE_DIR}/${source}" -o "${object}"
      DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/${source}" "${QUIRE_NVCC}"
      DEPFILE "${object}.d"
      COMMENT "Building CUDA object ${source}" VERBATIM)
    set_source_files_properties("${object}" PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
    target_sources(${target} PRIVATE "${object}")
  endforeach()
endfunction()
