#pragma once

#include <grpcpp/server.h>
#include <grpcpp/server_context.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "google/rpc/status.pb.h"
#include "quire/v1/inference.grpc.pb.h"
#include "quire/v1/models.grpc.pb.h"

namespace quire::client::testing {

// What the server does for each method; unset: UNIMPLEMENTED. Run on gRPC's threads.
struct Script {
  template <class Request, class Response>
  using Streaming = std::function<grpc::Status(grpc::ServerContext*, const Request&,
                                               grpc::ServerWriter<Response>*)>;
  template <class Request, class Response>
  using Unary =
      std::function<grpc::Status(grpc::ServerContext*, const Request&, Response*)>;

  Streaming<v1::SummarizeRequest, v1::SummarizeResponse> summarize;
  Streaming<v1::GenerateRequest, v1::GenerateResponse> generate;
  Streaming<v1::ScoreRequest, v1::ScoreResponse> score;
  std::function<grpc::Status(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<v1::ScoreBatchResponse, v1::ScoreBatchRequest>*)>
      score_batch;
  Unary<v1::TokenizeRequest, v1::TokenizeResponse> tokenize;
  Unary<v1::DetokenizeRequest, v1::DetokenizeResponse> detokenize;
  Unary<v1::CountTokensRequest, v1::CountTokensResponse> count_tokens;
  Unary<v1::EstimateCostRequest, v1::EstimateCostResponse> estimate_cost;
  Unary<v1::GetModelRequest, v1::GetModelResponse> get_model;
  Unary<v1::ListModelsRequest, v1::ListModelsResponse> list_models;
  Unary<v1::GetLoadRequest, v1::GetLoadResponse> get_load;
};

// A real gRPC server on a free loopback port that plays a script, with gRPC's default
// limits (4 MiB a message received).
class FakeServer {
 public:
  explicit FakeServer(Script script);
  // Ends the calls that still run. Afterwards what the script wrote may be read.
  ~FakeServer();

  std::string address() const;

 private:
  class Inference;
  class Models;
  std::unique_ptr<Inference> inference_;
  std::unique_ptr<Models> models_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

// A script that answers every method with a small, plausible, fixed answer.
Script HappyScript();

// A status as the real server makes them: with google.rpc details.
grpc::Status ErrorWithField(grpc::StatusCode code, const std::string& message,
                            const std::string& field, const std::string& description);
grpc::Status ErrorWithRetryDelay(grpc::StatusCode code, const std::string& message,
                                 absl::Duration delay);

}  // namespace quire::client::testing
