#include "core/kv/memory_plan.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"

namespace quire {
namespace {

absl::Status ValidateInput(const MemoryPlanInput& input) {
  if (input.tokens_per_block < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tokens_per_block is ", input.tokens_per_block, "; it must be >= 1"));
  }
  if (input.kv_cache_bytes < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("kv_cache_bytes is ", input.kv_cache_bytes, "; it must be >= 0"));
  }
  return absl::OkStatus();
}

// Of so many bytes those that are left for what `share` goes with.
int64_t WithoutShare(int64_t bytes, double share) {
  return share == 0 ? bytes
                    : static_cast<int64_t>(static_cast<double>(bytes) / (1 + share));
}

KvGeometry Geometry(int64_t blocks, const MemoryPlanInput& input) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  return {.num_blocks = static_cast<int32_t>(std::min(blocks, kMost)),
          .tokens_per_block = input.tokens_per_block};
}

}  // namespace

absl::StatusOr<KvGeometry> PlanKvCache(const ModelConfig& config,
                                       const MemoryPlanInput& input) {
  if (absl::Status status = ValidateInput(input); !status.ok()) return status;
  const int64_t block_bytes =
      config.KvBytesPerToken(input.bytes_per_value) * input.tokens_per_block;
  QUIRE_CHECK(block_bytes > 0);
  const int64_t beside_index = WithoutShare(input.available_bytes, input.index_share);
  if (input.limited && input.kv_cache_bytes > beside_index) {
    return absl::ResourceExhaustedError(
        absl::StrCat("kv_cache_bytes is ", input.kv_cache_bytes, "; beside the weights ",
                     beside_index, " are available for keys and values"));
  }
  if (input.kv_cache_bytes > 0) {
    if (input.kv_cache_bytes >= block_bytes) {
      return Geometry(input.kv_cache_bytes / block_bytes, input);
    }
    return absl::InvalidArgumentError(absl::StrCat(
        "kv_cache_bytes is ", input.kv_cache_bytes, "; it must be >= ", block_bytes,
        ", one block of ", input.tokens_per_block, " tokens"));
  }
  const int64_t available =
      WithoutShare(input.available_bytes, input.index_share + input.groups_share);
  const int64_t fitting = available / block_bytes;
  if (fitting < 1) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "key/value cache: one block of ", input.tokens_per_block, " tokens needs ",
        block_bytes, " bytes, ", available, " are available"));
  }
  const int64_t window = (int64_t{config.max_positions} + input.tokens_per_block - 1) /
                         input.tokens_per_block;
  const int64_t wanted = std::clamp(fitting / 2, window, 4 * window);
  return Geometry(std::min(wanted, fitting), input);
}

}  // namespace quire
