#include "server/rpc/batch_call.h"

#include <utility>

#include "absl/strings/strip.h"
#include "core/base/status_macros.h"
#include "server/rpc/event_writer.h"
#include "server/rpc/handlers.h"
#include "server/rpc/parse_request.h"
#include "server/rpc/status.h"

namespace quire::server {
namespace {

v1::ScoreBatchResponse Tagged(const std::string& id, v1::ScoreResponse response) {
  v1::ScoreBatchResponse tagged;
  tagged.set_id(id);
  switch (response.event_case()) {
    case v1::ScoreResponse::kProgress:
      tagged.mutable_progress()->Swap(response.mutable_progress());
      break;
    case v1::ScoreResponse::kScores:
      tagged.mutable_scores()->Swap(response.mutable_scores());
      break;
    case v1::ScoreResponse::kFinal:
      tagged.mutable_final()->Swap(response.mutable_final());
      break;
    case v1::ScoreResponse::kImportance:
      tagged.mutable_importance()->Swap(response.mutable_importance());
      break;
    case v1::ScoreResponse::kSentences:
      tagged.mutable_sentences()->Swap(response.mutable_sentences());
      break;
    case v1::ScoreResponse::EVENT_NOT_SET:
      break;
  }
  return tagged;
}

}  // namespace

BatchCall::BatchCall(CallServices& services, grpc::CallbackServerContext* context)
    : StreamingCall(services, Method::kScoreBatch, context),
      inbox_(services.limits().max_text_bytes) {}

void BatchCall::StartBatch() {
  Start([this](OutputStream& stream, CallContext& call) { return Handle(stream, call); });
  StartRead(&incoming_);
}

// Runs on gRPC's thread and only copies: the work is the handler's.
void BatchCall::OnReadDone(bool ok) {
  if (!ok) {
    // A read fails when the client is done, and when it is gone, even before OnCancel.
    return client_cancelled() ? OnCancel() : inbox_.Close();
  }
  const absl::StatusOr<bool> more = Receive();
  if (!more.ok()) {
    stream().End(more.status());
    inbox_.Close();
  } else if (*more) {
    StartRead(&incoming_);
  }
}

absl::StatusOr<bool> BatchCall::Receive() {
  v1::ScoreBatchRequest message;
  QUIRE_RETURN_IF_ERROR(ParseRequest(incoming_, message));
  incoming_.Clear();
  return inbox_.Push(std::move(message));
}

void BatchCall::OnCancel() {
  StreamingCall::OnCancel();
  inbox_.Close();
}

absl::Status BatchCall::Handle(OutputStream& stream, CallContext& call) {
  // A drain or a slow reader ends the call too, and must wake this thread.
  const auto on_cancel = stream.cancellation().OnCancel([this] { inbox_.Close(); });
  while (true) {
    QUIRE_ASSIGN_OR_RETURN(BatchInbox::Taken taken, inbox_.Take(services().batch_idle()));
    if (!taken.text.has_value()) return absl::OkStatus();
    if (taken.resume) StartRead(&incoming_);
    QUIRE_RETURN_IF_ERROR(ScoreOne(*taken.text, stream, call));
  }
}

// Returns what ends the call; an error of the text itself is told to the client, and the
// others go on.
absl::Status BatchCall::ScoreOne(const BatchText& text, OutputStream& stream,
                                 CallContext& call) {
  EventWriter<v1::ScoreBatchResponse> events(stream);
  absl::Status status = text.status;
  if (status.ok()) {
    status = ScoreInput(
        text.input, text.options,
        [&](v1::ScoreResponse response) {
          return events.Write(Tagged(text.id, std::move(response)));
        },
        call);
  }
  if (status.ok() || stream.cancellation().cancelled() ||
      absl::IsDeadlineExceeded(status)) {
    return status;
  }
  v1::ScoreBatchResponse response;
  response.set_id(text.id);
  response.mutable_error()->set_code(status.raw_code());
  response.mutable_error()->set_reason(ReasonOf(status));
  if (const auto delay = RetryOf(status)) {
    response.mutable_error()->set_retry_seconds(absl::ToDoubleSeconds(*delay));
  }
  // The fields are the same, but they are not in an Input here.
  response.mutable_error()->set_message(
      std::string(absl::StripPrefix(status.message(), "input.")));
  return events.Write(response);
}

}  // namespace quire::server
