#pragma once

#include <string>

#include "absl/status/status.h"
#include "google/protobuf/message.h"
#include "grpcpp/support/byte_buffer.h"

namespace quire::server {

// Parses a request ourselves, because gRPC answers UNIMPLEMENTED to a message that
// protobuf cannot parse, and protobuf cannot parse a `string` that is not UTF-8.
// kInvalidArgument: a string is not UTF-8 (names its path and the first bad byte), or the
// bytes are no such message.
absl::Status ParseRequest(const grpc::ByteBuffer& bytes,
                          google::protobuf::Message& message);

}  // namespace quire::server
