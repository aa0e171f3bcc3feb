#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "grpcpp/support/status.h"

// Errors with google.rpc details. Inside the server an error is an absl::Status whose
// payloads are the details (type URL -> serialised message); ToGrpcStatus puts them on
// the wire.
namespace quire::server {

inline constexpr absl::string_view kErrorDomain = "quire";

// kInvalidArgument with BadRequest{field, description} and ErrorInfo INVALID_FIELD.
// `description` is a whole sentence that names the field, the limit and the value.
absl::Status InvalidField(absl::string_view field, absl::string_view description);

// For errors of the core's validation, whose messages begin with the field
// ("sampling.top_p is 1.5; ..."): a kInvalidArgument status gets that field as its
// BadRequest. Others, and those that have details already, are returned as they are.
absl::Status WithFieldOfMessage(absl::Status status);

// Adds ErrorInfo{reason, "quire"}; `reason` is UPPER_SNAKE_CASE.
absl::Status WithReason(absl::Status status, absl::string_view reason);

// Adds RetryInfo.
absl::Status WithRetry(absl::Status status, absl::Duration delay);

// The field and the reason in the details, or "".
std::string FieldOf(const absl::Status& status);
std::string ReasonOf(const absl::Status& status);
// RetryInfo's delay.
std::optional<absl::Duration> RetryOf(const absl::Status& status);

// Codes keep their numbers. Messages are cut to 1,000 bytes, so that clients' header
// limits are kept.
grpc::Status ToGrpcStatus(const absl::Status& status);

// "CANCELLED" and so on: the names of the gRPC codes.
std::string CodeName(absl::StatusCode code);

// A string of a client in quotes for a message: escaped, cut after 64 bytes.
std::string Quoted(absl::string_view value);

}  // namespace quire::server
