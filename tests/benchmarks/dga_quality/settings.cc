#include "tests/benchmarks/dga_quality/settings.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/status_macros.h"

namespace quire::quality {
namespace {

absl::Status Unknown(std::string_view what, std::string_view value) {
  return absl::InvalidArgumentError(
      absl::StrCat("setting: ", std::string(what), " is \"", std::string(value), "\""));
}

template <typename T>
absl::Status Choose(std::string_view key, std::string_view value,
                    std::initializer_list<std::pair<std::string_view, T>> names,
                    T& field) {
  for (const auto& [name, meaning] : names) {
    if (name == value) {
      field = meaning;
      return absl::OkStatus();
    }
  }
  return Unknown(key, value);
}

absl::Status Read(std::string_view key, std::string_view value, float& field) {
  return absl::SimpleAtof({value.data(), value.size()}, &field) ? absl::OkStatus()
                                                                : Unknown(key, value);
}
absl::Status Read(std::string_view key, std::string_view value, int32_t& field) {
  return absl::SimpleAtoi({value.data(), value.size()}, &field) ? absl::OkStatus()
                                                                : Unknown(key, value);
}
absl::Status Read(std::string_view key, std::string_view value, bool& field) {
  return Choose(key, value, {{"0", false}, {"1", true}}, field);
}

absl::Status Set(std::string_view key, std::string_view value, AttentionOptions& o) {
  if (key == "eps") return Read(key, value, o.eps);
  if (key == "max_error") return Read(key, value, o.max_error);
  if (key == "min_sparse") return Read(key, value, o.min_sparse_tokens);
  if (key == "compact") return Read(key, value, o.compact);
  if (key == "m") return Read(key, value, o.faithful.group_tokens);
  if (key == "gamma") return Read(key, value, o.faithful.focal_share);
  if (key == "min_focal") return Read(key, value, o.faithful.min_focal_tokens);
  if (key == "queries") return Read(key, value, o.faithful.sampled_queries);
  if (key == "scaled") return Read(key, value, o.faithful.scaled_pooling);
  if (key == "whole") return Read(key, value, o.faithful.whole_prompt);
  if (key == "index") {
    return Choose(key, value,
                  {{"4bit", KeyIndex::kFourBit}, {"means", KeyIndex::kPageMeans}},
                  o.index);
  }
  if (key == "tail") {
    return Choose(
        key, value,
        {{"sampled", TailEstimate::kSampled}, {"means", TailEstimate::kGroupMeans}},
        o.tail);
  }
  if (key == "bias") {
    return Choose(key, value,
                  {{"none", GroupBias::kNone},
                   {"log_m", GroupBias::kLogSize},
                   {"entropy", GroupBias::kEntropy}},
                  o.faithful.bias);
  }
  return Unknown("a key", key);
}

}  // namespace

absl::StatusOr<Setting> ParseSetting(std::string_view text) {
  Setting setting{.name = std::string(text)};
  const std::vector<std::string> parts =
      absl::StrSplit(setting.name, ',', absl::SkipEmpty());
  if (parts.empty()) return Unknown("the mode", text);
  QUIRE_RETURN_IF_ERROR(Choose<AttentionMode>("the mode", parts[0],
                                              {{"dense", AttentionMode::kDense},
                                               {"auto", AttentionMode::kAuto},
                                               {"refined", AttentionMode::kRefined},
                                               {"faithful", AttentionMode::kFaithful}},
                                              setting.options.mode));
  setting.curve = parts[0];
  for (size_t i = 1; i < parts.size(); ++i) {
    const std::pair<std::string, std::string> pair = absl::StrSplit(parts[i], '=');
    QUIRE_RETURN_IF_ERROR(Set(pair.first, pair.second, setting.options));
    const bool knob = pair.first == "eps" || pair.first == "m" || pair.first == "gamma";
    if (!knob) absl::StrAppend(&setting.curve, ",", parts[i]);
  }
  QUIRE_RETURN_IF_ERROR(setting.options.Validate());
  return setting;
}

absl::StatusOr<std::vector<std::string>> Preset(std::string_view name) {
  if (name == "curves") {
    return std::vector<std::string>{"refined,eps=0.02",
                                    "refined,eps=0.03",
                                    "refined,eps=0.04",
                                    "refined,eps=0.056",
                                    "refined,eps=0.08",
                                    "refined,eps=0.01,tail=means",
                                    "refined,eps=0.02,tail=means",
                                    "refined,eps=0.04,tail=means",
                                    "faithful,gamma=0.1",
                                    "faithful,gamma=0.3",
                                    "faithful,gamma=0.5"};
  }
  if (name == "paper") {
    std::vector<std::string> settings;
    for (const int m : {4, 8, 16, 32, 64}) {
      settings.push_back(absl::StrCat("faithful,m=", m, ",gamma=0.1,whole=1"));
    }
    for (const char* gamma : {"0.3", "0.5", "0.7", "0.9"}) {
      settings.push_back(absl::StrCat("faithful,m=16,gamma=", gamma, ",whole=1"));
    }
    return settings;
  }
  return Unknown("the preset", name);
}

}  // namespace quire::quality
