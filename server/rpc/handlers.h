#pragma once

#include <functional>

#include "absl/status/status.h"
#include "quire/v1/inference.pb.h"
#include "quire/v1/models.pb.h"
#include "server/rpc/call_context.h"
#include "server/rpc/event_writer.h"

// What each call does, from the request to its answers, on one thread of the server's
// own. A handler knows nothing of gRPC: the transport parses, runs it and ends the call
// with what it returns. Errors carry google.rpc details, see status.h.
namespace quire::server {

absl::Status HandleGenerate(const v1::GenerateRequest& request,
                            EventWriter<v1::GenerateResponse>& events, CallContext& call);
absl::Status HandleSummarize(const v1::SummarizeRequest& request,
                             EventWriter<v1::SummarizeResponse>& events,
                             CallContext& call);
absl::Status HandleScore(const v1::ScoreRequest& request,
                         EventWriter<v1::ScoreResponse>& events, CallContext& call);

absl::Status HandleTokenize(const v1::TokenizeRequest& request,
                            v1::TokenizeResponse& response, CallContext& call);
absl::Status HandleDetokenize(const v1::DetokenizeRequest& request,
                              v1::DetokenizeResponse& response, CallContext& call);
absl::Status HandleCountTokens(const v1::CountTokensRequest& request,
                               v1::CountTokensResponse& response, CallContext& call);
absl::Status HandleEstimateCost(const v1::EstimateCostRequest& request,
                                v1::EstimateCostResponse& response, CallContext& call);
absl::Status HandleGetLoad(const v1::GetLoadRequest& request,
                           v1::GetLoadResponse& response, CallContext& call);
absl::Status HandleGetModel(const v1::GetModelRequest& request,
                            v1::GetModelResponse& response, CallContext& call);
absl::Status HandleListModels(const v1::ListModelsRequest& request,
                              v1::ListModelsResponse& response, CallContext& call);

// The part that Score and ScoreBatch share: scores one text, which may be moved from, and
// hands its events to `emit`.
using EmitScore = std::function<absl::Status(v1::ScoreResponse)>;
absl::Status ScoreInput(const v1::Input& input, const v1::ScoreOptions& options,
                        const EmitScore& emit, CallContext& call);

}  // namespace quire::server
