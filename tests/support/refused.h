#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gtest/gtest.h"

namespace quire {

// EXPECT_TRUE(Refused(Parse("..."), absl::StatusCode::kInvalidArgument, "the field")):
// the exact code, and a message that holds the text.
inline testing::AssertionResult Refused(const absl::Status& status, absl::StatusCode code,
                                        std::string_view text) {
  const std::string message(status.message());
  if (status.code() == code && message.find(text) != std::string::npos) {
    return testing::AssertionSuccess();
  }
  return testing::AssertionFailure()
         << "got " << status.ToString() << "\nwanted " << absl::StatusCodeToString(code)
         << " with: " << text;
}

template <typename T>
testing::AssertionResult Refused(const absl::StatusOr<T>& result, absl::StatusCode code,
                                 std::string_view text) {
  return Refused(result.status(), code, text);
}

}  // namespace quire
