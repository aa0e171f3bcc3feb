#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "client/client_options.h"
#include "client/event_stream.h"
#include "client/score_batch.h"
#include "quire/v1/inference.grpc.pb.h"
#include "quire/v1/models.grpc.pb.h"

namespace grpc {
class Channel;
}

namespace quire::client {

// A Quire server's calls. Errors carry the server's code and message; GetErrorDetails()
// has the fields it objects to, its retry delay and the request id. Beside the server's
// codes, every call may end with kInvalidArgument (call options, message larger than the
// limit), kUnavailable (no server there), kDeadlineExceeded and kCancelled. Thread-safe;
// streams may outlive the client.
class Client {
 public:
  // kInvalidArgument names the option. Connects at the first call.
  static absl::StatusOr<Client> Create(ClientOptions options,
                                       ClientHooks hooks = ClientHooks::Default());

  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;
  ~Client();

  // Events: plan, progress and text, final.
  EventStream<v1::SummarizeResponse> Summarize(v1::SummarizeRequest request,
                                               CallOptions call = {}) const;
  // Events: progress, text, final.
  EventStream<v1::GenerateResponse> Generate(v1::GenerateRequest request,
                                             CallOptions call = {}) const;
  // Events: progress, blocks of scores, final. Inputs over 1 MiB go over ScoreBatch in
  // pieces.
  EventStream<v1::ScoreResponse> Score(v1::ScoreRequest request,
                                       CallOptions call = {}) const;
  ScoreBatchStream ScoreBatch(CallOptions call = {}) const;

  absl::StatusOr<v1::TokenizeResponse> Tokenize(const v1::TokenizeRequest& request,
                                                CallOptions call = {}) const;
  absl::StatusOr<v1::DetokenizeResponse> Detokenize(const v1::DetokenizeRequest& request,
                                                    CallOptions call = {}) const;
  absl::StatusOr<v1::CountTokensResponse> CountTokens(
      const v1::CountTokensRequest& request, CallOptions call = {}) const;
  // What a call would take; nothing is computed.
  absl::StatusOr<v1::EstimateCostResponse> EstimateCost(
      const v1::EstimateCostRequest& request, CallOptions call = {}) const;
  // How busy a model is. Arguments and errors as GetModel's.
  absl::StatusOr<v1::Load> GetLoad(const std::string& name, CallOptions call = {}) const;
  // Empty: the server's default model. kNotFound: no such model.
  absl::StatusOr<v1::Model> GetModel(const std::string& name,
                                     CallOptions call = {}) const;
  // The default model first.
  absl::StatusOr<v1::ListModelsResponse> ListModels(CallOptions call = {}) const;

 private:
  struct Rep;
  explicit Client(std::shared_ptr<const Rep> rep);
  std::shared_ptr<const Rep> rep_;
};

}  // namespace quire::client
