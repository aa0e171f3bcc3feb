#pragma once

#include "absl/status/statusor.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/rpc/batch_inbox.h"
#include "server/rpc/streaming_call.h"

namespace quire::server {

// A ScoreBatch call: reads into an inbox while the handler scores one text after the
// other.
class BatchCall final
    : public StreamingCall<grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>> {
 public:
  BatchCall(CallServices& services, grpc::CallbackServerContext* context);

  // Once.
  void StartBatch();

  void OnReadDone(bool ok) override;
  void OnCancel() override;

 private:
  absl::StatusOr<bool> Receive();
  absl::Status Handle(OutputStream& stream, CallContext& call);
  absl::Status ScoreOne(const BatchText& text, OutputStream& stream, CallContext& call);

  BatchInbox inbox_;
  grpc::ByteBuffer incoming_;
};

}  // namespace quire::server
