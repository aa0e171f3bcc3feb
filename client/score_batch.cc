#include "client/score_batch.h"

#include <utility>

#include "client/score_pieces.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace quire::client {
namespace {

constexpr char kOnlyText[] = "text";  // the id of a call that carries one text

absl::Status CallEnded() {
  return absl::AbortedError("the call has ended; Next() says why");
}

// The event of a ScoreBatch call as Score has it; false: it is an error.
bool MoveEvent(v1::ScoreBatchResponse& from, v1::ScoreResponse* to) {
  to->Clear();
  if (from.has_progress()) to->mutable_progress()->Swap(from.mutable_progress());
  if (from.has_scores()) to->mutable_scores()->Swap(from.mutable_scores());
  if (from.has_importance()) to->mutable_importance()->Swap(from.mutable_importance());
  if (from.has_sentences()) to->mutable_sentences()->Swap(from.mutable_sentences());
  if (from.has_final()) to->mutable_final()->Swap(from.mutable_final());
  return !from.has_error();
}

// As the server would have ended a call of its own.
grpc::Status ToGrpcStatus(const v1::ScoreError& error) {
  google::rpc::Status wire;
  wire.set_code(error.code());
  wire.set_message(error.message());
  if (!error.reason().empty()) {
    google::rpc::ErrorInfo info;
    info.set_reason(error.reason());
    info.set_domain("quire");
    wire.add_details()->PackFrom(info);
  }
  if (error.has_retry_seconds()) {
    google::rpc::RetryInfo retry;
    auto& delay = *retry.mutable_retry_delay();
    delay.set_seconds(static_cast<int64_t>(error.retry_seconds()));
    delay.set_nanos(static_cast<int32_t>(
        1e9 * (error.retry_seconds() - static_cast<double>(delay.seconds()))));
    wire.add_details()->PackFrom(retry);
  }
  return {static_cast<grpc::StatusCode>(error.code()), error.message(),
          wire.details().empty() ? "" : wire.SerializeAsString()};
}

}  // namespace

ScoreBatchStream::ScoreBatchStream(CallState state,
                                   v1::InferenceService::StubInterface& stub)
    : state_(std::make_unique<CallState>(std::move(state))),
      context_(state_->NewContext()),
      attached_(std::make_unique<AttachedContext>(state_->cancel(), *context_)),
      stream_(stub.ScoreBatch(context_.get())) {}

ScoreBatchStream::ScoreBatchStream(CallState state, absl::Status error)
    : state_(std::make_unique<CallState>(std::move(state))), end_(std::move(error)) {}

ScoreBatchStream::~ScoreBatchStream() {
  if (stream_ == nullptr || end_) return;
  context_->TryCancel();
  stream_->Finish();
}

absl::Status ScoreBatchStream::Send(const std::string& id,
                                    const v1::ScoreRequest& request) {
  if (stream_ == nullptr) return CallEnded();
  ScorePieces pieces(id, request);
  while (auto piece = pieces.Next()) {
    if (!stream_->Write(*piece)) return CallEnded();
  }
  return absl::OkStatus();
}

absl::Status ScoreBatchStream::Done() {
  if (stream_ == nullptr || !stream_->WritesDone()) return CallEnded();
  return absl::OkStatus();
}

absl::StatusOr<std::optional<v1::ScoreBatchResponse>> ScoreBatchStream::Next() {
  if (!end_) {
    if (v1::ScoreBatchResponse response; stream_->Read(&response)) return response;
    end_ = state_->Finish(stream_->Finish(), *context_);
  }
  if (!end_->ok()) return *end_;
  return std::optional<v1::ScoreBatchResponse>();
}

PiecedScoreReader::PiecedScoreReader(grpc::ClientContext* context,
                                     v1::InferenceService::StubInterface& stub,
                                     const v1::ScoreRequest& request)
    : stream_(stub.ScoreBatch(context)) {
  ScorePieces pieces(kOnlyText, request);
  while (auto piece = pieces.Next()) {
    // A refused write means that the call is over; reading says why.
    if (!stream_->Write(*piece)) return;
  }
  stream_->WritesDone();
}

bool PiecedScoreReader::Read(v1::ScoreResponse* response) {
  v1::ScoreBatchResponse event;
  if (!stream_->Read(&event)) return false;
  if (MoveEvent(event, response)) return true;
  error_ = ToGrpcStatus(event.error());
  return false;
}

grpc::Status PiecedScoreReader::Finish() {
  // Finish wants the stream read to its end.
  v1::ScoreBatchResponse rest;
  while (!error_.ok() && stream_->Read(&rest)) {
  }
  grpc::Status status = stream_->Finish();
  return status.ok() ? error_ : status;
}

}  // namespace quire::client
