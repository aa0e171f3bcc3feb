#ifndef QUIRE_TESTS_BENCHMARKS_DEVICE_OPTION_H_
#define QUIRE_TESTS_BENCHMARKS_DEVICE_OPTION_H_

#include <cstdlib>
#include <string>

namespace quire {

// Where a benchmark computes: what QUIRE_DEVICE says, as for quire-server; else the CPU.
inline std::string BenchmarkDevice() {
  const char* const device = std::getenv("QUIRE_DEVICE");
  return device == nullptr ? "cpu" : device;
}

}  // namespace quire

#endif  // QUIRE_TESTS_BENCHMARKS_DEVICE_OPTION_H_
