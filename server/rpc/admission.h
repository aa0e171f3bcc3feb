#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/engine/engine.h"
#include "core/scoring/text_scorer.h"
#include "core/summarize/summary_estimate.h"
#include "quire/v1/inference.pb.h"
#include "server/model_cost.h"
#include "server/rpc/call_context.h"

// Who may come in, as far as an engine decides it, and how a refusal is told.
namespace quire::server {

// The call's tenant with the priority of the request. kInvalidArgument: not in
// [kMinPriority, kMaxPriority]; names the field.
absl::StatusOr<Scheduling> SchedulingOf(const CallContext& call, absl::string_view field,
                                        int32_t priority);

// Fewer tokens than the input is thought to have, without reading it: an eighth of a
// text's bytes; token ids exactly. At least 1.
int64_t LeastTokens(const v1::Input& input);
int64_t LeastTokens(absl::string_view text);

std::vector<PassShape> PassesOf(absl::Span<const SummaryPasses> passes);
std::vector<PassShape> PassesOf(absl::Span<const ScoreWindows> windows);

// What the first pass's request would be. REQUIRES: at least one pass.
RequestShape ShapeOf(absl::Span<const PassShape> passes,
                     const AttentionOptions& attention, const Scheduling& scheduling,
                     absl::Time deadline);

// Whether the engine would take a call of these passes now; asked before there is any
// work for it, so that a refusal costs none. Errors are told as below.
absl::Status CheckAdmission(const Engine& engine, absl::Span<const PassShape> passes,
                            const AttentionOptions& attention,
                            const Scheduling& scheduling, CallContext& call);

// An engine's refusal as the protocol tells it: ErrorInfo REQUEST_TOO_LARGE, or
// WAITING_ROOM_FULL and DEADLINE_UNREACHABLE with RetryInfo; counted. Other statuses are
// returned as they are.
absl::Status ToldAsRefusal(absl::Status status, const Engine& engine, CallContext& call);

// When a client that found no room may try again: the estimated delay of a short request,
// in [0.1 s, 60 s].
absl::Duration RetryDelay(const EngineStats& stats);

}  // namespace quire::server
