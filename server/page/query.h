#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quire::server {

// The numbers of a query such as "step=10&since=1764000000.5". kInvalidArgument: a
// parameter that is not one of `known`, stands there twice or is no finite number >= 0;
// the message begins with its name.
absl::StatusOr<std::map<std::string, double>> ParseQuery(
    absl::string_view query, const std::vector<absl::string_view>& known);

}  // namespace quire::server
