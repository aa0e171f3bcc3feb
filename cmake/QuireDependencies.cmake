# Debian packages first; LibTorch last, as an imported target of the unpacked wheel.
find_package(Threads REQUIRED)
find_package(absl REQUIRED)
find_package(Protobuf REQUIRED)
find_package(gRPC CONFIG REQUIRED)
find_package(prometheus-cpp CONFIG REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(libmicrohttpd REQUIRED IMPORTED_TARGET libmicrohttpd)
find_program(QUIRE_PROTOC protoc REQUIRED)
find_program(QUIRE_GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)
find_program(QUIRE_CARGO cargo REQUIRED)

# The wheel's own CMake config wants a full CUDA; the libraries need only these paths.
# The wheels' layout is kept, so LibTorch's RPATH finds the CUDA libraries by itself. Headers are
# the same with CUDA; the libraries are beside CUDA's own then.
set(QUIRE_TORCH_DIR "${QUIRE_DEPS_DIR}/torch")
set(QUIRE_LIB_DIR "${QUIRE_DEPS_DIR}")
if(QUIRE_CUDA)
  set(QUIRE_LIB_DIR "${QUIRE_CUDA_DIR}")
endif()
if(NOT EXISTS "${QUIRE_LIB_DIR}/torch/lib/libtorch_cpu.so")
  message(FATAL_ERROR
    "LibTorch is not at ${QUIRE_LIB_DIR}/torch: run deploy/setup.sh, or set QUIRE_DEPS_DIR")
endif()
file(REAL_PATH "${QUIRE_LIB_DIR}/torch/lib" QUIRE_TORCH_LIB_DIR)
file(REAL_PATH "${QUIRE_LIB_DIR}/nvidia/cu13/lib" QUIRE_CUDART_LIB_DIR)
add_library(quire_torch INTERFACE)
target_include_directories(quire_torch SYSTEM INTERFACE
  "${QUIRE_TORCH_DIR}/include" "${QUIRE_TORCH_DIR}/include/torch/csrc/api/include")
# ATen's parallel_for is OpenMP in the caller; its own libgomp, so that there is one thread pool.
target_compile_options(quire_torch INTERFACE -fopenmp)
target_compile_definitions(quire_torch INTERFACE AT_PER_OPERATOR_HEADERS)
target_link_libraries(quire_torch INTERFACE
  "${QUIRE_TORCH_LIB_DIR}/libtorch_cpu.so" "${QUIRE_TORCH_LIB_DIR}/libc10.so"
  "${QUIRE_TORCH_LIB_DIR}/libgomp.so.1")
# CMake gives build trees the RPATH to these two, and takes it away on installing.
target_link_options(quire_torch INTERFACE "LINKER:-rpath-link,${QUIRE_CUDART_LIB_DIR}")

# libtorch_cuda registers the CUDA half of every operator when it is loaded; no symbol of ours
# need refer to it. cuBLAS, cuDNN and the rest are wanted only where the program runs.
if(QUIRE_CUDA)
  string(JOIN "," cuda_libraries "-Wl,--push-state,--no-as-needed"
    "${QUIRE_TORCH_LIB_DIR}/libtorch_cuda.so" "${QUIRE_TORCH_LIB_DIR}/libc10_cuda.so" --pop-state)
  target_link_libraries(quire_torch INTERFACE
    "${cuda_libraries}" "${QUIRE_CUDART_LIB_DIR}/libcudart.so.13")
  target_link_options(quire_torch INTERFACE "LINKER:--unresolved-symbols=ignore-in-shared-libs")
  target_include_directories(quire_torch SYSTEM INTERFACE
    "${QUIRE_CUDA_DIR}/nvidia/cu13/include" "${QUIRE_CUDA_DIR}/nvidia/cu13/include/cccl")
endif()
