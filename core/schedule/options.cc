#include "absl/strings/str_cat.h"
#include "core/schedule/scheduler.h"

namespace quire {
namespace {

absl::Status AtLeast(const char* name, int64_t value, int64_t limit) {
  if (value >= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", value, "; it must be at least ", limit));
}

}  // namespace

absl::Status ScheduleOptions::Validate() const {
  const struct {
    const char* name;
    int64_t value;
    int64_t limit;
  } rules[] = {
      {"max_running", max_running, 1},
      {"step_tokens", step_tokens, max_running},
      {"long_prompt_tokens", long_prompt_tokens, 1},
      {"max_long_prefills", max_long_prefills, 1},
      {"step_ns", step_ns, 0},
      {"decode_stretch_percent", decode_stretch_percent, 101},
      {"min_chunk_tokens", min_chunk_tokens, 1},
      {"aging_ns", aging_ns, 1},
      {"overdue_ns", overdue_ns, 1},
      {"spare_blocks", spare_blocks, 0},
      {"kv.num_blocks", kv.num_blocks, 1},
      {"kv.tokens_per_block", kv.tokens_per_block, 1},
  };
  for (const auto& [name, value, limit] : rules) {
    if (absl::Status status = AtLeast(name, value, limit); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace quire
