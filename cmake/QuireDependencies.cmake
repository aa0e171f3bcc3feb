# Debian packages first; LibTorch last, as an imported target of the unpacked wheel.
find_package(Threads REQUIRED)
find_package(absl REQUIRED)
find_package(Protobuf REQUIRED)
find_package(gRPC CONFIG REQUIRED)
find_package(prometheus-cpp CONFIG REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(cpp_httplib REQUIRED IMPORTED_TARGET cpp-httplib)
find_program(QUIRE_PROTOC protoc REQUIRED)
find_program(QUIRE_GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)
find_program(QUIRE_CARGO cargo REQUIRED)

# The wheel's own CMake config wants a full CUDA; the libraries need only these paths.
# The wheel's layout is kept, so libtorch_cpu's RPATH finds cudart and cupti by itself.
set(QUIRE_TORCH_DIR "${QUIRE_DEPS_DIR}/torch")
if(NOT EXISTS "${QUIRE_TORCH_DIR}/lib/libtorch_cpu.so")
  message(FATAL_ERROR
    "LibTorch is not at ${QUIRE_TORCH_DIR}: run deploy/setup.sh, or set QUIRE_DEPS_DIR")
endif()
file(REAL_PATH "${QUIRE_TORCH_DIR}/lib" QUIRE_TORCH_LIB_DIR)
file(REAL_PATH "${QUIRE_DEPS_DIR}/nvidia/cu13/lib" QUIRE_CUDART_LIB_DIR)
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
