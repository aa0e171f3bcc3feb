#include "client/call_state.h"

#include <utility>

#include "client/error_details.h"

namespace quire::client {
namespace {

constexpr char kRequestIdKey[] = "x-request-id";
constexpr char kTenantKey[] = "x-quire-tenant";

absl::Time DeadlineOf(const ClientOptions& options, const CallOptions& call) {
  return absl::Now() +
         (call.deadline > absl::ZeroDuration() ? call.deadline : options.deadline);
}

}  // namespace

CallState::CallState(const ClientOptions& options, const ClientHooks& hooks,
                     CallOptions call)
    : call_(std::move(call)),
      hooks_(hooks),
      deadline_(DeadlineOf(options, call_)),
      backoff_(options.retry, hooks.random),
      request_id_(call_.request_id) {
  if (call_.cancel == nullptr) call_.cancel = std::make_shared<CancelToken>();
}

std::unique_ptr<grpc::ClientContext> CallState::NewContext() const {
  auto context = std::make_unique<grpc::ClientContext>();
  if (deadline_ < absl::InfiniteFuture())
    context->set_deadline(absl::ToChronoTime(deadline_));
  if (!call_.request_id.empty()) context->AddMetadata(kRequestIdKey, call_.request_id);
  if (!call_.tenant.empty()) context->AddMetadata(kTenantKey, call_.tenant);
  return context;
}

bool CallState::WaitToRetry(const absl::Status& error) {
  if (cancel().cancelled()) return false;
  const auto wait = backoff_.NextWait(error, deadline_ - absl::Now());
  if (!wait) return false;
  if (hooks_.on_retry) hooks_.on_retry(error, *wait);
  hooks_.sleep(*wait, cancel());
  return !cancel().cancelled();
}

absl::Status CallState::Finish(const grpc::Status& status,
                               const grpc::ClientContext& context) {
  NoteRequestId(context, /*trailing=*/true);
  if (!status.ok() && cancel().cancelled()) return absl::CancelledError("cancelled");
  return ToAbslStatus(status, request_id_);
}

void CallState::NoteRequestId(const grpc::ClientContext& context, bool trailing) {
  const auto& initial = context.GetServerInitialMetadata();
  if (const auto it = initial.find(kRequestIdKey); it != initial.end()) {
    request_id_.assign(it->second.data(), it->second.size());
  }
  if (!trailing) return;
  const auto& last = context.GetServerTrailingMetadata();
  if (const auto it = last.find(kRequestIdKey); it != last.end()) {
    request_id_.assign(it->second.data(), it->second.size());
  }
}

}  // namespace quire::client
