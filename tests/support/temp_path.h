#ifndef QUIRE_TESTS_SUPPORT_TEMP_PATH_H_
#define QUIRE_TESTS_SUPPORT_TEMP_PATH_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <string>

namespace quire {

// A path in the temporary folder that no other call returns, here or in another process:
// ctest runs tests of one binary side by side. The caller removes what it puts there.
inline std::string TempPath(const std::string& name) {
  static std::atomic<int> count = 0;
  return ::testing::TempDir() + "quire_" + std::to_string(::getpid()) + "_" +
         std::to_string(count++) + "_" + name;
}

}  // namespace quire

#endif  // QUIRE_TESTS_SUPPORT_TEMP_PATH_H_
