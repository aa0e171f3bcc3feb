#pragma once

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "quire/v1/usage.pb.h"

namespace quire::cli {

// Lines "BEGIN END" (bytes); empty lines and those that begin with # are skipped.
// kInvalidArgument names the line.
absl::StatusOr<std::vector<v1::ByteSpan>> ParseSpans(std::string_view text);

}  // namespace quire::cli
