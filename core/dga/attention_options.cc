#include "core/dga/attention_options.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"

namespace quire {
namespace {

absl::Status Refuse(std::string_view path, const char* field, const std::string& value,
                    const char* rule) {
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(path), ".", field, " is ", value, "; it must be ", rule));
}

bool InUnit(float x) { return x >= 0 && x <= 1; }  // false for NaN

absl::Status CheckFaithful(const FaithfulOptions& f, std::string_view path) {
  const std::string own = absl::StrCat(std::string(path), ".faithful");
  if (f.group_tokens < 1) {
    return Refuse(own, "group_tokens", absl::StrCat(f.group_tokens), ">= 1");
  }
  if (!(f.focal_share > 0 && f.focal_share <= 1)) {
    return Refuse(own, "focal_share", absl::StrCat(f.focal_share), "in (0, 1]");
  }
  if (f.min_focal_tokens < 0) {
    return Refuse(own, "min_focal_tokens", absl::StrCat(f.min_focal_tokens), ">= 0");
  }
  if (f.sampled_queries < 1) {
    return Refuse(own, "sampled_queries", absl::StrCat(f.sampled_queries), ">= 1");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status AttentionOptions::Validate(std::string_view path) const {
  if (!InUnit(eps)) return Refuse(path, "eps", absl::StrCat(eps), "in [0, 1]");
  if (!InUnit(max_error)) {
    return Refuse(path, "max_error", absl::StrCat(max_error), "in [0, 1]");
  }
  return CheckFaithful(faithful, path);
}

int32_t AttentionOptions::SparseFrom() const {
  const int32_t least = kSinkTokens + kWindowTokens + 1;
  const int32_t wanted = min_sparse_tokens >= 0         ? min_sparse_tokens
                         : mode == AttentionMode::kAuto ? kAutoSparseTokens
                                                        : least;
  const bool where_it_pays = mode == AttentionMode::kAuto && !compact;
  return std::max({least, wanted, where_it_pays ? refined_pays_from : 0});
}

std::string_view AttentionModeName(AttentionMode mode) {
  switch (mode) {
    case AttentionMode::kAuto:
      return "AUTO";
    case AttentionMode::kDense:
      return "DENSE";
    case AttentionMode::kFaithful:
      return "FAITHFUL";
    case AttentionMode::kRefined:
      return "REFINED";
  }
  return "";
}

}  // namespace quire
