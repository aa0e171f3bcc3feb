#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/sync_stream.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/call_state.h"
#include "quire/v1/inference.grpc.pb.h"

namespace quire::client {

// Many texts over one call. One thread sends, another (or the same, after Done) reads;
// Cancel from any. Never tried again by itself: the texts sent are gone. Destroying it
// cancels a call that has not ended.
class ScoreBatchStream {
 public:
  ScoreBatchStream(CallState state, v1::InferenceService::StubInterface& stub);
  // A call that was never made, because its arguments are wrong.
  ScoreBatchStream(CallState state, absl::Status error);
  ScoreBatchStream(ScoreBatchStream&&) noexcept = default;
  ScoreBatchStream& operator=(ScoreBatchStream&&) = delete;
  ~ScoreBatchStream();

  // Sends one text in messages of at most 512 KiB of it; blocks while the server is slow.
  // kAborted: the call has ended; Next() says why.
  absl::Status Send(const std::string& id, const v1::ScoreRequest& request);
  // No more texts. As Send().
  absl::Status Done();
  // The next event of any text; nullopt: the call ended well.
  absl::StatusOr<std::optional<v1::ScoreBatchResponse>> Next();
  void Cancel() { state_->cancel().Cancel(); }

 private:
  std::unique_ptr<CallState> state_;
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<AttachedContext> attached_;
  std::unique_ptr<
      grpc::ClientReaderWriterInterface<v1::ScoreBatchRequest, v1::ScoreBatchResponse>>
      stream_;
  std::optional<absl::Status> end_;  // the reading side's
};

// One text in pieces, read as if it had gone over Score.
class PiecedScoreReader final : public grpc::ClientReaderInterface<v1::ScoreResponse> {
 public:
  // Sends everything; the request need only live until this returns.
  PiecedScoreReader(grpc::ClientContext* context,
                    v1::InferenceService::StubInterface& stub,
                    const v1::ScoreRequest& request);

  bool NextMessageSize(uint32_t* size) override { return stream_->NextMessageSize(size); }
  void WaitForInitialMetadata() override { stream_->WaitForInitialMetadata(); }
  bool Read(v1::ScoreResponse* response) override;
  // The text's own error, if it had one.
  grpc::Status Finish() override;

 private:
  std::unique_ptr<
      grpc::ClientReaderWriterInterface<v1::ScoreBatchRequest, v1::ScoreBatchResponse>>
      stream_;
  grpc::Status error_;
};

}  // namespace quire::client
