#include "server/rpc/admission.h"

#include <algorithm>
#include <utility>

#include "core/base/status_macros.h"
#include "server/rpc/convert.h"
#include "server/rpc/status.h"

namespace quire::server {
namespace {

// Few tokens of a text in any language have as many.
constexpr int64_t kBytesPerToken = 8;
constexpr absl::Duration kMinRetry = absl::Milliseconds(100);
constexpr absl::Duration kMaxRetry = absl::Seconds(60);

int64_t TokensOfBytes(int64_t bytes) {
  return std::max<int64_t>(1, bytes / kBytesPerToken);
}

struct Told {
  Rejection rejection;
  const char* reason;
  bool retry;
};

Told Tell(Refusal refusal) {
  switch (refusal) {
    case Refusal::kTooLarge:
      return {Rejection::kRequestTooLarge, "REQUEST_TOO_LARGE", false};
    case Refusal::kDeadlineTooClose:
      return {Rejection::kDeadlineUnreachable, "DEADLINE_UNREACHABLE", true};
    case Refusal::kWaitingRoomFull:
    case Refusal::kNone:
      break;
  }
  return {Rejection::kWaitingRoomFull, "WAITING_ROOM_FULL", true};
}

}  // namespace

absl::StatusOr<Scheduling> SchedulingOf(const CallContext& call, absl::string_view field,
                                        int32_t priority) {
  QUIRE_RETURN_IF_ERROR(CheckRange(field, priority, kMinPriority, kMaxPriority));
  return Scheduling{
      .priority = priority, .tenant = call.tenant, .call_id = call.request_id};
}

int64_t LeastTokens(absl::string_view text) {
  return TokensOfBytes(static_cast<int64_t>(text.size()));
}

int64_t LeastTokens(const v1::Input& input) {
  if (input.has_token_ids()) return std::max(1, input.token_ids().ids_size());
  int64_t bytes = static_cast<int64_t>(input.text().size());
  for (const v1::ChatMessage& message : input.chat().messages()) {
    bytes += static_cast<int64_t>(message.content().size());
  }
  return TokensOfBytes(bytes);
}

std::vector<PassShape> PassesOf(absl::Span<const SummaryPasses> passes) {
  std::vector<PassShape> result;
  for (const SummaryPasses& alike : passes) {
    result.push_back({alike.prompt_tokens, alike.new_tokens, alike.count});
  }
  return result;
}

std::vector<PassShape> PassesOf(absl::Span<const ScoreWindows> windows) {
  std::vector<PassShape> result;
  for (const ScoreWindows& alike : windows) {
    result.push_back({.prompt_tokens = alike.read_tokens, .count = alike.count});
  }
  return result;
}

RequestShape ShapeOf(absl::Span<const PassShape> passes,
                     const AttentionOptions& attention, const Scheduling& scheduling,
                     absl::Time deadline) {
  const PassShape& first = passes.front();
  RequestShape shape{.prompt_tokens = first.prompt_tokens,
                     .new_tokens = first.new_tokens,
                     .attention = attention,
                     .deadline = deadline,
                     .scheduling = scheduling};
  shape.scheduling.later_prompt_tokens = PromptTokensOf(passes) - first.prompt_tokens;
  shape.scheduling.later_new_tokens = NewTokensOf(passes) - first.new_tokens;
  return shape;
}

absl::Status CheckAdmission(const Engine& engine, absl::Span<const PassShape> passes,
                            const AttentionOptions& attention,
                            const Scheduling& scheduling, CallContext& call) {
  if (passes.empty()) return absl::OkStatus();
  return ToldAsRefusal(
      engine.CheckAdmission(ShapeOf(passes, attention, scheduling, call.deadline)),
      engine, call);
}

absl::Status ToldAsRefusal(absl::Status status, const Engine& engine, CallContext& call) {
  const Refusal refusal = RefusalOf(status);
  if (refusal == Refusal::kNone) return status;
  const Told told = Tell(refusal);
  call.metrics->OnRejected(told.rejection);
  // Without the engine's own mark, which is not for the wire.
  absl::Status refused =
      WithReason(absl::Status(status.code(), status.message()), told.reason);
  return told.retry ? WithRetry(std::move(refused), RetryDelay(engine.stats())) : refused;
}

absl::Duration RetryDelay(const EngineStats& stats) {
  return std::clamp(std::max(stats.first_token_delay, stats.prefill_backlog), kMinRetry,
                    kMaxRetry);
}

}  // namespace quire::server
