#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "client/cli/console.h"

namespace quire::cli {

// Longest file that is read.
inline constexpr size_t kMaxDocumentBytes = size_t{1} << 30;

// All of a file, or of `in` if the path is "-": not empty, and UTF-8.
// kInvalidArgument: cannot be read, is empty, too large or not UTF-8; the message names
// it, and the offset of the first bad byte. kCancelled: interrupted while reading.
absl::StatusOr<std::string> ReadDocument(const std::string& path, Input& in);

// All bytes of a file, whatever they are. kInvalidArgument: the system's reason, without
// the name.
absl::StatusOr<std::string> ReadFileBytes(const std::string& path);

}  // namespace quire::cli
