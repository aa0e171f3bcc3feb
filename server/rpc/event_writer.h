#pragma once

#include <string>

#include "absl/status/status.h"
#include "grpcpp/support/byte_buffer.h"
#include "server/rpc/output_stream.h"

namespace quire::server {

// Serialised on the calling thread. The message is one of ours and always fits.
template <typename Message>
grpc::ByteBuffer ToByteBuffer(const Message& message) {
  const std::string bytes = message.SerializeAsString();
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

// A stream's typed side: what a handler writes its answers to.
template <typename Response>
class EventWriter {
 public:
  explicit EventWriter(OutputStream& stream) : stream_(stream) {}
  // See OutputStream::Write.
  absl::Status Write(const Response& response) {
    return stream_.Write(ToByteBuffer(response));
  }

 private:
  OutputStream& stream_;
};

}  // namespace quire::server
