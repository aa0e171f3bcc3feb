#include "server/rpc/status.h"

#include <optional>

#include "absl/strings/cord.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace quire::server {
namespace {

constexpr size_t kMaxMessageBytes = 1000;
constexpr size_t kMaxQuotedBytes = 64;

template <typename Detail>
std::string TypeUrl() {
  return absl::StrCat("type.googleapis.com/", Detail::descriptor()->full_name());
}

template <typename Detail>
absl::Status WithDetail(absl::Status status, const Detail& detail) {
  status.SetPayload(TypeUrl<Detail>(), absl::Cord(detail.SerializeAsString()));
  return status;
}

template <typename Detail>
std::optional<Detail> GetDetail(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(TypeUrl<Detail>());
  Detail detail;
  if (!payload.has_value() || !detail.ParseFromString(std::string(*payload))) {
    return std::nullopt;
  }
  return detail;
}

// Cuts before the first byte of a character, never inside one.
absl::string_view CutUtf8(absl::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return text;
  while (max_bytes > 0 && (static_cast<unsigned char>(text[max_bytes]) & 0xC0) == 0x80) {
    --max_bytes;
  }
  return text.substr(0, max_bytes);
}

// "sampling.top_p" of "sampling.top_p is 1.5; ...", or "" if the first word is no field
// path.
absl::string_view FieldOfMessage(absl::string_view message) {
  const absl::string_view word = message.substr(0, message.find(' '));
  for (const char c : word) {
    const bool path = absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '_' ||
                      c == '.' || c == '[' || c == ']';
    if (!path) return "";
  }
  return word;
}

}  // namespace

absl::Status InvalidField(absl::string_view field, absl::string_view description) {
  google::rpc::BadRequest bad_request;
  auto* violation = bad_request.add_field_violations();
  violation->set_field(std::string(field));
  violation->set_description(std::string(description));
  return WithReason(WithDetail(absl::InvalidArgumentError(description), bad_request),
                    "INVALID_FIELD");
}

absl::Status WithFieldOfMessage(absl::Status status) {
  if (!absl::IsInvalidArgument(status) || !FieldOf(status).empty()) return status;
  const absl::string_view field = FieldOfMessage(status.message());
  return field.empty() ? status : InvalidField(field, status.message());
}

absl::Status WithReason(absl::Status status, absl::string_view reason) {
  google::rpc::ErrorInfo info;
  info.set_reason(std::string(reason));
  info.set_domain(std::string(kErrorDomain));
  return WithDetail(std::move(status), info);
}

absl::Status WithRetry(absl::Status status, absl::Duration delay) {
  google::rpc::RetryInfo retry;
  const int64_t seconds = absl::IDivDuration(delay, absl::Seconds(1), &delay);
  retry.mutable_retry_delay()->set_seconds(seconds);
  retry.mutable_retry_delay()->set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(delay)));
  return WithDetail(std::move(status), retry);
}

std::string FieldOf(const absl::Status& status) {
  const auto bad_request = GetDetail<google::rpc::BadRequest>(status);
  if (!bad_request.has_value() || bad_request->field_violations().empty()) return "";
  return bad_request->field_violations(0).field();
}

std::string ReasonOf(const absl::Status& status) {
  const auto info = GetDetail<google::rpc::ErrorInfo>(status);
  return info.has_value() ? info->reason() : "";
}

std::optional<absl::Duration> RetryOf(const absl::Status& status) {
  const auto retry = GetDetail<google::rpc::RetryInfo>(status);
  if (!retry.has_value()) return std::nullopt;
  return absl::Seconds(retry->retry_delay().seconds()) +
         absl::Nanoseconds(retry->retry_delay().nanos());
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const std::string message(CutUtf8(status.message(), kMaxMessageBytes));
  google::rpc::Status wire;
  wire.set_code(status.raw_code());
  wire.set_message(message);
  status.ForEachPayload([&](absl::string_view type_url, const absl::Cord& payload) {
    google::protobuf::Any* any = wire.add_details();
    any->set_type_url(std::string(type_url));
    any->set_value(std::string(payload));
  });
  const std::string details = wire.details().empty() ? "" : wire.SerializeAsString();
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message, details);
}

std::string CodeName(absl::StatusCode code) { return absl::StatusCodeToString(code); }

std::string Quoted(absl::string_view value) {
  const absl::string_view cut = CutUtf8(value, kMaxQuotedBytes);
  return absl::StrCat("'", absl::Utf8SafeCHexEscape(cut),
                      cut.size() < value.size() ? "...'" : "'");
}

}  // namespace quire::server
