#pragma once

// QUIRE_CHECK(condition): a bug, not bad input, if it is false; prints where and aborts,
// in every build. Bad input is an absl::Status instead. (Debian 12's Abseil has no public
// CHECK.)
#define QUIRE_CHECK(condition)        \
  ((condition) ? static_cast<void>(0) \
               : ::quire::internal::CheckFailed(#condition, __FILE__, __LINE__))

namespace quire::internal {
[[noreturn]] void CheckFailed(const char* condition, const char* file, int line);
}  // namespace quire::internal
