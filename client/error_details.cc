#include "client/error_details.h"

#include <grpcpp/support/status.h>

#include <algorithm>

#include "absl/strings/cord.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace quire::client {
namespace {

constexpr std::string_view kTypePrefix = "type.googleapis.com/";
// Ours: from the `x-request-id` metadata, not a message.
constexpr char kRequestIdUrl[] = "quire.v1/x-request-id";
// A hostile server's delay must not overflow what reads it.
constexpr int64_t kMaxDelaySeconds = 24 * 3600;

template <class Message>
std::optional<Message> GetPayload(const absl::Status& status) {
  const std::string url = std::string(kTypePrefix) + Message::descriptor()->full_name();
  const auto payload = status.GetPayload(url);
  Message message;
  if (!payload || !message.ParseFromString(std::string(*payload))) return std::nullopt;
  return message;
}

}  // namespace

ErrorDetails GetErrorDetails(const absl::Status& status) {
  ErrorDetails details;
  if (const auto bad = GetPayload<google::rpc::BadRequest>(status)) {
    for (const auto& violation : bad->field_violations()) {
      details.field_violations.push_back({violation.field(), violation.description()});
    }
  }
  if (const auto retry = GetPayload<google::rpc::RetryInfo>(status)) {
    const int64_t seconds =
        std::clamp<int64_t>(retry->retry_delay().seconds(), 0, kMaxDelaySeconds);
    const int32_t nanos = std::clamp(retry->retry_delay().nanos(), 0, 999'999'999);
    details.retry_delay = absl::Seconds(seconds) + absl::Nanoseconds(nanos);
  }
  if (const auto info = GetPayload<google::rpc::ErrorInfo>(status)) {
    details.reason = info->reason();
  }
  if (const auto id = status.GetPayload(kRequestIdUrl))
    details.request_id = std::string(*id);
  return details;
}

absl::Status ToAbslStatus(const grpc::Status& status, std::string_view request_id) {
  if (status.ok()) return absl::OkStatus();
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()),
                      status.error_message());
  google::rpc::Status details;
  if (details.ParseFromString(status.error_details())) {
    for (const auto& detail : details.details()) {
      result.SetPayload(detail.type_url(), absl::Cord(detail.value()));
    }
  }
  if (!request_id.empty())
    result.SetPayload(kRequestIdUrl, absl::Cord(std::string(request_id)));
  return result;
}

}  // namespace quire::client
