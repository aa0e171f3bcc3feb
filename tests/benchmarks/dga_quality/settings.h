#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "core/dga/attention_options.h"

namespace quire::quality {

struct Setting {
  std::string name;   // as written
  std::string curve;  // settings of one curve differ in one number
  AttentionOptions options;
};

// "MODE[,KEY=VALUE ...]", for example "refined,eps=0.04,tail=means". Modes: dense, auto,
// refined, faithful. Keys: eps, max_error, min_sparse, tail (sampled, means), index
// (4bit, means), compact (0, 1); faithful: m, gamma, min_focal, queries, bias (none,
// log_m, entropy), scaled, whole (0, 1). kInvalidArgument names the part that is wrong.
absl::StatusOr<Setting> ParseSetting(std::string_view text);

// Lists made of the above. "curves": cost against quality, one curve a method. "paper":
// the published method over m and gamma, focal tokens chosen over the whole prompt.
absl::StatusOr<std::vector<std::string>> Preset(std::string_view name);

}  // namespace quire::quality
