#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/engine/engine.h"
#include "core/engine/refuse.h"

namespace quire {
namespace {

constexpr char kRefusalPayload[] = "quire/refusal";

absl::Status AtLeast(absl::string_view field, int64_t value, int64_t least) {
  if (value >= least) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("engine.", field, " is ", value, "; it must be >= ", least));
}

}  // namespace

absl::Status EngineOptions::Validate() const {
  QUIRE_RETURN_IF_ERROR(AtLeast("kv.num_blocks", kv.num_blocks, 1));
  QUIRE_RETURN_IF_ERROR(AtLeast("kv.tokens_per_block", kv.tokens_per_block, 1));
  QUIRE_RETURN_IF_ERROR(AtLeast("model.vocab_size", model.vocab_size, 1));
  QUIRE_RETURN_IF_ERROR(AtLeast("model.max_positions", model.max_positions, 1));
  QUIRE_RETURN_IF_ERROR(AtLeast("max_running", max_running, 1));
  QUIRE_RETURN_IF_ERROR(AtLeast("chunk_tokens", chunk_tokens, max_running));
  QUIRE_RETURN_IF_ERROR(AtLeast("max_waiting", max_waiting, 0));
  QUIRE_RETURN_IF_ERROR(AtLeast("max_waiting_tokens", max_waiting_tokens, 0));
  QUIRE_RETURN_IF_ERROR(AtLeast("long_prompt_tokens", long_prompt_tokens, 1));
  QUIRE_RETURN_IF_ERROR(AtLeast("max_long_prefills", max_long_prefills, 1));
  QUIRE_RETURN_IF_ERROR(AtLeast("decode_stretch_percent", decode_stretch_percent, 101));
  QUIRE_RETURN_IF_ERROR(
      AtLeast("max_step in nanoseconds", absl::ToInt64Nanoseconds(max_step), 0));
  return AtLeast("block_bytes", block_bytes, 0);
}

absl::Status Refuse(Refusal refusal, absl::string_view message) {
  absl::Status status = absl::ResourceExhaustedError(message);
  status.SetPayload(kRefusalPayload,
                    absl::Cord(std::to_string(static_cast<int>(refusal))));
  return status;
}

Refusal RefusalOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kRefusalPayload);
  if (!payload.has_value()) return Refusal::kNone;
  for (const Refusal refusal :
       {Refusal::kTooLarge, Refusal::kWaitingRoomFull, Refusal::kDeadlineTooClose}) {
    if (*payload == std::to_string(static_cast<int>(refusal))) return refusal;
  }
  return Refusal::kNone;
}

}  // namespace quire
