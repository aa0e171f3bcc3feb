#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace grpc {
class Status;
}

namespace quire::client {

struct FieldViolation {
  std::string field;  // "sampling.top_p"
  std::string description;
};

// What a server said about an error beside its code and message.
struct ErrorDetails {
  std::vector<FieldViolation> field_violations;  // google.rpc.BadRequest
  std::optional<absl::Duration> retry_delay;     // google.rpc.RetryInfo
  std::string reason;                            // google.rpc.ErrorInfo
  std::string request_id;                        // find it in the server's log
};

// Of a status that this library returned; empty fields where the server said nothing.
ErrorDetails GetErrorDetails(const absl::Status& status);

// The status with the details of `grpc-status-details-bin` as payloads under their type
// URLs. Details that cannot be parsed are left out: the code and message still count.
absl::Status ToAbslStatus(const grpc::Status& status, std::string_view request_id);

}  // namespace quire::client
