#include "server/rpc/call_services.h"

#include <algorithm>
#include <random>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/rpc/admission.h"
#include "server/rpc/call_record.h"
#include "server/rpc/status.h"

namespace quire::server {
namespace {

constexpr size_t kMaxRequestIdBytes = 128;
constexpr char kTenantKey[] = "x-quire-tenant";
constexpr int kShortThreads = 2;
constexpr int kShortQueued = 256;

uint64_t RandomSeed() {
  thread_local std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

bool IsPrintable(absl::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return c >= ' ' && c <= '~'; });
}

absl::StatusOr<std::string> TenantOf(const grpc::CallbackServerContext& context) {
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find(kTenantKey);
  if (found == metadata.end()) return std::string();
  std::string tenant(found->second.data(), found->second.size());
  if (!tenant.empty() && tenant.size() <= kMaxTenantBytes && IsPrintable(tenant)) {
    return tenant;
  }
  return InvalidField(
      kTenantKey, absl::StrCat(kTenantKey, " is ", Quoted(tenant), ", ", tenant.size(),
                               " bytes; it must have 1 to ", kMaxTenantBytes,
                               " printable ASCII characters"));
}

// The client's own id if it is 1 to 128 printable ASCII characters, else a new one.
std::string RequestIdOf(const grpc::CallbackServerContext& context) {
  const auto& metadata = context.client_metadata();
  if (const auto found = metadata.find("x-request-id"); found != metadata.end()) {
    const std::string id(found->second.data(), found->second.size());
    if (IsPrintable(id) && !id.empty() && id.size() <= kMaxRequestIdBytes) return id;
  }
  return absl::StrFormat("%016x", RandomSeed());
}

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max())
    return absl::InfiniteFuture();
  return absl::FromChrono(deadline);
}

}  // namespace

CallServices::CallServices(const CallServicesOptions& options, ServingState& state,
                           Metrics& metrics, Log& log, const Clock& clock,
                           RequestLog* requests)
    : options_(options),
      state_(state),
      metrics_(metrics),
      log_(log),
      clock_(clock),
      requests_(requests),
      short_calls_(kShortThreads, kShortQueued),
      long_calls_(options.models * (options.max_running + options.max_waiting), 0) {}

CallContext CallServices::MakeContext(Method method,
                                      grpc::CallbackServerContext& context) const {
  CallContext call{.method = method,
                   .request_id = RequestIdOf(context),
                   .arrival = clock_.Now(),
                   .deadline = DeadlineOf(context),
                   .limits = options_.limits,
                   .defaults = options_.defaults,
                   .terms = options_.terms,
                   .clock = &clock_,
                   .metrics = &metrics_,
                   .answered = &answered_,
                   .random_seed = RandomSeed};
  if (auto tenant = TenantOf(context); tenant.ok()) {
    call.tenant = *std::move(tenant);
  } else {
    call.wrong_metadata = tenant.status();
  }
  context.AddInitialMetadata("x-request-id", call.request_id);
  return call;
}

absl::StatusOr<ServingState::Ticket> CallServices::Admit(
    CallContext& call, std::function<void(const absl::Status&)> end) {
  if (!call.wrong_metadata.ok()) return call.wrong_metadata;
  if (PassedDeadline(call)) {
    return absl::DeadlineExceededError("the deadline had passed when the call arrived");
  }
  // Who spreads the load must be able to see that this server goes.
  const bool while_draining = call.method == Method::kGetLoad;
  absl::StatusOr<ServingState::Ticket> ticket =
      state_.Admit(std::move(end), while_draining);
  if (ticket.ok()) {
    call.models = &ticket->models();
    call.draining = state_.phase() == ServingState::Phase::kDraining;
  } else {
    metrics_.OnRejected(ReasonOf(ticket.status()) == "LOADING" ? Rejection::kLoading
                                                               : Rejection::kDraining);
  }
  return ticket;
}

absl::Status CallServices::Full(const CallContext& call) {
  metrics_.OnRejected(Rejection::kWaitingRoomFull);
  const bool computes = call.cancellation != nullptr;
  const std::string message =
      computes
          ? absl::StrCat("max_running is ", options_.max_running, " and max_waiting ",
                         options_.max_waiting, "; as many calls are in work already")
          : absl::StrCat(kShortQueued, " calls of this kind wait already");
  // Which model it is for is not known yet.
  const absl::Duration delay =
      computes ? RetryDelay(call.models->models().front()->text.engine->stats())
               : absl::Seconds(1);
  return WithRetry(WithReason(absl::ResourceExhaustedError(message), "WAITING_ROOM_FULL"),
                   delay);
}

bool CallServices::PassedDeadline(const CallContext& call) const {
  return clock_.Now() >= call.deadline;
}

bool CallServices::BrokenOffByDeadline(const CallContext& call) const {
  if (call.deadline == absl::InfiniteFuture()) return false;
  const absl::Duration slack =
      std::max(absl::Milliseconds(50), (call.deadline - call.arrival) / 100);
  return clock_.Now() + slack >= call.deadline;
}

void CallServices::Report(const CallContext& call, const absl::Status& status) {
  const absl::Duration elapsed = call.Elapsed();
  if (call.time_to_first_token.has_value()) answered_.End();
  const bool computes = call.cancellation != nullptr && call.models != nullptr;
  if (computes && (absl::IsCancelled(status) || absl::IsDeadlineExceeded(status))) {
    metrics_.OnCancelled(call.stage);
  }
  if (computes && status.ok()) metrics_.OnQueued(call.timings.queue);
  if (computes && requests_ != nullptr) requests_->Add(RecordOf(call, status));
  // Last: who has seen the call counted finds all else of it counted too.
  metrics_.OnCall(call.method, status.code(), elapsed);

  LogFields fields = {{"request_id", call.request_id},
                      {"method", std::string(MethodName(call.method))},
                      {"code", CodeName(status.code())},
                      {"seconds", absl::ToDoubleSeconds(elapsed)}};
  if (!call.tenant.empty()) fields.emplace_back("tenant", call.tenant);
  if (!call.model.empty()) fields.emplace_back("model", call.model);
  if (computes && status.ok()) {
    fields.emplace_back("prompt_tokens", call.usage.prompt_tokens);
    fields.emplace_back("generated_tokens", call.usage.generated_tokens);
    fields.emplace_back("cached_tokens", call.usage.cached_tokens);
    fields.emplace_back("queue_seconds", absl::ToDoubleSeconds(call.timings.queue));
    fields.emplace_back("prefill_seconds", absl::ToDoubleSeconds(call.timings.prefill));
    fields.emplace_back("decode_seconds", absl::ToDoubleSeconds(call.timings.decode));
  }
  // Messages of refusals may hold what the client sent; the field's path does not.
  if (const std::string field = FieldOf(status); !field.empty()) {
    fields.emplace_back("field", field);
  }
  if (const std::string reason = ReasonOf(status); !reason.empty()) {
    fields.emplace_back("reason", reason);
  }
  const bool ours = absl::IsInternal(status) || absl::IsUnknown(status) ||
                    absl::IsDataLoss(status) || absl::IsUnimplemented(status);
  if (ours) fields.emplace_back("error", std::string(status.message()));
  log_.Write(ours ? LogLevel::kError : LogLevel::kInfo, "call", fields);
}

}  // namespace quire::server
